//! When an answer ends: lengths, stop strings, stop ids.

use engine::request::Repetition;
use engine_assets::Generation;
use proto::openai::Request;

use super::{Endpoint, ModelFacts};
use crate::edge::answer::ApiError;

/// Most stop strings of one request: each is looked for in every piece of text.
const STOP_STRINGS_MAX: usize = 64;
/// Longest stop string. The longest one's length of text is held back while streaming.
const STOP_BYTES_MAX: usize = 1024;
/// What completions generate when the client does not say, as OpenAI has it.
pub const COMPLETION_TOKENS: u32 = 16;

pub fn tokens_max(endpoint: Endpoint, request: &Request, defaults: &Generation) -> Result<Option<u32>, ApiError> {
    let (param, asked) = match (endpoint, request.max_completion_tokens) {
        (Endpoint::Chat, Some(asked)) => ("max_completion_tokens", Some(asked)),
        _ => ("max_tokens", request.max_tokens),
    };
    match asked {
        Some(tokens @ 1..) => Ok(Some(u32::try_from(tokens).unwrap_or(u32::MAX))),
        Some(tokens) => Err(ApiError::parameter(param, format!("`{param}` is {tokens}; it must be at least 1."))),
        None if endpoint == Endpoint::Completion => Ok(Some(COMPLETION_TOKENS)),
        None => Ok(defaults.max_new_tokens),
    }
}

pub fn stop_ids(request: &Request, model: &ModelFacts<'_>) -> Result<Vec<u32>, ApiError> {
    let ids = request.stop_token_ids.as_deref().unwrap_or_default();
    let max = model.stop_ids_max;
    if ids.len() > max {
        let message = format!("`stop_token_ids` holds {} ids; at most {max} are possible.", ids.len());
        return Err(ApiError::parameter("stop_token_ids", message));
    }
    super::extras::token_ids("stop_token_ids", ids, model)
}

pub fn stops(request: &Request) -> Result<Vec<String>, ApiError> {
    let Some(stops) = &request.stop else { return Ok(Vec::new()) };
    let stops = &stops.0;
    if stops.len() > STOP_STRINGS_MAX {
        let message = format!("`stop` holds {} strings; at most {STOP_STRINGS_MAX} are possible.", stops.len());
        return Err(ApiError::parameter("stop", message));
    }
    if stops.iter().any(String::is_empty) {
        return Err(ApiError::parameter("stop", "`stop` holds an empty string, which would match everywhere."));
    }
    if let Some(long) = stops.iter().find(|stop| stop.len() > STOP_BYTES_MAX) {
        let message = format!("`stop` holds a string of {} bytes; at most {STOP_BYTES_MAX} are possible.", long.len());
        return Err(ApiError::parameter("stop", message));
    }
    Ok(stops.clone())
}

/// When an output repeats itself; the rules are those of vLLM's `RepetitionDetectionParams`.
pub fn repetition(request: &Request) -> Result<Option<Repetition>, ApiError> {
    let Some(asked) = request.repetition_detection else { return Ok(None) };
    let (max, min, count) =
        (asked.max_pattern_size.unwrap_or(0), asked.min_pattern_size.unwrap_or(0), asked.min_count.unwrap_or(0));
    let wrong = |what: String| Err(ApiError::parameter("repetition_detection", format!("`repetition_detection` {what}.")));
    if min < 0 || min > max {
        return wrong(format!("asks for patterns of {min} to {max} tokens"));
    }
    if max == 0 {
        return Ok(None);
    }
    if count < 2 {
        return wrong(format!("has `min_count` {count}; it must be at least 2"));
    }
    let tokens_max = i64::from(Repetition::TOKENS_MAX);
    if max.saturating_mul(count) > tokens_max {
        return wrong(format!("looks at {max} × {count} tokens; at most {tokens_max} are possible"));
    }
    let number = |value: i64| u32::try_from(value).unwrap_or(u32::MAX);
    let tokens_min = number(request.min_tokens.unwrap_or(0).max(0));
    Ok(Some(Repetition { pattern_min: number(min).max(1), pattern_max: number(max), count: number(count), tokens_min }))
}
