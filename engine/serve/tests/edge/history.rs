//! Case A7: conversations as agents send them back, through the chat template and the tokenizer; what is wrong is named.

use std::sync::Arc;

use serde_json::{Value, json};

use crate::server::{Server, fixture, instant, path};

/// Shows what there is of every message, as templates do that iterate over a call's arguments.
const TEMPLATE: &str = "{% for m in messages %}{{ m.role }}:{{ m.content }}{% for c in m.tool_calls or [] %}({{ c.function.name }}\
    {% for k, v in c.function.arguments.items() %} {{ k }}={{ v }}{% endfor %}){% endfor %};{% endfor %}";

fn with(assistant: Value) -> Value {
    json!([
        {"role": "user", "content": "time?"},
        assistant,
        {"role": "tool", "tool_call_id": "c1", "content": "12:00"},
        {"role": "user", "content": "thanks"},
    ])
}

fn call(arguments: Value) -> Value {
    json!({"role": "assistant", "content": null, "tool_calls": [
        {"id": "c1", "type": "function", "function": {"name": "now", "arguments": arguments}}
    ]})
}

#[tokio::test]
async fn a_history_of_tool_calls_is_rendered_as_it_was_meant() {
    let mut assets = engine_assets::open(&fixture("scripted/model.gguf")).expect("a good model");
    assets.text.chat_template = Some(TEMPLATE.to_owned());
    let server = Server::start(instant(Arc::new(assets))).await;
    let shown = |middle: &str| format!("user:time?;assistant:{middle};tool:12:00;user:thanks;");
    for (assistant, middle) in [
        (call(json!("null")), "(now)"),
        (call(json!("")), "(now)"),
        (call(json!("{}")), "(now)"),
        (call(Value::Null), "(now)"),
        (call(json!("{\"zone\": \"UTC\"}")), "(now zone=UTC)"),
        (json!({"role": "assistant", "content": "", "tool_calls": []}), ""),
        (json!({"role": "assistant", "content": "noon", "tool_calls": null}), "noon"),
    ] {
        let messages = with(assistant);
        let tokens = server.post("/tokenize", &json!({"messages": messages})).await.json()["tokens"].clone();
        let text = server.post("/detokenize", &json!({"tokens": tokens})).await.json()["prompt"].clone();
        assert_eq!(text, json!(shown(middle)), "{messages}");
        for stream in [false, true] {
            let body = json!({"messages": messages, "max_tokens": 1, "stream": stream, "return_prompt_text": true});
            let answer = server.post(path("chat"), &body).await;
            assert!(answer.status == 200 && answer.text().contains("thanks;"), "{}", answer.text());
        }
    }
    for arguments in [json!("[1]"), json!("{bad")] {
        for stream in [false, true] {
            let body = json!({"messages": with(call(arguments.clone())), "stream": stream});
            let answer = server.post(path("chat"), &body).await;
            let error = &answer.json()["error"];
            assert_eq!((answer.status.as_u16(), &error["param"]), (400, &json!("messages")), "{arguments}");
            assert!(error["message"].as_str().is_some_and(|message| message.contains("messages[1].tool_calls[0]")), "{error}");
        }
    }
    server.stop().await.expect("a clean end");
}
