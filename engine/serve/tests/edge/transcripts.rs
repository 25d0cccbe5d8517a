//! Answers byte for byte, over the scripted model on the CPU. The files in `golden/` are written by hand from vLLM's contract; only
//! `created` and the fingerprint are replaced.

use serde_json::{Value, json};

use crate::server::{Server, cpu, path, scripted};

/// `"created":<seconds>` becomes `"created":0`.
fn timeless(text: &str) -> String {
    let mut parts = text.split("\"created\":");
    let mut out = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let rest = part.trim_start_matches(|digit: char| digit.is_ascii_digit());
        assert_ne!(rest, part, "created is a number");
        out.push_str("\"created\":0");
        out.push_str(rest);
    }
    let Some((before, rest)) = out.split_once("\"system_fingerprint\":\"trackside-") else { return out };
    let (_, after) = rest.split_once('"').expect("a string ends");
    format!("{before}\"system_fingerprint\":\"F\"{after}")
}

#[tokio::test]
async fn answers_are_those_of_the_contract() {
    let mut config = cpu(scripted());
    config.answers.prompt_tokens_details = true;
    let server = Server::start(config).await;
    let plain = Server::start(cpu(scripted())).await;
    let user = |content: &str| json!([{"role": "user", "content": content}]);
    let check = async |server: &Server, endpoint: &str, body: Value, golden: &str| {
        let mut body = body;
        body["temperature"] = json!(0);
        let answer = server.post_with(path(endpoint), &[("x-request-id", "t")], &body).await;
        assert_eq!(timeless(&answer.text()).trim_end(), golden.trim_end(), "{body}");
    };
    let usage = json!({"include_usage": true});
    let chat = include_str!("golden/chat.sse");
    check(&server, "chat", json!({"messages": user("E"), "stream": true, "stream_options": usage}), chat).await;
    check(&plain, "chat", json!({"messages": user("E"), "max_completion_tokens": 50}), include_str!("golden/chat.json")).await;
    let stopped = include_str!("golden/stopped.sse");
    check(&server, "chat", json!({"messages": user(">"), "stream": true, "stop": "\nUser:"}), stopped).await;
    let counted = json!({
        "prompt": "7", "max_tokens": 2, "stream": true, "stream_options": {"include_usage": true, "continuous_usage_stats": true}, "return_token_ids": true,
    });
    check(&server, "text", counted, include_str!("golden/completion.sse")).await;
    let two = json!({"prompt": ["7", "?"], "max_tokens": 2, "return_token_ids": true});
    check(&server, "text", two, include_str!("golden/completion.json")).await;
    for server in [server, plain] {
        server.stop().await.expect("a clean end");
    }
}
