//! Bodies of the OpenAI API as vLLM 0.33 speaks it: what clients send to the gateway and the gateway to engines.
//!
//! One [`Request`] reads both `/v1/chat/completions` (with `messages`) and `/v1/completions` (with `prompt`): all their other keys mean
//! the same. Every key may be absent or `null`, unknown keys are passed over, numbers are as wide as JSON's, so that the reader can
//! answer with the name of the parameter and its limit; see [`read`].
//!
//! Answers borrow where a streamed token would otherwise cost an allocation.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};
use serde_json::Value;

mod input;
mod output;

pub use input::{Prompt, Stop};
pub use output::{
    ChatChoice, ChatChunk, ChatChunkChoice, ChatCompletion, Completion, CompletionChoice, Delta, Message, PromptTokensDetails,
    Usage,
};

/// Value of `object` in a [`ChatCompletion`], a [`ChatChunk`] and a [`Completion`], streamed or not.
pub const CHAT_COMPLETION: &str = "chat.completion";
pub const CHAT_COMPLETION_CHUNK: &str = "chat.completion.chunk";
pub const TEXT_COMPLETION: &str = "text_completion";

/// Last event of every stream.
pub const DONE: &str = "[DONE]";

/// Request header that becomes part of the answer's id and is echoed.
pub const REQUEST_ID_HEADER: &str = "x-request-id";

/// A chat or completion request.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct Request {
    pub model: Option<String>,
    /// Chat: the conversation, as the model's template reads it.
    pub messages: Option<Vec<Value>>,
    /// Completions: one prompt or several, text or token ids.
    pub prompt: Option<Prompt>,

    // --- length
    /// Most tokens to generate. Completions generate 16 without it, chat what the context leaves.
    pub max_tokens: Option<i64>,
    /// Chat: wins over `max_tokens`.
    pub max_completion_tokens: Option<i64>,

    // --- sampling
    pub temperature: Option<f64>,
    pub top_p: Option<f64>,
    /// 0 and -1 keep all.
    pub top_k: Option<i64>,
    pub seed: Option<i64>,

    // --- ending
    pub stop: Option<Stop>,
    pub stop_token_ids: Option<Vec<i64>>,
    pub ignore_eos: Option<bool>,
    pub include_stop_str_in_output: Option<bool>,

    // --- shape of the answer
    pub n: Option<i64>,
    pub stream: Option<bool>,
    pub stream_options: Option<StreamOptions>,
    pub skip_special_tokens: Option<bool>,
    pub return_token_ids: Option<bool>,
    pub echo: Option<bool>,

    // --- prompt making
    pub add_generation_prompt: Option<bool>,
    pub continue_final_message: Option<bool>,
    pub add_special_tokens: Option<bool>,
    pub chat_template: Option<String>,
    pub chat_template_kwargs: Option<serde_json::Map<String, Value>>,
    pub documents: Option<Vec<Value>>,
    pub tools: Option<Vec<Value>>,
    pub tool_choice: Option<Value>,

    // --- serving
    pub request_id: Option<String>,
    pub cache_salt: Option<String>,
    pub priority: Option<i64>,
    /// Opaque between prefill and decode engines.
    pub kv_transfer_params: Option<Value>,

    // --- what changes an answer and is read only to be refused where it is not served
    pub logprobs: Option<Value>,
    pub top_logprobs: Option<i64>,
    pub prompt_logprobs: Option<i64>,
    pub logprob_token_ids: Option<Vec<i64>>,
    pub frequency_penalty: Option<f64>,
    pub presence_penalty: Option<f64>,
    pub repetition_penalty: Option<f64>,
    pub length_penalty: Option<f64>,
    pub min_p: Option<f64>,
    pub min_tokens: Option<i64>,
    pub logit_bias: Option<Value>,
    pub allowed_token_ids: Option<Vec<i64>>,
    pub bad_words: Option<Vec<String>>,
    pub response_format: Option<Value>,
    pub structured_outputs: Option<Value>,
    pub use_beam_search: Option<bool>,
    pub best_of: Option<i64>,
    pub suffix: Option<String>,
    pub prompt_embeds: Option<Value>,
    pub truncate_prompt_tokens: Option<i64>,
    pub spaces_between_special_tokens: Option<bool>,
    pub return_tokens_as_token_ids: Option<bool>,
    pub thinking_token_budget: Option<i64>,
    pub repetition_detection: Option<Value>,
    pub mm_processor_kwargs: Option<Value>,
    pub ec_transfer_params: Option<Value>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct StreamOptions {
    /// A last chunk without choices carries the usage.
    pub include_usage: Option<bool>,
    /// Every chunk carries the usage so far.
    pub continuous_usage_stats: Option<bool>,
}

