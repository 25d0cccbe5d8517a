//! A request of the Responses API as a chat.

use proto::openai::{Request, ResponsesRequest};
use serde_json::{Value, json};

use crate::edge::answer::ApiError;

/// The chat that `request` continues after `before`, and its messages without the instructions, which hold for one response alone.
pub fn chat(request: &ResponsesRequest, before: &[Value]) -> Result<(Request, Vec<Value>), ApiError> {
    let wrong = |param: &'static str, message: &str| Err(ApiError::parameter(param, message));
    if request.background == Some(true) {
        return wrong("background", "This engine does not serve `background`; leave it out.");
    }
    if request.truncation.as_deref() == Some("auto") {
        return wrong("truncation", "This engine does not shorten conversations; `truncation` must be \"disabled\".");
    }
    if request.prompt.as_ref().is_some_and(|prompt| !prompt.is_null()) {
        return wrong("prompt", "This engine keeps no prompt templates; leave `prompt` out.");
    }
    let mut messages = before.to_vec();
    match &request.input {
        Some(Value::String(text)) => messages.push(json!({"role": "user", "content": text})),
        Some(Value::Array(items)) if !items.is_empty() => {
            for (i, item) in items.iter().enumerate() {
                push(&mut messages, i, item)?;
            }
        }
        _ => return wrong("input", "`input` is missing or empty; it is a text or a list of items."),
    }
    let mut turns = messages.clone();
    if let Some(instructions) = &request.instructions {
        turns.insert(0, json!({"role": "system", "content": instructions}));
    }
    let tools = request.tools.as_deref().filter(|tools| !tools.is_empty());
    if tools.is_some() && request.tool_choice.as_ref().is_none_or(|choice| choice != "none") {
        // Calls have no items here yet, and must not be lost.
        return wrong("tools", "This engine serves `tools` in chats and messages; here `tool_choice` must be \"none\".");
    }
    let format = request.text.as_ref().map(|text| &text["format"]).filter(|format| !format.is_null());
    let chat = Request {
        model: request.model.clone(),
        messages: Some(turns),
        max_completion_tokens: request.max_output_tokens,
        temperature: request.temperature,
        top_p: request.top_p,
        top_k: request.top_k,
        min_p: request.min_p,
        seed: request.seed,
        presence_penalty: request.presence_penalty,
        frequency_penalty: request.frequency_penalty,
        repetition_penalty: request.repetition_penalty,
        logit_bias: request.logit_bias.clone(),
        stop: request.stop.clone(),
        stop_token_ids: request.stop_token_ids.clone(),
        ignore_eos: request.ignore_eos,
        include_stop_str_in_output: request.include_stop_str_in_output,
        skip_special_tokens: request.skip_special_tokens,
        stream: request.stream,
        tools: tools.map(|tools| tools.iter().map(tool).collect()),
        tool_choice: request.tool_choice.as_ref().filter(|_| tools.is_some()).map(tool_choice),
        parallel_tool_calls: request.parallel_tool_calls,
        reasoning_effort: request.reasoning.as_ref().and_then(|reasoning| reasoning["effort"].as_str().map(str::to_owned)),
        include_reasoning: request.include_reasoning,
        response_format: format.map(response_format),
        structured_outputs: request.structured_outputs.clone(),
        request_id: request.request_id.clone(),
        cache_salt: request.cache_salt.clone(),
        priority: request.priority,
        chat_template_kwargs: request.chat_template_kwargs.clone(),
        kv_transfer_params: request.kv_transfer_params.clone(),
        ec_transfer_params: request.ec_transfer_params.clone(),
        mm_processor_kwargs: request.mm_processor_kwargs.clone(),
        media_io_kwargs: request.media_io_kwargs.clone(),
        watermarking: request.watermarking,
        ..Request::default()
    };
    Ok((chat, messages))
}

fn push(messages: &mut Vec<Value>, i: usize, item: &Value) -> Result<(), ApiError> {
    let wrong = |what: String| Err(ApiError::parameter("input", format!("`input[{i}]` {what}.")));
    match item["type"].as_str() {
        None | Some("message") => {
            let Some(role) = item["role"].as_str() else { return wrong("has no role".into()) };
            let role = if role == "developer" { "system" } else { role };
            let content = match &item["content"] {
                Value::String(text) => text.clone(),
                Value::Array(parts) => {
                    let mut texts = String::new();
                    for part in parts {
                        match part["text"].as_str() {
                            Some(text) => texts.push_str(text),
                            None => return wrong("holds a part that is no text".into()),
                        }
                    }
                    texts
                }
                _ => return wrong("has no content".into()),
            };
            messages.push(json!({"role": role, "content": content}));
        }
        Some("function_call") => {
            let call = json!({
                "id": item["call_id"], "type": "function",
                "function": {"name": item["name"], "arguments": item["arguments"]},
            });
            // Calls that follow one another are one message's.
            match messages.last_mut().and_then(|last| last.get_mut("tool_calls")?.as_array_mut()) {
                Some(calls) => calls.push(call),
                None => messages.push(json!({"role": "assistant", "content": "", "tool_calls": [call]})),
            }
        }
        Some("function_call_output") => {
            let output = item["output"].as_str().map_or_else(|| item["output"].to_string(), str::to_owned);
            messages.push(json!({"role": "tool", "tool_call_id": item["call_id"], "content": output}));
        }
        // What the model thought before is not shown to it again.
        Some("reasoning") => {}
        Some(other) => {
            return wrong(format!(
                "is of type {:?}, which this engine does not read",
                other.chars().take(40).collect::<String>()
            ));
        }
    }
    Ok(())
}

fn tool(tool: &Value) -> Value {
    let mut function = tool.clone();
    if let Some(function) = function.as_object_mut() {
        function.remove("type");
    }
    json!({"type": "function", "function": function})
}

fn tool_choice(choice: &Value) -> Value {
    match choice {
        Value::Object(_) => json!({"type": "function", "function": {"name": choice["name"]}}),
        other => other.clone(),
    }
}

fn response_format(format: &Value) -> Value {
    match format["type"].as_str() {
        Some("json_schema") => json!({
            "type": "json_schema",
            "json_schema": {"name": format["name"], "schema": format["schema"], "strict": format["strict"]},
        }),
        _ => format.clone(),
    }
}
