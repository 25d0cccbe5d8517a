//! Anthropic's API: conversations of every kind of block, streams event by event, errors in its own form.

use http::StatusCode;
use serde_json::{Value, json};

use crate::server::{Server, cpu, fixture, instant, scripted};

const MESSAGES: &str = "/v1/messages";

/// `(name, data)` of each event.
fn events(text: &str) -> Vec<(String, Value)> {
    let event = |event: &str| {
        let (name, data) = event.split_once('\n').expect("two lines");
        let data = data.strip_prefix("data: ").expect("data");
        (name.strip_prefix("event: ").expect("a name").to_owned(), serde_json::from_str(data).expect("JSON"))
    };
    text.trim_end().split("\n\n").map(event).collect()
}

#[tokio::test]
async fn whole_and_streamed_say_the_same() {
    let server = Server::start(cpu(scripted())).await;
    let check = async |user: &str, extra: Value, text: &str, reason: &str, sequence: Value, made: u32| {
        let mut body = json!({"model": "m", "max_tokens": 50, "temperature": 0, "messages": [{"role": "user", "content": user}]});
        body.as_object_mut().expect("an object").extend(extra.as_object().expect("an object").clone());
        let whole = server.post_with(MESSAGES, &[("x-request-id", "t")], &body).await.json();
        let usage = json!({"input_tokens": 2, "output_tokens": made});
        let expected = json!({
            "id": "chatcmpl-t", "type": "message", "role": "assistant", "content": [{"type": "text", "text": text}], "model": "m",
            "stop_reason": reason, "stop_sequence": sequence, "usage": usage, "kv_transfer_params": null, "ec_transfer_params": null,
        });
        assert_eq!(whole, expected, "{body}");
        body["stream"] = json!(true);
        let events = events(&server.post(MESSAGES, &body).await.text());
        assert!(events.iter().all(|(name, data)| data["type"] == name.as_str()), "{events:?}");
        let names: Vec<&str> = events.iter().map(|(name, _)| name.as_str()).collect();
        let deltas = names.iter().filter(|name| **name == "content_block_delta").count();
        let mut order = vec!["message_start"];
        if deltas > 0 {
            order.push("content_block_start");
            order.extend(std::iter::repeat_n("content_block_delta", deltas));
            order.push("content_block_stop");
        }
        order.extend(["message_delta", "message_stop"]);
        assert_eq!(names, order);
        let said: String = events.iter().filter_map(|(_, data)| data["delta"]["text"].as_str()).collect();
        assert_eq!(said, text, "stream = whole");
        let start = &events[0].1["message"];
        assert_eq!(
            (&start["usage"]["input_tokens"], &start["content"], &start["role"]),
            (&json!(2), &json!([]), &json!("assistant"))
        );
        let end = &events[events.len() - 2].1;
        assert_eq!((&end["delta"], &end["usage"]), (&json!({"stop_reason": reason, "stop_sequence": sequence}), &usage));
    };
    check("E", json!({}), "a🚂b", "end_turn", Value::Null, 7).await;
    check("7", json!({"max_tokens": 3}), "890", "max_tokens", Value::Null, 3).await;
    check(">", json!({"stop_sequences": ["\nUser:"]}), "x", "stop_sequence", json!("\nUser:"), 7).await;
    check("?", json!({}), "", "end_turn", Value::Null, 1).await;
    server.stop().await.expect("a clean end");
}

