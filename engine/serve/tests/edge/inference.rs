//! Token ids in, token ids out, and the renders that make such requests.

use serde_json::{Value, json};

use crate::server::{Server, cpu, instant, scripted};
use crate::tokens::{ids, llama, oracle};

const GENERATE: &str = "/inference/v1/generate";

#[tokio::test]
async fn ids_go_in_and_come_out() {
    let server = Server::start(llama()).await;
    let prompt: Vec<u32> = (0..20).collect();
    let mut body = json!({
        "token_ids": prompt, "sampling_params": {"max_tokens": 6, "temperature": 0, "ignore_eos": true}, "return_token_ids": true,
        "request_id": "r", "model": "m",
    });
    let whole = server.post(GENERATE, &body).await.json();
    assert_eq!((&whole["request_id"], &whole["output_mode"]), (&json!("generate-tokens-r"), &json!("tokens")), "{whole}");
    let choice = &whole["choices"][0];
    assert_eq!((ids(&choice["token_ids"]), &choice["finish_reason"]), (oracle(&prompt, 6, None), &json!("length")));
    assert_eq!((&whole["prompt_token_ids"], &whole["usage"]["total_tokens"]), (&json!(prompt), &json!(26)));
    assert_eq!(choice.get("text"), None);
    (body["stream"], body["stream_options"]) = (json!(true), json!({"include_usage": true}));
    let events = server.post(GENERATE, &body).await.events();
    let chunks: Vec<Value> = events[..events.len() - 1].iter().map(|event| serde_json::from_str(event).expect("JSON")).collect();
    let seen: Vec<u32> = chunks
        .iter()
        .flat_map(|chunk| chunk["choices"].as_array().cloned().unwrap_or_default())
        .flat_map(|choice| ids(&choice["token_ids"]))
        .collect();
    assert_eq!(seen, oracle(&prompt, 6, None));
    assert_eq!((&chunks[0]["prompt_token_ids"], chunks[1].get("prompt_token_ids")), (&json!(prompt), None), "once");
    assert_eq!(chunks[chunks.len() - 1]["usage"]["completion_tokens"], 6);
    let unlimited = json!({"token_ids": prompt, "sampling_params": {"temperature": 0, "ignore_eos": true}});
    assert_eq!(server.post(GENERATE, &unlimited).await.json()["usage"]["total_tokens"], 1024, "the context is the limit");
    for (body, param) in [
        (json!({"sampling_params": {}}), "token_ids"),
        (json!({"token_ids": [], "sampling_params": {}}), "token_ids"),
        (json!({"token_ids": [-1], "sampling_params": {}}), "token_ids"),
        (json!({"token_ids": [1]}), "sampling_params"),
        (json!({"token_ids": [1], "sampling_params": {"top_p": 7}}), "top_p"),
        (json!({"token_ids": [1], "sampling_params": {}, "output_mode": "derender"}), "output_mode"),
        (json!({"token_ids": [1], "sampling_params": {}, "features": {"a": 1}}), "features"),
    ] {
        let answer = server.post(GENERATE, &body).await;
        assert_eq!((answer.status.as_u16(), &answer.json()["error"]["param"]), (400, &json!(param)), "{}", answer.text());
    }
    server.stop().await.expect("a clean end");
}

#[tokio::test]
async fn text_and_log_probabilities_come_where_they_are_asked_for() {
    let server = Server::start(cpu(scripted())).await;
    let mut body =
        json!({"token_ids": [55], "sampling_params": {"max_tokens": 2, "temperature": 0, "logprobs": 1}, "output_mode": "text"});
    let choice = server.post(GENERATE, &body).await.json()["choices"][0].clone();
    assert_eq!((&choice["text"], &choice["logprobs"]["content"][1]["token"]), (&json!("89"), &json!("9")));
    body["output_mode"] = json!("tokens");
    let choice = server.post(GENERATE, &body).await.json()["choices"][0].clone();
    let first = &choice["logprobs"]["content"][0];
    assert_eq!((&first["token_id"], &first["rank"], &first["top_logprobs"][0]["token_id"]), (&json!(56), &json!(1), &json!(56)));
    server.stop().await.expect("a clean end");
}

#[tokio::test]
async fn what_is_rendered_runs_as_the_request_itself() {
    let server = Server::start(instant(scripted())).await;
    let check = async |path: &str, body: Value| {
        let mut body = body;
        (body["max_tokens"], body["ignore_eos"], body["return_token_ids"]) = (json!(7), json!(true), json!(true));
        (body["seed"], body["temperature"]) = (json!(5), json!(1));
        let rendered = server.post(&format!("{path}/render"), &body).await.json();
        let rendered = rendered.get(0).unwrap_or(&rendered).clone();
        let direct = server.post(path, &body).await.json()["choices"][0]["token_ids"].clone();
        let generated = server.post(GENERATE, &rendered).await.json()["choices"][0]["token_ids"].clone();
        assert_eq!((&generated, generated.as_array().map(Vec::len)), (&direct, Some(7)), "{rendered}");
    };
    check("/v1/chat/completions", json!({"messages": [{"role": "user", "content": "hello"}]})).await;
    check("/v1/completions", json!({"prompt": ["hello"]})).await;
    server.stop().await.expect("a clean end");
}
