//! A request of the Responses API as a chat.

use proto::openai::{Request, ResponsesRequest};
use serde_json::{Value, json};

use super::{input, tools};
use crate::edge::answer::ApiError;

/// The chat that `request` continues after `before`, and its messages without the instructions, which hold for one response alone.
pub fn chat(request: &ResponsesRequest, before: &[Value]) -> Result<(Request, Vec<Value>), ApiError> {
    let wrong = |param: &'static str, message: &str| Err(ApiError::parameter(param, message));
    if request.background == Some(true) {
        return wrong("background", "This engine does not serve `background`; leave it out.");
    }
    let truncates = match request.truncation.as_deref() {
        None | Some("disabled") => false,
        Some("auto") => true,
        Some(_) => return wrong("truncation", "`truncation` must be \"auto\" or \"disabled\"."),
    };
    if request.prompt.as_ref().is_some_and(|prompt| !prompt.is_null()) {
        return wrong("prompt", "This engine keeps no prompt templates; leave `prompt` out.");
    }
    let mut messages = before.to_vec();
    match &request.input {
        Some(Value::String(text)) => messages.push(json!({"role": "user", "content": text})),
        Some(Value::Array(items)) if !items.is_empty() => {
            for (i, item) in items.iter().enumerate() {
                input::push(&mut messages, i, item)?;
            }
        }
        _ => return wrong("input", "`input` is missing or empty; it is a text or a list of items."),
    }
    let mut turns = messages.clone();
    if let Some(instructions) = &request.instructions {
        turns.insert(0, json!({"role": "system", "content": instructions}));
    }
    let (tools, tool_choice) = tools::of(request)?;
    let continues = matches!(&request.input, Some(Value::Array(items)) if items.last().is_some_and(input::is_partial));
    let tells = request.include.iter().flatten().any(|what| what == "message.output_text.logprobs");
    let format = request.text.as_ref().map(|text| &text["format"]).filter(|format| !format.is_null());
    let chat = Request {
        model: request.model.clone(),
        messages: Some(turns),
        // As vLLM: what the context takes.
        truncate_prompt_tokens: truncates.then_some(-1),
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
        logprobs: tells.then(|| true.into()),
        top_logprobs: request.top_logprobs.filter(|_| tells),
        continue_final_message: continues.then_some(true),
        tools,
        tool_choice,
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

fn response_format(format: &Value) -> Value {
    match format["type"].as_str() {
        Some("json_schema") => json!({
            "type": "json_schema",
            "json_schema": {"name": format["name"], "schema": format["schema"], "strict": format["strict"]},
        }),
        _ => format.clone(),
    }
}