#[tokio::test]
async fn every_block_has_its_place_in_the_chat() {
    let server = Server::start(instant(scripted())).await;
    let count = async |body: Value| {
        let mut body = body;
        body["model"] = json!("m");
        let answer = server.post("/v1/messages/count_tokens", &body).await;
        assert_eq!(answer.status, StatusCode::OK, "{}", answer.text());
        let answer = answer.json();
        assert_eq!(answer["input_tokens"], answer["context_management"]["original_input_tokens"]);
        answer["input_tokens"].as_u64().expect("a number")
    };
    let user = json!({"role": "user", "content": "ab"});
    assert_eq!(count(json!({"messages": [user]})).await, 3);
    assert_eq!(count(json!({"messages": [user], "system": "xyz"})).await, 7);
    let header = json!([{"type": "text", "text": "x-anthropic-billing-header: 77"}, {"type": "text", "text": "xyz"}]);
    assert_eq!(count(json!({"messages": [user], "system": header})).await, 7, "what changes with every request is left out");
    assert_eq!(count(json!({"messages": [user, {"role": "system", "content": "xyz"}]})).await, 7);
    let blocks =
        json!([{"type": "text", "text": "a"}, {"type": "text", "text": "b"}, {"type": "redacted_thinking", "data": "?"}]);
    assert_eq!(count(json!({"messages": [{"role": "user", "content": blocks}]})).await, 3);
    server.stop().await.expect("a clean end");
    // A template that writes tool calls: what an agent sends reads as the same chat in OpenAI's form.
    let server = Server::start(instant(std::sync::Arc::new(engine_assets::open(&fixture("llama")).expect("a good model")))).await;
    let tools = json!([{"name": "now", "description": "The time.", "input_schema": {"properties": {}}}]);
    let body = json!({"model": "m", "tools": tools, "messages": [
        {"role": "user", "content": "When?"},
        {"role": "assistant", "content": [{"type": "text", "text": "Let me see."}, {"type": "tool_use", "id": "c1", "name": "now", "input": {}}]},
        {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "c1", "content": [{"type": "text", "text": "12:00"}]}]},
    ]});
    let same = json!({
        "tools": [{"type": "function", "function": {"name": "now", "description": "The time.", "parameters": {"properties": {}, "type": "object"}}}],
        "messages": [
            {"role": "user", "content": "When?"},
            {"role": "assistant", "content": "Let me see.",
             "tool_calls": [{"id": "c1", "type": "function", "function": {"name": "now", "arguments": "{}"}}]},
            {"role": "tool", "tool_call_id": "c1", "content": "12:00"},
        ],
    });
    let counted = server.post("/v1/messages/count_tokens", &body).await.json();
    assert_eq!(counted["input_tokens"], server.post("/tokenize", &same).await.json()["count"]);
    let mut rendered = body.clone();
    rendered["max_tokens"] = json!(5);
    let rendered = server.post("/v1/messages/render", &rendered).await.json();
    assert_eq!(rendered["token_ids"], server.post("/tokenize", &same).await.json()["tokens"]);
    server.stop().await.expect("a clean end");
}

#[tokio::test]
async fn errors_are_in_its_own_form() {
    let server = Server::start(instant(scripted())).await;
    let user = json!([{"role": "user", "content": "a"}]);
    for (body, status, kind) in [
        (json!({"model": "m", "messages": user}), 400, "invalid_request_error"),
        (json!({"model": "m", "max_tokens": 0, "messages": user}), 400, "invalid_request_error"),
        (json!({"model": "other", "max_tokens": 1, "messages": user}), 404, "not_found_error"),
        (json!({"max_tokens": 1, "messages": user}), 400, "invalid_request_error"),
        (json!({"model": "m", "max_tokens": 1, "messages": []}), 400, "invalid_request_error"),
        (json!({"model": "m", "max_tokens": 1, "messages": [{"role": "robot", "content": "a"}]}), 400, "invalid_request_error"),
        (
            json!({"model": "m", "max_tokens": 1, "messages": [{"role": "user", "content": [{"type": "image"}]}]}),
            400,
            "invalid_request_error",
        ),
        (json!({"model": "m", "max_tokens": 1, "messages": [{"role": "user", "content": 7}]}), 400, "invalid_request_error"),
        (
            json!({"model": "m", "max_tokens": 1, "stream": true, "messages": [{"role": "user", "content": "z".repeat(3000)}]}),
            400,
            "invalid_request_error",
        ),
    ] {
        let answer = server.post(MESSAGES, &body).await;
        let error = answer.json();
        assert_eq!(
            (answer.status.as_u16(), &error["type"], &error["error"]["type"]),
            (status, &json!("error"), &json!(kind)),
            "{body}"
        );
        assert!(error["error"]["message"].as_str().is_some_and(|message| message.ends_with('.')), "{error}");
    }
    server.stop().await.expect("a clean end");
}
