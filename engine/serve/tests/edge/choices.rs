//! Several choices of one prompt, and what of the prompt stands in an answer.

use serde_json::{Value, json};

use crate::server::{Server, cpu, instant, path, scripted};
use crate::tokens::{ids, llama, oracle};

/// Text, ids and finish reason by index, from the events of a stream.
fn joined(events: &[String], choices: usize) -> Vec<(String, Vec<u32>, Value)> {
    assert_eq!(events.last().map(String::as_str), Some("[DONE]"));
    let mut seen = vec![(String::new(), Vec::new(), Value::Null); choices];
    for event in &events[..events.len() - 1] {
        let chunk: Value = serde_json::from_str(event).expect("JSON");
        for choice in chunk["choices"].as_array().expect("choices") {
            let seen = &mut seen[choice["index"].as_u64().expect("an index") as usize];
            let text = choice.get("text").or_else(|| choice["delta"].get("content")).and_then(Value::as_str);
            seen.0.push_str(text.unwrap_or_default());
            seen.1.extend(choice.get("token_ids").map(ids).unwrap_or_default());
            assert_eq!(seen.2, Value::Null, "nothing follows the end of a choice");
            seen.2 = choice["finish_reason"].clone();
        }
    }
    seen
}

#[tokio::test]
async fn choice_j_of_prompt_i_stands_at_i_times_n_plus_j() {
    let mut config = llama();
    config.answers.prompt_tokens_details = true;
    let server = Server::start(config).await;
    let prompts: [Vec<u32>; 2] = [(0..40).collect(), vec![5, 6, 7]];
    let mut body = json!({
        "prompt": prompts, "n": 3, "seed": 11, "temperature": 1.0, "max_tokens": 6, "ignore_eos": true, "return_token_ids": true,
    });
    let answer = server.post(path("text"), &body).await.json();
    let choices = answer["choices"].as_array().unwrap_or_else(|| panic!("{answer}"));
    assert_eq!(choices.len(), 6);
    for (index, choice) in choices.iter().enumerate() {
        let (prompt, seed) = (&prompts[index / 3], 11 + (index % 3) as u64);
        assert_eq!((&choice["index"], ids(&choice["prompt_token_ids"])), (&json!(index), prompt.clone()));
        assert_eq!(ids(&choice["token_ids"]), oracle(prompt, 6, Some(seed)), "choice {index} is a request with seed {seed}");
    }
    let usage = &answer["usage"];
    assert_eq!((&usage["prompt_tokens"], &usage["completion_tokens"]), (&json!(43), &json!(36)), "a prompt counts once");
    assert_eq!(usage["prompt_tokens_details"]["cached_tokens"], 0);
    // The other two choices of the long prompt found its two full blocks.
    let hits = "vllm:prefix_cache_hits_total{engine=\"0\",model_name=\"m\"} 64";
    server.metrics_with(hits).await;
    body["stream"] = json!(true);
    let streamed = joined(&server.post(path("text"), &body).await.events(), 6);
    for ((text, tokens, reason), choice) in streamed.iter().zip(choices) {
        assert_eq!((&json!(text), &json!(tokens), reason), (&choice["text"], &choice["token_ids"], &choice["finish_reason"]));
    }
    let chat = json!({
        "messages": [{"role": "user", "content": "hello"}], "n": 2, "seed": 3, "max_tokens": 4, "stream": true, "ignore_eos": true,
        "return_token_ids": true,
    });
    let events = server.post(path("chat"), &chat).await.events();
    for (event, index) in events.iter().zip([0, 1]) {
        let chunk: Value = serde_json::from_str(event).expect("JSON");
        let expected =
            json!({"index": index, "delta": {"role": "assistant", "content": ""}, "logprobs": null, "finish_reason": null});
        assert_eq!(chunk["choices"], json!([expected]), "every choice begins with its role");
    }
    assert!(joined(&events, 2).iter().all(|(_, tokens, reason)| tokens.len() == 4 && reason == "length"));
    server.stop().await.expect("a clean end");
}

