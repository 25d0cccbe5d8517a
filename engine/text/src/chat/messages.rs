//! Messages as clients send them, put into the one form that templates are written for.

use std::borrow::Cow;

use serde_json::{Map, Value};

use crate::error::TextError;

/// Most messages of one chat.
const MAX_MESSAGES: usize = 8_192;

/// The names that a message's thought has had; the first is what most templates read, the second gpt-oss's.
const REASONING: [&str; 3] = ["reasoning_content", "thinking", "reasoning"];

/// Checks messages and puts them into order: `content` a string (or, for templates that go through parts, a list of text parts),
/// `null` an empty string, a tool call's `arguments` an object, an empty `tool_calls` absent. As transformers 5.24 has it, other fields
/// that are `null` are absent, too, and a thought is there under every name that templates know.
pub(super) fn normalise(messages: &[Value], keep_parts: bool) -> Result<Vec<Cow<'_, Value>>, TextError> {
    if messages.len() > MAX_MESSAGES {
        return Err(TextError::request("messages", format!("has {} items; at most {MAX_MESSAGES} are allowed", messages.len())));
    }
    messages.iter().enumerate().map(|(index, message)| one(message, &format!("messages[{index}]"), keep_parts)).collect()
}

fn one<'a>(message: &'a Value, place: &str, keep_parts: bool) -> Result<Cow<'a, Value>, TextError> {
    let Value::Object(object) = message else {
        return Err(TextError::request(place, "is not an object"));
    };
    match object.get("role") {
        Some(Value::String(_)) => {}
        Some(_) => return Err(TextError::request(format!("{place}.role"), "is not a string")),
        None => return Err(TextError::request(place, "has no role")),
    }
    let content = content(object, place, keep_parts)?;
    let tool_calls = tool_calls(object, place)?;
    let thought = REASONING.iter().find_map(|name| object.get(*name).filter(|thought| !thought.is_null()));
    let in_order = content.is_none() && matches!(tool_calls, ToolCalls::AsTheyAre) && thought.is_none();
    if in_order && !object.values().any(Value::is_null) {
        return Ok(Cow::Borrowed(message));
    }
    let mut ordered = Map::with_capacity(object.len() + 2);
    if let Some(thought) = thought {
        ordered.insert("thinking".to_owned(), thought.clone());
    }
    let there = object.iter().filter(|(name, value)| name.as_str() == "content" || !value.is_null());
    ordered.extend(there.map(|(name, value)| (name.clone(), value.clone())));
    if let Some(thought) = thought {
        ordered.insert("reasoning_content".to_owned(), thought.clone());
    }
    if let Some(content) = content {
        ordered.insert("content".to_owned(), content);
    }
    match tool_calls {
        ToolCalls::AsTheyAre => {}
        ToolCalls::Absent => drop(ordered.shift_remove("tool_calls")),
        ToolCalls::Parsed(calls) => drop(ordered.insert("tool_calls".to_owned(), Value::Array(calls))),
    }
    Ok(Cow::Owned(Value::Object(ordered)))
}

/// The content to put in place of what the message has, if that is not in order.
fn content(message: &Map<String, Value>, place: &str, keep_parts: bool) -> Result<Option<Value>, TextError> {
    let parts = match message.get("content") {
        Some(Value::String(_)) => return Ok(None),
        // Rendered as the word None otherwise.
        None | Some(Value::Null) => return Ok(Some(Value::String(String::new()))),
        Some(Value::Array(parts)) => parts,
        Some(_) => return Err(TextError::request(format!("{place}.content"), "is neither a string nor a list of parts")),
    };
    let mut texts = Vec::with_capacity(parts.len());
    for (index, part) in parts.iter().enumerate() {
        let place = || format!("{place}.content[{index}]");
        let text = match (part, part.get("type").and_then(Value::as_str)) {
            (Value::String(text), _) => Some(text.as_str()),
            (Value::Object(part), Some("text" | "input_text" | "output_text" | "refusal") | None) => {
                part.get("text").or_else(|| part.get("refusal")).and_then(Value::as_str)
            }
            (Value::Object(_), Some(other)) => {
                return Err(TextError::request(place(), format!("is of type {other:?}; this model reads text only")));
            }
            _ => None,
        };
        texts.push(text.ok_or_else(|| TextError::request(place(), "has no text"))?);
    }
    if keep_parts {
        let part = |text: &&str| serde_json::json!({"type": "text", "text": text});
        return Ok(Some(Value::Array(texts.iter().map(part).collect())));
    }
    // As vLLM joins the parts for templates that want a string.
    Ok(Some(Value::String(texts.join("\n"))))
}

enum ToolCalls {
    AsTheyAre,
    Absent,
    Parsed(Vec<Value>),
}

fn tool_calls(message: &Map<String, Value>, place: &str) -> Result<ToolCalls, TextError> {
    let calls = match message.get("tool_calls") {
        None => return Ok(ToolCalls::AsTheyAre),
        Some(Value::Null) => return Ok(ToolCalls::Absent),
        Some(Value::Array(calls)) if calls.is_empty() => return Ok(ToolCalls::Absent),
        Some(Value::Array(calls)) => calls,
        Some(_) => return Err(TextError::request(format!("{place}.tool_calls"), "is not a list")),
    };
    let parsed = calls.iter().enumerate().map(|(index, call)| {
        let place = || format!("{place}.tool_calls[{index}]");
        let mut call = call.clone();
        let Some(function) = call.get_mut("function").and_then(Value::as_object_mut) else {
            return Err(TextError::request(place(), "has no function"));
        };
        let arguments = arguments(function.get("arguments")).map_err(|what| TextError::request(place(), what))?;
        function.insert("arguments".to_owned(), Value::Object(arguments));
        Ok(call)
    });
    Ok(ToolCalls::Parsed(parsed.collect::<Result<_, _>>()?))
}

/// A call's arguments: JSON in a string on the wire, and an object in templates. Agents send `""` and `"null"` for none. The error is
/// what the call has.
pub fn arguments(arguments: Option<&Value>) -> Result<Map<String, Value>, String> {
    let parsed = match arguments {
        None | Some(Value::Null) => return Ok(Map::new()),
        Some(Value::Object(object)) => return Ok(object.clone()),
        Some(Value::String(text)) if text.trim().is_empty() => return Ok(Map::new()),
        Some(Value::String(text)) => {
            serde_json::from_str(text).map_err(|error| format!("has arguments that are no JSON: {error}"))?
        }
        Some(other) => other.clone(),
    };
    match parsed {
        Value::Null => Ok(Map::new()),
        Value::Object(object) => Ok(object),
        _ => Err("has arguments that are no JSON object".to_owned()),
    }
}
