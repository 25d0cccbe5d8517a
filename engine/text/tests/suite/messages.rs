//! Messages as clients really send them: put into order, or refused by place.

use std::time::SystemTime;

use engine_text::{ChatRequest, Text};
use serde_json::{Value, json};

use crate::golden::{model, text};

/// Prints every message as JSON; and goes through the parts of contents where it can.
const SHOW: &str = "{% for m in messages %}{{ m | tojson }}{% endfor %}";
const PARTS: &str = "{% for m in messages %}{% for part in m['content'] %}[{{ part.text }}]{% endfor %}{% endfor %}";

fn render(template: &str, messages: &[Value]) -> Result<String, String> {
    thread_local! {
        static TEXT: Text = text(&model("llama"));
    }
    let request = ChatRequest { template: Some(template), ..ChatRequest::new(messages, SystemTime::UNIX_EPOCH) };
    TEXT.with(|text| text.render_chat(&request)).map_err(|error| error.to_string())
}

fn call(arguments: Value) -> Value {
    json!({"role": "assistant", "content": null, "tool_calls": [{"id": "c1", "type": "function", "function": {"name": "now", "arguments": arguments}}]})
}

/// Case A7: what agents send for "no arguments" is an empty object, and no `None` or `null` reaches the prompt.
#[test]
fn tool_arguments() {
    let ask = json!({"role": "user", "content": "Time?"});
    for (arguments, expected) in [
        (json!("null"), json!({})),
        (json!(""), json!({})),
        (json!("{}"), json!({})),
        (json!(null), json!({})),
        (json!({"a": 1}), json!({"a": 1})),
        (json!("{\"a\": [1, \"x\"]}"), json!({"a": [1, "x"]})),
    ] {
        let rendered = render(SHOW, &[ask.clone(), call(arguments.clone())]).unwrap();
        let expected = format!("\"arguments\": {}", expected.to_string().replace(':', ": ").replace(',', ", "));
        assert!(rendered.contains(&expected), "{arguments}: {rendered}");
        assert!(!rendered.contains("null") && rendered.contains("\"content\": \"\""), "{arguments}: {rendered}");
        let items = "{% for m in messages if m.tool_calls %}{% for k, v in m.tool_calls[0].function.arguments.items() %}{{ k }}{% endfor %}{% endfor %}";
        render(items, &[ask.clone(), call(arguments)]).unwrap();
    }
    for arguments in [json!("[1]"), json!("{bad"), json!(7)] {
        let error = render(SHOW, &[ask.clone(), call(arguments.clone())]).unwrap_err();
        assert!(error.starts_with("messages[1].tool_calls[0]: "), "{arguments}: {error}");
    }
    let empty = json!({"role": "assistant", "content": "", "tool_calls": []});
    assert!(!render(SHOW, &[empty]).unwrap().contains("tool_calls"));
}

#[test]
fn contents() {
    let parts = json!({"role": "user", "content": [{"type": "text", "text": "a"}, "b", {"type": "input_text", "text": "c"}]});
    assert_eq!(render("{{ messages[0].content }}", std::slice::from_ref(&parts)).unwrap(), "a\nb\nc");
    assert_eq!(render(PARTS, &[parts]).unwrap(), "[a][b][c]");
    assert_eq!(render("{{ messages[0].content }}|", &[json!({"role": "user"})]).unwrap(), "|");
    for (message, place) in [
        (
            json!({"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}),
            "messages[0].content[0]: is of type \"image_url\"",
        ),
        (json!({"role": "user", "content": [{"type": "text"}]}), "messages[0].content[0]"),
        (json!({"role": "user", "content": 5}), "messages[0].content"),
        (json!({"role": 5, "content": "x"}), "messages[0].role"),
        (json!({"content": "x"}), "messages[0]"),
        (json!("x"), "messages[0]"),
        (json!({"role": "assistant", "tool_calls": 5}), "messages[0].tool_calls"),
        (json!({"role": "assistant", "tool_calls": [5]}), "messages[0].tool_calls[0]"),
    ] {
        let error = render(SHOW, std::slice::from_ref(&message)).unwrap_err();
        assert!(error.starts_with(place), "{message}: {error}");
    }
}

#[test]
fn requests_that_contradict_themselves() {
    let messages = [json!({"role": "user", "content": "x"})];
    let plain = ChatRequest { template: Some("x"), ..ChatRequest::new(&messages, SystemTime::UNIX_EPOCH) };
    let text = text(&model("llama"));
    let error = |request: ChatRequest<'_>| text.render_chat(&request).unwrap_err().to_string();
    assert!(error(ChatRequest { messages: &[], ..plain.clone() }).contains("must not be empty"));
    assert!(error(ChatRequest { continue_final_message: true, ..plain.clone() }).contains("add_generation_prompt"));
    let kwargs = json!({"messages": []});
    assert!(error(ChatRequest { kwargs: kwargs.as_object(), ..plain.clone() }).starts_with("chat_template_kwargs.messages"));
    let going_on = ChatRequest { continue_final_message: true, add_generation_prompt: false, ..plain };
    let call = [call(json!("{}"))];
    assert!(error(ChatRequest { messages: &call, ..going_on }).starts_with("messages[0]: has no text"));
}
