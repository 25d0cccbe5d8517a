//! Items of the input as messages of a chat. What one turn of the assistant says in several items, its thought, text and calls, is one
//! message.

use engine_text::call_arguments;
use serde_json::{Value, json};

use crate::edge::answer::ApiError;

/// Appends `item`, number `i` of the input.
pub fn push(messages: &mut Vec<Value>, i: usize, item: &Value) -> Result<(), ApiError> {
    let wrong = |what: String| ApiError::parameter("input", format!("`input[{i}]` {what}."));
    let text = |key: &str| item[key].as_str().ok_or_else(|| wrong(format!("has no `{key}`")));
    match item["type"].as_str() {
        None | Some("message") => {
            let role = text("role")?;
            let role = if role == "developer" { "system" } else { role };
            let content = content(&item["content"]).map_err(wrong)?;
            match turn(messages).filter(|turn| role == "assistant" && turn.get("content").is_none()) {
                Some(turn) => turn["content"] = content,
                None => messages.push(json!({"role": role, "content": content})),
            }
        }
        Some("reasoning") => {
            if item["encrypted_content"].is_string() {
                return Err(wrong("is encrypted, and this engine has no key".into()));
            }
            let thought = thought(item);
            match turn(messages).filter(|turn| turn.get("reasoning_content").is_none()) {
                Some(turn) => turn["reasoning_content"] = thought.into(),
                None => messages.push(json!({"role": "assistant", "reasoning_content": thought})),
            }
        }
        Some("function_call") => {
            let arguments = call_arguments(item.get("arguments")).map_err(wrong)?;
            let function = json!({"name": text("name")?, "arguments": Value::Object(arguments).to_string()});
            let call = json!({"id": text("call_id")?, "type": "function", "function": function});
            match turn(messages) {
                Some(turn) => match turn.get_mut("tool_calls").and_then(Value::as_array_mut) {
                    Some(calls) => calls.push(call),
                    None => turn["tool_calls"] = json!([call]),
                },
                None => messages.push(json!({"role": "assistant", "tool_calls": [call]})),
            }
        }
        Some("function_call_output") => {
            let output = content(&item["output"]).map_err(wrong)?;
            messages.push(json!({"role": "tool", "tool_call_id": text("call_id")?, "content": output}));
        }
        Some(other) => {
            let other: String = other.chars().take(40).collect();
            return Err(wrong(format!("is of type {other:?}, which this engine does not read")));
        }
    }
    Ok(())
}

/// Whether the item is a message of the assistant that is to be gone on with.
pub fn is_partial(item: &Value) -> bool {
    let message = item["type"].as_str().is_none_or(|kind| kind == "message") && item["role"] == "assistant";
    message && matches!(item["status"].as_str(), Some("in_progress" | "incomplete"))
}

/// The assistant's message that the conversation ends with.
fn turn(messages: &mut [Value]) -> Option<&mut Value> {
    messages.last_mut().filter(|last| last["role"] == "assistant")
}

/// A text, or parts of text as chats have them.
fn content(content: &Value) -> Result<Value, String> {
    match content {
        Value::String(_) => {}
        Value::Array(parts) => {
            if let Some(part) = parts.iter().find(|part| part["text"].is_null() && part["refusal"].is_null()) {
                let kind: String = part["type"].as_str().unwrap_or("none").chars().take(40).collect();
                return Err(format!("holds a part of type {kind:?}; this model reads text only"));
            }
        }
        _ => return Err("has neither a text nor a list of parts".into()),
    }
    Ok(content.clone())
}

/// What a reasoning item says: its content, else its summary.
fn thought(item: &Value) -> String {
    let texts = |key: &str| -> String {
        item[key].as_array().into_iter().flatten().filter_map(|part| part["text"].as_str()).collect::<Vec<_>>().join("\n")
    };
    Some(texts("content")).filter(|text| !text.is_empty()).unwrap_or_else(|| texts("summary"))
}
