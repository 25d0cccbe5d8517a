//! Tool calls as agents really send them back (null or empty arguments, no text, no calls): the prompt is the one that transformers renders.
//! `tests/parity/tool_history.py` makes the answers.

use std::path::Path;

use serde_json::{Value, json};

use crate::server::Server;
use crate::tokens::llama;

/// A template of the goldens of `engine-text`.
fn family(name: &str) -> String {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../text/tests/goldens/families");
    std::fs::read_to_string(folder.join(format!("{name}.jinja"))).expect("a template")
}

fn call(arguments: &Value) -> Value {
    let call = json!({"id": "c1", "type": "function", "function": {"name": "now", "arguments": arguments}});
    json!([{"role": "user", "content": "Time?"}, {"role": "assistant", "content": null, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "c1", "content": "12:00"}, {"role": "user", "content": "Thanks"}])
}

#[tokio::test]
async fn prompts_are_as_transformers_renders_them() {
    let server = Server::start(llama()).await;
    let golden: Value = serde_json::from_str(include_str!("golden/tool_history.json")).expect("JSON");
    for case in golden["cases"].as_array().expect("cases") {
        let name = case["template"].as_str().expect("a name");
        let template = golden[name].as_str().map_or_else(|| family(name), str::to_owned);
        for messages in case["chats"].as_array().expect("chats") {
            let body = json!({"messages": messages, "tools": case["tools"], "chat_template": template});
            let answer = server.post("/tokenize", &body).await.json();
            let text = server.post("/detokenize", &json!({"tokens": answer["tokens"]})).await.json();
            assert_eq!(text["prompt"], case["rendered"], "{name}: {messages}");
        }
    }
    server.stop().await.expect("a clean end");
}

#[tokio::test]
async fn arguments_that_are_no_object_are_refused_by_their_place() {
    let server = Server::start(llama()).await;
    for arguments in ["[1]", "{bad", "7", "\"text\""] {
        for path in ["/tokenize", "/v1/chat/completions"] {
            let answer = server.post(path, &json!({"messages": call(&json!(arguments))})).await;
            let status = answer.status;
            let body = answer.json();
            let message = body["error"]["message"].as_str().unwrap_or_default();
            assert_eq!(status, 400, "{path}, {arguments}: {body}");
            assert!(message.to_lowercase().contains("messages[1].tool_calls[0]"), "{path}, {arguments}: {message}");
        }
    }
    server.stop().await.expect("a clean end");
}
