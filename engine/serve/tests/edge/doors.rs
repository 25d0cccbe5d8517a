//! Endpoints of vLLM that lead to the usual ones by another way: batches, `/invocations`, `/derender`, aborts by id, `/tokenizer_info`.

use http::StatusCode;
use serde_json::{Value, json};

use crate::client::Open;
use crate::server::{Server, cpu, fake, instant, path, scripted};

fn user(text: &str) -> Value {
    json!([{"role": "user", "content": text}])
}

#[tokio::test]
async fn a_batch_of_chats_is_each_of_them() {
    let server = Server::start(cpu(scripted())).await;
    let shared = json!({"max_tokens": 6, "temperature": 0, "ignore_eos": true, "logprobs": true});
    let with = |messages: Value| {
        let mut body = shared.clone();
        body["messages"] = messages;
        body
    };
    let batch = server.post("/v1/chat/completions/batch", &with(json!([user("x"), user("7"), user("E")]))).await.json();
    let mut tokens = 0;
    for (index, text) in ["x", "7", "E"].iter().enumerate() {
        let mut one = server.post(path("chat"), &with(user(text))).await.json();
        tokens += one["usage"]["total_tokens"].as_u64().expect("a number");
        one["choices"][0]["index"] = index.into();
        assert_eq!(batch["choices"][index], one["choices"][0], "{text}");
    }
    assert_eq!((&batch["object"], &batch["usage"]["total_tokens"]), (&json!("chat.completion"), &json!(tokens)));
    for (body, param) in [
        (with(json!([])), "messages"),
        (with(user("x")), "messages"),
        (with(json!([[]])), "messages"),
        (json!({"messages": [user("x")], "stream": true}), "stream"),
        (json!({"messages": [user("x")], "n": 2, "temperature": 1}), "n"),
        (json!({"messages": [user("x")], "tools": [{"type": "function", "function": {"name": "f"}}]}), "tools"),
        (json!({"messages": [user("x")], "temperature": 3}), "temperature"),
    ] {
        let answer = server.post("/v1/chat/completions/batch", &body).await;
        assert_eq!((answer.status.as_u16(), &answer.json()["error"]["param"]), (400, &json!(param)), "{body}");
    }
    server.stop().await.expect("a clean end");
}

#[tokio::test]
async fn invocations_lead_where_the_body_belongs() {
    let server = Server::start(cpu(scripted())).await;
    let rest = json!({"max_tokens": 4, "temperature": 0, "ignore_eos": true});
    for (name, key, value) in [("chat", "messages", user("x")), ("text", "prompt", json!("x"))] {
        let mut body = rest.clone();
        body[key] = value;
        let (direct, led) = (server.post(path(name), &body).await.json(), server.post("/invocations", &body).await.json());
        assert_eq!((&direct["object"], &direct["choices"]), (&led["object"], &led["choices"]));
        body["stream"] = true.into();
        assert_eq!(server.post("/invocations", &body).await.events().last().map(String::as_str), Some("[DONE]"));
        let adapter = server.post_with("/invocations", &[("x-amzn-sagemaker-adapter-identifier", "none")], &body).await;
        assert_eq!((adapter.status, &adapter.json()["error"]["param"]), (StatusCode::NOT_FOUND, &json!("model")));
    }
    let nowhere = server.post("/invocations", &rest).await;
    assert_eq!(nowhere.status, StatusCode::BAD_REQUEST);
    assert!(nowhere.text().contains("Cannot find suitable handler"), "{}", nowhere.text());
    server.stop().await.expect("a clean end");
}

/// What is rendered, generated as ids and derendered is what the usual endpoint answers.
#[tokio::test]
async fn render_generate_and_derender_are_one_answer() {
    let server = Server::start(cpu(scripted())).await;
    for (extra, key) in [
        (json!({"max_tokens": 9, "ignore_eos": true}), "chat"),
        (json!({"max_tokens": 9, "ignore_eos": true}), "text"),
        (json!({"max_tokens": 9, "stop": ["\nUser:"]}), "text"),
        (json!({"max_tokens": 9, "stop": ["ser"], "include_stop_str_in_output": true}), "chat"),
    ] {
        let mut body = extra;
        body["temperature"] = 0.into();
        body["return_token_ids"] = true.into();
        match key {
            "chat" => body["messages"] = user(">"),
            _ => body["prompt"] = json!(">"),
        }
        let expected = server.post(path(key), &body).await.json();
        let rendered = server.post(&format!("{}/render", path(key)), &body).await.json();
        let rendered = if key == "chat" { rendered } else { rendered[0].clone() };
        let generated = server.post("/inference/v1/generate", &rendered).await.json();
        let derender = match key {
            "chat" => json!({"generate_response": generated, "chat_request": body, "prompt_token_ids": rendered["token_ids"]}),
            _ => json!({"generate_responses": [generated], "completion_request": body, "prompt_tokens": [1]}),
        };
        let answer = server.post(&format!("{}/derender", path(key)), &derender).await.json();
        for field in ["text", "message", "finish_reason", "stop_reason"] {
            assert_eq!(answer["choices"][0][field], expected["choices"][0][field], "{field} of {body}: {answer}");
        }
        assert_eq!(answer["usage"]["completion_tokens"], expected["usage"]["completion_tokens"], "{body}");
    }
    let choice = json!({"index": 0, "token_ids": [120], "finish_reason": "length"});
    let chat = |choice: Value| json!({"generate_response": {"request_id": "r", "choices": [choice]}});
    let good = server.post("/v1/chat/completions/derender", &chat(choice.clone())).await;
    assert_eq!((good.status, &good.json()["choices"][0]["message"]["content"]), (StatusCode::OK, &json!("x")));
    for (body, status, param) in [
        (json!({}), 400, json!("generate_response")),
        (chat(json!({"token_ids": []})), 400, json!("token_ids")),
        (chat(json!({"token_ids": [-1]})), 400, json!("token_ids")),
        (chat(json!({"token_ids": vec![1; 5000]})), 400, json!("token_ids")),
        (json!({"stream": true, "generate_chunk": {}}), 501, Value::Null),
        (json!({"generate_response": {"choices": [choice], "output_mode": "text"}}), 400, json!("output_mode")),
        (json!({"generate_response": {"choices": []}}), 400, json!("choices")),
    ] {
        let answer = server.post("/v1/chat/completions/derender", &body).await;
        assert_eq!((answer.status.as_u16(), &answer.json()["error"]["param"]), (status, &param), "{:.80}", body.to_string());
    }
    let uneven = json!({"generate_responses": [{"choices": [choice]}], "prompt_tokens": [1, 2]});
    assert_eq!(server.post("/v1/completions/derender", &uneven).await.json()["error"]["param"], "prompt_tokens");
    let response = server.post("/v1/responses/render", &json!({"input": "x", "max_output_tokens": 5})).await.json();
    let chat = server.post("/v1/chat/completions/render", &json!({"messages": user("x")})).await.json();
    assert_eq!((&response["token_ids"], &response["sampling_params"]["max_tokens"]), (&chat["token_ids"], &json!(5)));
    server.stop().await.expect("a clean end");
}

