//! From a request body to what is asked of the engine: every parameter checked against its limits, defaults filled in as vLLM does.

use std::sync::Arc;

use domain::ExtraKeys;
use engine::request::{FinishRules, Sampling};
use engine_assets::Generation;
use proto::openai::Request;

use super::answer::ApiError;
use super::refuse;

/// Most stop strings of one request: each is looked for in every piece of text.
const STOP_STRINGS_MAX: usize = 64;
/// Longest stop string. The longest one's length of text is held back while streaming.
const STOP_BYTES_MAX: usize = 1024;
/// Most prompts of one completion request.
const PROMPTS_MAX: usize = 256;
/// Longest cache salt, in characters.
const SALT_CHARS_MAX: usize = 128;
/// What completions generate when the client does not say, as OpenAI has it.
const COMPLETION_TOKENS: u32 = 16;

/// Which endpoint speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Endpoint {
    Chat,
    Completion,
}

impl Endpoint {
    pub fn id_prefix(self) -> &'static str {
        match self {
            Self::Chat => "chatcmpl",
            Self::Completion => "cmpl",
        }
    }

    /// The parameter that holds the prompt.
    pub fn prompt_param(self) -> &'static str {
        match self {
            Self::Chat => "messages",
            Self::Completion => "prompt",
        }
    }
}

/// What the model brings to a plan.
#[derive(Clone, Copy, Debug)]
pub struct ModelFacts<'a> {
    pub generation: &'a Generation,
    pub vocabulary: usize,
    pub stop_ids_max: usize,
}

/// A checked request, apart from its prompt.
#[derive(Clone, Debug, PartialEq)]
pub struct Plan {
    pub sampling: Sampling,
    /// Whether the client gave the seed.
    pub seeded: bool,
    /// `None`: whatever the context leaves.
    pub tokens_max: Option<u32>,
    pub eos: Vec<u32>,
    pub stop_ids: Vec<u32>,
    pub stops: Vec<String>,
    pub include_stop: bool,
    pub skip_special_tokens: bool,
    pub extra: ExtraKeys,
    /// `kv_transfer_params` as JSON text; opaque.
    pub kv_transfer: Option<Arc<str>>,
    pub shape: Shape,
}

/// How the answer looks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Shape {
    pub stream: bool,
    pub include_usage: bool,
    pub continuous_usage: bool,
    pub token_ids: bool,
}

impl Plan {
    pub fn new(endpoint: Endpoint, request: &Request, model: &ModelFacts<'_>) -> Result<Self, ApiError> {
        refuse::unserved(request)?;
        check_prompt(endpoint, request)?;
        let eos = if request.ignore_eos.unwrap_or(false) { Vec::new() } else { model.generation.eos.clone() };
        Ok(Self {
            sampling: sampling(request, model.generation)?,
            seeded: request.seed.is_some(),
            tokens_max: tokens_max(endpoint, request, model.generation)?,
            eos,
            stop_ids: stop_ids(request, model)?,
            stops: stops(request)?,
            include_stop: request.include_stop_str_in_output.unwrap_or(false),
            skip_special_tokens: request.skip_special_tokens.unwrap_or(true),
            extra: ExtraKeys { cache_salt: salt(request)?.map(Into::into), ..ExtraKeys::default() },
            kv_transfer: request.kv_transfer_params.as_ref().map(|params| params.to_string().into()),
            shape: shape(request)?,
        })
    }

    /// When a request with this many prompt tokens ends, in a context of `length_max`.
    pub fn finish(&self, prompt_tokens: usize, length_max: usize) -> FinishRules {
        let room = u32::try_from(length_max.saturating_sub(prompt_tokens)).unwrap_or(u32::MAX).max(1);
        let tokens_max = self.tokens_max.map_or(room, |asked| asked.min(room));
        FinishRules { tokens_max, eos: self.eos.clone(), stop: self.stop_ids.clone() }
    }
}

fn check_prompt(endpoint: Endpoint, request: &Request) -> Result<(), ApiError> {
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

fn sampling(request: &Request, defaults: &Generation) -> Result<Sampling, ApiError> {
    let temperature = request.temperature.map(|value| value as f32).or(defaults.temperature).unwrap_or(1.0);
    if !(0.0..=f32::MAX).contains(&temperature) {
        return Err(ApiError::parameter("temperature", format!("`temperature` is {temperature}; it must be at least 0.")));
    }
    let top_p = request.top_p.map(|value| value as f32).or(defaults.top_p).unwrap_or(1.0);
    if !(top_p > 0.0 && top_p <= 1.0) {
        return Err(ApiError::parameter("top_p", format!("`top_p` is {top_p}; it must be above 0 and at most 1.")));
    }
    let top_k = match request.top_k {
        None => defaults.top_k.unwrap_or(0),
        Some(0 | -1) => 0,
        // A k beyond the vocabulary keeps all.
        Some(k @ 1..) => u32::try_from(k).unwrap_or(0),
        Some(k) => {
            return Err(ApiError::parameter("top_k", format!("`top_k` is {k}; it must be 0 or -1 (keep all), or at least 1.")));
        }
    };
    let seed = request.seed.map_or(0, |seed| seed as u64);
    Ok(Sampling { temperature, top_k, top_p, seed })
}

fn tokens_max(endpoint: Endpoint, request: &Request, defaults: &Generation) -> Result<Option<u32>, ApiError> {
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

fn stop_ids(request: &Request, model: &ModelFacts<'_>) -> Result<Vec<u32>, ApiError> {
    let ids = request.stop_token_ids.as_deref().unwrap_or_default();
    let (vocabulary, max) = (model.vocabulary, model.stop_ids_max);
    if ids.len() > max {
        let message = format!("`stop_token_ids` holds {} ids; at most {max} are possible.", ids.len());
        return Err(ApiError::parameter("stop_token_ids", message));
    }
    let check = |(i, id): (usize, &i64)| match u32::try_from(*id) {
        Ok(id) if (id as usize) < vocabulary => Ok(id),
        _ => {
            let message =
                format!("`stop_token_ids[{i}]` is {id}; this model's token ids are 0 to {}.", vocabulary.saturating_sub(1));
            Err(ApiError::parameter("stop_token_ids", message))
        }
    };
    ids.iter().enumerate().map(check).collect()
}

fn stops(request: &Request) -> Result<Vec<String>, ApiError> {
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

fn salt(request: &Request) -> Result<Option<&str>, ApiError> {
    let Some(salt) = request.cache_salt.as_deref() else { return Ok(None) };
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

fn shape(request: &Request) -> Result<Shape, ApiError> {
    let stream = request.stream.unwrap_or(false);
    let options = request.stream_options.unwrap_or_default();
    if request.stream_options.is_some() && !stream {
        return Err(ApiError::parameter(
            "stream_options",
            "`stream_options` belongs to a stream; set `stream` to true or leave it out.",
        ));
    }
    Ok(Shape {
        stream,
        include_usage: options.include_usage.unwrap_or(false),
        continuous_usage: options.continuous_usage_stats.unwrap_or(false),
        token_ids: request.return_token_ids.unwrap_or(false),
    })
}

#[cfg(test)]
mod tests;