/// `POST /tokenize`: of a text, or of a conversation through the chat template.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct TokenizeRequest {
    pub model: Option<String>,
    pub prompt: Option<String>,
    pub messages: Option<Vec<Value>>,
    /// Defaults to true for a text and to false for a conversation, whose template writes its own.
    pub add_special_tokens: Option<bool>,
    pub return_token_strs: Option<bool>,
    pub add_generation_prompt: Option<bool>,
    pub continue_final_message: Option<bool>,
    pub chat_template: Option<String>,
    pub chat_template_kwargs: Option<serde_json::Map<String, Value>>,
    pub documents: Option<Vec<Value>>,
    pub tools: Option<Vec<Value>>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TokenizeAnswer {
    pub count: usize,
    pub max_model_len: usize,
    pub tokens: Vec<u32>,
    pub token_strs: Option<Vec<String>>,
}

/// `POST /detokenize`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct DetokenizeRequest {
    pub model: Option<String>,
    pub tokens: Option<Vec<i64>>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DetokenizeAnswer {
    pub prompt: String,
}

/// `GET /v1/models`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ModelList {
    /// "list".
    pub object: Cow<'static, str>,
    pub data: Vec<ModelCard>,
}

impl ModelList {
    pub fn new(data: Vec<ModelCard>) -> Self {
        Self { object: Cow::Borrowed("list"), data }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ModelCard {
    pub id: String,
    /// "model".
    pub object: Cow<'static, str>,
    /// Unix time in seconds.
    pub created: u64,
    pub owned_by: Cow<'static, str>,
    /// Where the weights come from: a path, a Hub id, or an adapter's path.
    pub root: Option<String>,
    /// An adapter's base model.
    pub parent: Option<String>,
    pub max_model_len: Option<u32>,
}

impl ModelCard {
    pub fn new(id: String, created: u64, root: Option<String>, max_model_len: Option<u32>) -> Self {
        let (object, owned_by) = (Cow::Borrowed("model"), Cow::Borrowed("trackside"));
        Self { id, object, created, owned_by, root, parent: None, max_model_len }
    }
}

/// Every answer but a 2xx has this body: `{"error": {...}}`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErrorBody {
    pub error: ErrorDetail,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErrorDetail {
    pub message: String,
    #[serde(rename = "type")]
    pub kind: Cow<'static, str>,
    /// The parameter at fault, where one is.
    pub param: Option<Cow<'static, str>>,
    /// The HTTP status.
    pub code: u16,
}

impl ErrorBody {
    pub fn new(code: u16, message: impl Into<String>) -> Self {
        let kind = Cow::Borrowed(error_type(code));
        Self { error: ErrorDetail { message: message.into(), kind, param: None, code } }
    }

    pub fn naming(mut self, param: impl Into<Cow<'static, str>>) -> Self {
        self.error.param = Some(param.into());
        self
    }

    /// What vLLM answers for a model it does not serve.
    pub fn unknown_model(name: &str) -> Self {
        let shown: String = name.chars().take(domain::id::NAME_BYTES_MAX).collect();
        Self::new(404, format!("The model `{shown}` does not exist.")).naming("model")
    }
}

/// `error.type` of a status, as vLLM names it.
pub fn error_type(code: u16) -> &'static str {
    match code {
        404 => "NotFoundError",
        422 => "UnprocessableEntityError",
        429 => "RateLimitError",
        501 => "NotImplementedError",
        503 => "ServiceUnavailableError",
        400..=499 => "BadRequestError",
        _ => "InternalServerError",
    }
}

/// Reads a body, or says which parameter is wrong and why, as a 400.
///
/// serde_json names line and column but not the key, so a refused body is read once more, key by key.
pub fn read<T: for<'a> Deserialize<'a>>(body: &[u8]) -> Result<T, ErrorBody> {
    // Some tools write a byte order mark; RFC 8259 §8.1 lets a reader pass over it.
    let body = body.strip_prefix(b"\xef\xbb\xbf").unwrap_or(body);
    // serde would also take a list, as the fields in order.
    if body.trim_ascii_start().first() == Some(&b'[') {
        return Err(ErrorBody::new(400, "The body is not a JSON object."));
    }
    serde_json::from_slice(body).map_err(|error| explain::<T>(body, &error))
}

fn explain<T: for<'a> Deserialize<'a>>(body: &[u8], error: &serde_json::Error) -> ErrorBody {
    let object = match serde_json::from_slice::<Value>(body) {
        Ok(Value::Object(object)) => object,
        Ok(_) => return ErrorBody::new(400, "The body is not a JSON object."),
        Err(broken) => return ErrorBody::new(400, format!("The body is not valid JSON: {broken}.")),
    };
    for (key, value) in object {
        let one = Value::Object(std::iter::once((key.clone(), value)).collect());
        if let Err(error) = T::deserialize(one) {
            return ErrorBody::new(400, format!("`{key}`: {error}.")).naming(key);
        }
    }
    ErrorBody::new(400, format!("The body cannot be read: {error}."))
}

#[cfg(test)]
mod tests;