async fn last_finish(mut open: Open) -> Value {
    let mut finish = Value::Null;
    while let Some(event) = open.event().await.filter(|event| event != "[DONE]") {
        finish = serde_json::from_str::<Value>(&event).expect("JSON")["choices"][0]["finish_reason"].clone();
    }
    finish
}

#[tokio::test]
async fn requests_are_aborted_by_the_id_that_their_clients_gave() {
    let mut config = fake(scripted(), 2.0);
    config.dev_mode = true;
    let server = Server::start(config).await;
    let body = json!({"prompt": "a", "max_tokens": 2000, "ignore_eos": true, "stream": true, "n": 2, "temperature": 1});
    let begin = async |id: &str| {
        let mut open = server.open(path("text"), &[("x-request-id", id)], &body).await;
        open.event().await.expect("it runs");
        open
    };
    let (one, two, three) = (begin("one").await, begin("two").await, begin("three").await);
    let abort = async |path: &str, ids: Value| server.post(path, &json!({"request_ids": ids})).await;
    // As its client gave it, and as its answer carries it; what is unknown is passed over.
    assert_eq!(abort("/inference/v1/abort_requests", json!(["one", "none", 7])).await.text(), "");
    assert_eq!(last_finish(one).await, "abort");
    assert_eq!(abort("/abort_requests", json!(["cmpl-two"])).await.json(), json!({"status": "aborted", "aborted": 1}));
    assert_eq!(last_finish(two).await, "abort");
    drop(three);
    server.state_where(|state| state["running"] == 0).await;
    let missing = server.post("/inference/v1/abort_requests", &json!({})).await;
    assert_eq!((missing.status, &missing.json()["error"]["param"]), (StatusCode::BAD_REQUEST, &json!("request_ids")));
    server.stop().await.expect("a clean end");
}

#[tokio::test]
async fn an_output_that_goes_round_in_circles_ends() {
    // The scripted model walks in a circle.
    let server = Server::start(cpu(scripted())).await;
    let ask = async |name: &str, detection: Value| {
        let mut body = json!({"max_tokens": 400, "temperature": 0, "ignore_eos": true, "repetition_detection": detection});
        match name {
            "chat" => body["messages"] = user("7"),
            _ => body["prompt"] = json!("7"),
        }
        server.post(path(name), &body).await.json()
    };
    for name in ["chat", "text"] {
        let answer = ask(name, json!({"max_pattern_size": 200, "min_count": 2})).await;
        let choice = &answer["choices"][0];
        assert_eq!((&choice["finish_reason"], &choice["stop_reason"]), (&json!("repetition"), &json!("repetition_detected")));
        assert!(answer["usage"]["completion_tokens"].as_u64().is_some_and(|tokens| tokens < 400), "{answer}");
        for off in [json!({"max_pattern_size": 0}), json!({"max_pattern_size": 1, "min_count": 3}), Value::Null] {
            assert_eq!(ask(name, off).await["choices"][0]["finish_reason"], "length");
        }
        for wrong in [
            json!({"max_pattern_size": 3}),
            json!({"max_pattern_size": 3, "min_count": 1}),
            json!({"max_pattern_size": -1, "min_count": 2}),
            json!({"max_pattern_size": 2, "min_pattern_size": 3, "min_count": 2}),
            json!({"max_pattern_size": 1_000_000, "min_count": 2}),
        ] {
            assert_eq!(ask(name, wrong.clone()).await["error"]["param"], "repetition_detection", "{wrong}");
        }
    }
    server.metrics_with("vllm:request_success_total{engine=\"0\",finished_reason=\"repetition\",model_name=\"m\"} 2").await;
    server.stop().await.expect("a clean end");
}

#[tokio::test]
async fn the_tokenizer_is_told_where_it_is_asked_for() {
    let mut config = instant(scripted());
    config.answers.tokenizer_info = true;
    let server = Server::start(config).await;
    let info = server.get("/tokenizer_info").await.json();
    assert_eq!(info["tokenizer_class"], "PreTrainedTokenizerFast");
    assert!(info["chat_template"].as_str().is_some_and(|template| template.contains("messages")), "{info}");
    assert!(info["model_max_length"].as_u64().is_some() && info["eos_token"].is_string(), "{info}");
    server.stop().await.expect("a clean end");
}
