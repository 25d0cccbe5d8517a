//! `tools` and `tool_choice` of the Responses API in the form that chats have. Functions alone: whatever else would have to run somewhere
//! is refused, and never left out.

use proto::openai::ResponsesRequest;
use serde_json::{Value, json};

use crate::edge::answer::ApiError;

/// The chat's tools and its choice among them.
pub fn of(request: &ResponsesRequest) -> Result<(Option<Vec<Value>>, Option<Value>), ApiError> {
    let asked = request.tools.as_deref().filter(|tools| !tools.is_empty());
    let tools = asked.map(|tools| tools.iter().enumerate().map(tool).collect::<Result<Vec<_>, _>>()).transpose()?;
    let Some(choice) = request.tool_choice.as_ref().filter(|choice| !choice.is_null()) else { return Ok((tools, None)) };
    match (choice.as_str(), choice["type"].as_str()) {
        // Without tools the chat itself says what is wrong with a call that must be made.
        (Some("auto" | "none" | "required"), _) => Ok((tools, Some(choice.clone()))),
        (None, Some("function")) => Ok((tools, Some(json!({"type": "function", "function": {"name": choice["name"]}})))),
        (None, Some("allowed_tools")) => {
            let names: Vec<&str> =
                choice["tools"].as_array().into_iter().flatten().filter_map(|tool| tool["name"].as_str()).collect();
            let allowed = |tool: &Value| tool["function"]["name"].as_str().is_some_and(|name| names.contains(&name));
            let tools = tools.map(|tools| tools.into_iter().filter(allowed).collect());
            let mode = if choice["mode"] == "required" { "required" } else { "auto" };
            Ok((tools, Some(mode.into())))
        }
        _ => {
            let what = "`tool_choice` must be \"none\", \"auto\", \"required\", a function, or `allowed_tools`.";
            Err(ApiError::parameter("tool_choice", what))
        }
    }
}

fn tool((i, tool): (usize, &Value)) -> Result<Value, ApiError> {
    let wrong = |what: String| ApiError::parameter("tools", format!("`tools[{i}]` {what}."));
    match tool["type"].as_str() {
        Some("function") if tool["name"].is_string() => {}
        Some("function") => return Err(wrong("has no name".into())),
        other => {
            let kind: String = other.unwrap_or("none").chars().take(40).collect();
            return Err(wrong(format!("is of type {kind:?}; this engine runs no tools and serves functions alone")));
        }
    }
    let mut function = tool.clone();
    if let Some(function) = function.as_object_mut() {
        function.remove("type");
    }
    Ok(json!({"type": "function", "function": function}))
}
