//! What a prompt may be, and how much of it is kept.

use proto::openai::Request;

use super::Endpoint;
use crate::edge::answer::ApiError;
use crate::edge::prompt::Truncation;

/// Most prompts of one completion request, as in vLLM.
const PROMPTS_MAX: usize = 1024;
/// Longest cache salt, in characters.
const SALT_CHARS_MAX: usize = 128;

pub fn check(endpoint: Endpoint, request: &Request) -> Result<(), ApiError> {
    match endpoint {
        Endpoint::Chat => match &request.messages {
            None => Err(ApiError::parameter("messages", "`messages` is missing.")),
            Some(messages) if messages.is_empty() => {
                Err(ApiError::parameter("messages", "`messages` is empty; a chat has at least one."))
            }
            Some(_) => Ok(()),
        },
        Endpoint::Completion => match &request.prompt {
            None => Err(ApiError::parameter("prompt", "`prompt` is missing.")),
            Some(prompt) if prompt.len() > PROMPTS_MAX => {
                let message = format!("`prompt` holds {} prompts; at most {PROMPTS_MAX} are possible.", prompt.len());
                Err(ApiError::parameter("prompt", message))
            }
            Some(_) => Ok(()),
        },
    }
}

pub fn salt(salt: Option<&str>) -> Result<Option<&str>, ApiError> {
    let Some(salt) = salt else { return Ok(None) };
    let chars = salt.chars().count();
    if !(1..=SALT_CHARS_MAX).contains(&chars) {
        let message = format!("`cache_salt` has {chars} characters; 1 to {SALT_CHARS_MAX} are possible.");
        return Err(ApiError::parameter("cache_salt", message));
    }
    if salt.contains(['@', '/', '\\', '\0']) {
        return Err(ApiError::parameter("cache_salt", "`cache_salt` must not hold `@`, `/`, `\\` or NUL."));
    }
    Ok(Some(salt))
}

/// How much of the prompt is kept; `None`: all. Without a side the first tokens are, as a tokenizer does it that was not told.
pub fn truncation(tokens: Option<i64>, side: Option<&str>, length_max: usize) -> Result<Option<Truncation>, ApiError> {
    let keep_last = match side {
        None | Some("right") => false,
        Some("left") => true,
        Some(side) => {
            let side: String = side.chars().take(40).collect();
            let message = format!("`truncation_side` is {side:?}; it must be \"left\" or \"right\".");
            return Err(ApiError::parameter("truncation_side", message));
        }
    };
    let wrong = |tokens: i64, limit: String| {
        let message = format!("`truncate_prompt_tokens` is {tokens}; it must be -1 (what the context takes) or {limit}.");
        Err(ApiError::parameter("truncate_prompt_tokens", message))
    };
    let tokens_max = match tokens {
        None => return Ok(None),
        Some(-1) => None,
        Some(tokens) => match usize::try_from(tokens) {
            Ok(tokens) if (1..=length_max).contains(&tokens) => Some(tokens),
            _ => return wrong(tokens, format!("1 to {length_max}")),
        },
    };
    Ok(Some(Truncation { tokens_max, keep_last }))
}
