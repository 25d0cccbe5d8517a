//! A request of the Messages API as a chat: the same conversation in the form that templates read.

use engine_text::call_arguments;
use proto::anthropic::MessagesRequest;
use proto::openai::{Request, Stop};
use serde_json::{Map, Value, json};

use crate::edge::answer::ApiError;

/// A line that Claude Code puts before its system prompt, with a hash that is new in every request: it says nothing to a model, and
/// would keep every prompt from the prefix cache.
const BILLING: &str = "x-anthropic-billing-header";

/// The chat that `request` means. System texts within the conversation move to its beginning, where every template takes them.
pub fn chat(request: MessagesRequest, counts_only: bool) -> Result<Request, ApiError> {
    let wrong = |param: &'static str, message: String| Err(ApiError::parameter(param, message));
    let Some(messages) = request.messages.filter(|messages| !messages.is_empty()) else {
        return wrong("messages", "`messages` is missing or empty; a chat has at least one.".into());
    };
    if request.model.as_deref().is_none_or(str::is_empty) {
        return wrong("model", "`model` is missing.".into());
    }
    if !counts_only && request.max_tokens.is_none_or(|max| max < 1) {
        return wrong("max_tokens", "`max_tokens` is missing; it must be at least 1.".into());
    }
    let thinking = request.thinking.as_ref().filter(|thinking| !thinking.is_null());
    let budget = match thinking.map(|thinking| thinking["type"].as_str()) {
        None | Some(Some("disabled" | "adaptive")) => None,
        Some(Some("enabled")) => thinking.and_then(|thinking| thinking.get("budget_tokens").cloned()),
        Some(_) => return wrong("thinking", "`thinking.type` must be \"enabled\", \"disabled\" or \"adaptive\".".into()),
    };
    // As vLLM: no thought is an effort of none, and an effort that is given is the last word.
    let disabled = thinking.is_some_and(|thinking| thinking["type"] == "disabled").then_some("none");
    let effort = request.output_config.as_ref().and_then(|config| config["effort"].as_str()).or(disabled);
    let mut system = String::new();
    request.system.iter().for_each(|content| push_system(&mut system, content));
    let mut turns = Vec::with_capacity(messages.len() + 1);
    for (i, message) in messages.iter().enumerate() {
        match message["role"].as_str() {
            Some("system") => push_system(&mut system, &message["content"]),
            Some(role @ ("user" | "assistant")) => turn(&mut turns, i, role, &message["content"])?,
            _ => return wrong("messages", format!("`messages[{i}]`: the role must be user, assistant or system.")),
        }
    }
    if !system.is_empty() {
        turns.insert(0, json!({"role": "system", "content": system}));
    }
    let tools: Option<Vec<Value>> = request.tools.filter(|tools| !tools.is_empty()).map(|tools| tools.iter().map(tool).collect());
    let format = request.output_config.as_ref().map(|config| &config["format"]).filter(|format| format["type"] == "json_schema");
    Ok(Request {
        model: request.model,
        messages: Some(turns),
        max_completion_tokens: request.max_tokens,
        stop: request.stop_sequences.map(Stop),
        stream: request.stream,
        temperature: request.temperature,
        top_k: request.top_k,
        top_p: request.top_p,
        thinking_token_budget: budget,
        reasoning_effort: effort.map(str::to_owned),
        tool_choice: request.tool_choice.as_ref().filter(|_| tools.is_some()).map(tool_choice),
        parallel_tool_calls: request.tool_choice.as_ref().map(|choice| choice["disable_parallel_tool_use"] != true),
        tools,
        response_format: format
            .map(|format| json!({"type": "json_schema", "json_schema": {"name": "output", "schema": format["schema"]}})),
        cache_salt: request.cache_salt,
        chat_template_kwargs: request.chat_template_kwargs,
        kv_transfer_params: request.kv_transfer_params,
        ec_transfer_params: request.ec_transfer_params,
        watermarking: request.watermarking,
        ..Request::default()
    })
}

fn push_system(system: &mut String, content: &Value) {
    let mut push = |text: &str| {
        if !text.starts_with(BILLING) {
            system.push_str(text);
        }
    };
    match content {
        Value::String(text) => push(text),
        Value::Array(blocks) => blocks.iter().filter_map(|block| block["text"].as_str()).for_each(push),
        _ => {}
    }
}

/// A message of the user or the assistant; results of tools become messages of their own before it.
fn turn(turns: &mut Vec<Value>, i: usize, role: &str, content: &Value) -> Result<(), ApiError> {
    let blocks = match content {
        Value::String(_) => {
            turns.push(json!({"role": role, "content": content}));
            return Ok(());
        }
        Value::Array(blocks) => blocks,
        _ => return Err(ApiError::parameter("messages", format!("`messages[{i}]`: the content must be a text or a list."))),
    };
    let (mut texts, mut calls, mut thought) = (Vec::new(), Vec::new(), String::new());
    for (j, block) in blocks.iter().enumerate() {
        match block["type"].as_str() {
            Some("text") => texts.extend(block["text"].as_str().filter(|text| !text.is_empty())),
            Some("thinking") => thought.push_str(block["thinking"].as_str().unwrap_or_default()),
            Some("redacted_thinking" | "tool_reference") => {}
            Some("tool_use") => {
                let arguments = call_arguments(block.get("input"))
                    .map_err(|what| ApiError::parameter("messages", format!("`messages[{i}].content[{j}]` {what}.")))?;
                let function = json!({"name": block["name"], "arguments": Value::Object(arguments).to_string()});
                calls.push(json!({"id": block["id"], "type": "function", "function": function}));
            }
            Some("tool_result") => {
                turns.push(json!({"role": "tool", "tool_call_id": block["tool_use_id"], "content": result(&block["content"])}));
            }
            other => {
                let kind: String = other.unwrap_or("none").chars().take(40).collect();
                let message = format!("`messages[{i}].content[{j}]` is of type {kind:?}, which this engine does not read.");
                return Err(ApiError::parameter("messages", message));
            }
        }
    }
    if texts.is_empty() && calls.is_empty() && (role == "user" || thought.is_empty()) {
        return Ok(());
    }
    let mut turn = Map::new();
    turn.insert("role".into(), role.into());
    turn.insert("content".into(), if texts.is_empty() { Value::from("") } else { texts.concat().into() });
    if !thought.is_empty() {
        turn.insert("reasoning_content".into(), thought.into());
    }
    if !calls.is_empty() {
        turn.insert("tool_calls".into(), calls.into());
    }
    turns.push(turn.into());
    Ok(())
}

fn result(content: &Value) -> String {
    match content {
        Value::String(text) => text.clone(),
        Value::Array(blocks) => blocks.iter().filter_map(|block| block["text"].as_str()).collect::<Vec<_>>().join("\n"),
        _ => String::new(),
    }
}

fn tool(tool: &Value) -> Value {
    let mut schema = tool["input_schema"].clone();
    if let Some(schema) = schema.as_object_mut().filter(|schema| !schema.contains_key("type")) {
        schema.insert("type".into(), "object".into());
    }
    json!({
        "type": "function",
        "function": {"name": tool["name"], "description": tool["description"], "parameters": schema},
    })
}

fn tool_choice(choice: &Value) -> Value {
    match choice["type"].as_str() {
        Some("any") => "required".into(),
        Some("tool") => json!({"type": "function", "function": {"name": choice["name"]}}),
        Some("none") => "none".into(),
        _ => "auto".into(),
    }
}
