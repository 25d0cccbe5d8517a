//! Case A3: stop strings over token borders, never completed, overlapping, of several bytes a character; on both endpoints, streamed
//! and whole, with the stop string kept or left out. And the ends that are no stop strings.

use serde_json::{Value, json};

use crate::server::{Server, cpu, path, scripted};

/// Text, finish reason, stop reason.
type Ended = (String, Value, Value);

fn ended(text: &str, finish: &str, stop: Value) -> Ended {
    (text.to_owned(), json!(finish), stop)
}

async fn whole(server: &Server, endpoint: &str, body: &Value) -> (Ended, Value) {
    let answer = server.post(path(endpoint), body).await.json();
    let choice = &answer["choices"][0];
    let text = if endpoint == "chat" { &choice["message"]["content"] } else { &choice["text"] };
    let text = text.as_str().unwrap_or_else(|| panic!("{answer}")).to_owned();
    ((text, choice["finish_reason"].clone(), choice["stop_reason"].clone()), answer["usage"]["completion_tokens"].clone())
}

async fn streamed(server: &Server, endpoint: &str, body: &Value) -> (Ended, Value) {
    let mut body = body.clone();
    body["stream"] = json!(true);
    body["stream_options"] = json!({"include_usage": true});
    let events = server.post(path(endpoint), &body).await.events();
    let (done, chunks) = events.split_last().expect("events");
    assert_eq!(done, "[DONE]");
    let (mut text, mut ends, mut usage) = (String::new(), Vec::new(), Value::Null);
    for chunk in chunks {
        let chunk: Value = serde_json::from_str(chunk).expect("JSON");
        let Some(choice) = chunk["choices"].get(0) else {
            usage = chunk["usage"]["completion_tokens"].clone();
            continue;
        };
        assert!(ends.is_empty(), "nothing comes behind the end: {events:?}");
        let piece = if endpoint == "chat" { &choice["delta"]["content"] } else { &choice["text"] };
        text.push_str(piece.as_str().expect("text"));
        if !choice["finish_reason"].is_null() {
            ends.push((choice["finish_reason"].clone(), choice["stop_reason"].clone()));
        }
    }
    let (finish, stop) = ends.pop().expect("a stream says how it ended");
    ((text, finish, stop), usage)
}

#[tokio::test]
async fn a_stop_string_ends_the_text_wherever_its_tokens_fall() {
    let server = Server::start(cpu(scripted())).await;
    let check = async |prompt: &str, parameters: Value, without: Ended, with: Ended, tokens: usize| {
        for endpoint in ["chat", "text"] {
            for (include, expected) in [(false, &without), (true, &with)] {
                let mut body = parameters.clone();
                match endpoint {
                    "chat" => body["messages"] = json!([{"role": "user", "content": prompt}]),
                    _ => body["prompt"] = json!(prompt),
                }
                body["temperature"] = json!(0);
                body["include_stop_str_in_output"] = json!(include);
                assert_eq!(whole(&server, endpoint, &body).await, (expected.clone(), json!(tokens)), "{endpoint} {body}");
                assert_eq!(streamed(&server, endpoint, &body).await, (expected.clone(), json!(tokens)), "{endpoint} {body}");
            }
        }
    };
    let same = |text: &str, finish: &str, stop: Value| [ended(text, finish, stop.clone()), ended(text, finish, stop)];
    let user = "\nUser:";
    // 1: the chain is "x\nUser: y", one byte a token.
    let (without, with) = (ended("x", "stop", json!(user)), ended("x\nUser:", "stop", json!(user)));
    check(">", json!({"stop": [user], "max_tokens": 50}), without, with, 7).await;
    // 2: the output ends inside what may become a stop string.
    let [without, with] = same("x\nUs", "length", Value::Null);
    check(">", json!({"stop": [user], "max_tokens": 4}), without, with, 4).await;
    // 3: the stop string that ends first wins.
    let (without, with) = (ended("x\n", "stop", json!("Us")), ended("x\nUs", "stop", json!("Us")));
    check(">", json!({"stop": [user, "Us"], "max_tokens": 50}), without, with, 4).await;
    // 4: a stop string of one character in four tokens.
    let (without, with) = (ended("a", "stop", json!("🚂")), ended("a🚂", "stop", json!("🚂")));
    check("E", json!({"stop": "🚂", "max_tokens": 50}), without, with, 5).await;
    // A character that the length cuts is shown as one that is no character.
    let [without, with] = same("a\u{fffd}", "length", Value::Null);
    check("E", json!({"max_tokens": 3}), without, with, 3).await;
    // Bytes that are no UTF-8, and text behind them.
    let [without, with] = same("q\u{fffd}(t", "stop", Value::Null);
    check("Q", json!({"max_tokens": 50, "stop": "never"}), without, with, 5).await;
    // A stop id; its text is the stop string, so to say.
    let (without, with) = (ended("89", "stop", json!(48)), ended("890", "stop", json!(48)));
    check("7", json!({"stop_token_ids": [48], "max_tokens": 50}), without, with, 3).await;
    // End of sequence at once.
    let [without, with] = same("", "stop", Value::Null);
    check("?", json!({"max_tokens": 50}), without, with, 1).await;
    server.stop().await.expect("a clean end");
}

#[tokio::test]
async fn what_a_request_may_do_changes_what_it_gets() {
    let server = Server::start(cpu(scripted())).await;
    let check = async |body: Value, expected: Ended| {
        let mut body = body;
        body["temperature"] = json!(0);
        assert_eq!(whole(&server, "text", &body).await.0, expected, "{body}");
    };
    check(json!({"prompt": "7"}), ended("8901234567890123", "length", Value::Null)).await;
    let special = json!({"prompt": "?", "ignore_eos": true, "max_tokens": 2, "skip_special_tokens": false});
    check(special, ended("<|end|><|end|>", "length", Value::Null)).await;
    check(json!({"prompt": "?", "ignore_eos": true, "max_tokens": 2}), ended("", "length", Value::Null)).await;
    let opaque = json!({"prompt": "7", "max_tokens": 1, "kv_transfer_params": {"do_remote_decode": false, "x": [1, 2]}});
    let answer = server.post(path("text"), &opaque).await.json();
    assert_eq!(answer["kv_transfer_params"], opaque["kv_transfer_params"], "what travels opaque comes back as it went");
    server.stop().await.expect("a clean end");
}