#[tokio::test]
async fn choices_that_end_at_their_first_token_all_come() {
    let server = Server::start(llama()).await;
    let prompt: Vec<u32> = (0..40).collect();
    let body = json!({"prompt": prompt, "n": 4, "max_tokens": 1, "ignore_eos": true, "return_token_ids": true, "seed": 5});
    for _ in 0..20 {
        let answer = server.post(path("text"), &body).await.json();
        let choices = answer["choices"].as_array().unwrap_or_else(|| panic!("{answer}"));
        let seen: Vec<_> = choices.iter().map(|choice| ids(&choice["token_ids"])).collect();
        assert_eq!(seen, (5..9).map(|seed| oracle(&prompt, 1, Some(seed))).collect::<Vec<_>>());
    }
    server.stop().await.expect("a clean end");
}

#[tokio::test]
async fn what_was_said_stands_before_the_answer_where_it_is_asked_for() {
    let server = Server::start(cpu(scripted())).await;
    let check = async |endpoint: &str, body: Value, role: Option<&str>, expected: &str| {
        let mut body = body;
        (body["temperature"], body["max_tokens"]) = (json!(0), json!(2));
        let whole = server.post(path(endpoint), &body).await.json()["choices"][0].clone();
        let text = whole.get("text").unwrap_or(&whole["message"]["content"]);
        assert_eq!((text, whole["message"]["role"].as_str()), (&json!(expected), role), "{body}");
        body["stream"] = json!(true);
        let streamed = joined(&server.post(path(endpoint), &body).await.events(), 1);
        assert_eq!(streamed[0].0, expected, "stream = whole: {body}");
    };
    check("text", json!({"prompt": "x7", "echo": true}), None, "x789").await;
    check("text", json!({"prompt": [120, 55], "echo": true}), None, "x789").await;
    check("text", json!({"prompt": "x7", "echo": true, "return_token_ids": true}), None, "89").await;
    check("chat", json!({"messages": [{"role": "user", "content": "7"}], "echo": true}), Some("assistant"), "89").await;
    check("chat", json!({"messages": [{"role": "assistant", "content": "x7"}], "echo": true}), Some("assistant"), "x789").await;
    check(
        "chat",
        json!({"messages": [{"role": "user", "content": "x7"}], "echo": true, "add_generation_prompt": false}),
        Some("user"),
        "x789",
    )
    .await;
    let shown = json!({"messages": [{"role": "user", "content": "7"}], "return_prompt_text": true, "max_tokens": 1});
    assert_eq!(server.post(path("chat"), &shown).await.json()["prompt_text"], "<|user|>7");
    server.stop().await.expect("a clean end");
}

#[tokio::test]
async fn a_long_prompt_is_cut_where_it_is_asked_for() {
    let mut config = instant(scripted());
    config.limits.max_model_len = Some(32);
    let server = Server::start(config).await;
    let check = async |body: Value, expected: std::ops::Range<u32>| {
        let mut body = body;
        (body["prompt"], body["max_tokens"], body["return_token_ids"]) =
            (json!((0..100).collect::<Vec<u32>>()), json!(1), json!(true));
        let answer = server.post(path("text"), &body).await.json();
        assert_eq!(answer["choices"][0]["prompt_token_ids"], json!(expected.collect::<Vec<_>>()), "{body}");
    };
    check(json!({"truncate_prompt_tokens": 5}), 0..5).await;
    check(json!({"truncate_prompt_tokens": 5, "truncation_side": "right"}), 0..5).await;
    check(json!({"truncate_prompt_tokens": 5, "truncation_side": "left"}), 95..100).await;
    check(json!({"truncate_prompt_tokens": -1, "truncation_side": "left"}), 69..100).await;
    server.stop().await.expect("a clean end");
}

#[tokio::test]
async fn a_stream_may_be_coarser() {
    let server = Server::start(cpu(scripted())).await;
    let body = json!({"prompt": "0", "temperature": 0, "max_tokens": 10, "stream": true, "stream_interval": 4});
    let events = server.post(path("text"), &body).await.events();
    let texts: Vec<_> = events[..events.len() - 1]
        .iter()
        .map(|event| serde_json::from_str::<Value>(event).expect("JSON")["choices"][0]["text"].clone())
        .collect();
    assert_eq!(texts, ["1", "234", "5678", "90"], "first and last at once");
    server.stop().await.expect("a clean end");
}
