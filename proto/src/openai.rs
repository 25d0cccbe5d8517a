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

mod derender;
mod embeddings;
mod input;
mod logprobs;
mod lora;
mod models;
mod output;
mod request;
mod responses;
mod tokens;

pub use derender::{DerenderChat, DerenderCompletion, Generated, GeneratedChoice, GeneratedLogprob, GeneratedLogprobs};
pub use embeddings::{Embedding, EmbeddingAnswer, EmbeddingRequest, EncodedVector, Pooled};
pub use input::{Prompt, Stop};
pub use logprobs::{ChatLogprob, ChatLogprobs, CompletionLogprobs, PromptLogprob, PromptLogprobs, TopLogprob};
pub use lora::{LoadLora, UnloadLora};
pub use models::{ModelCard, ModelList, Permission};
pub use output::{
    ChatChoice, ChatChunk, ChatChunkChoice, ChatCompletion, Completion, CompletionChoice, CompletionChunk, CompletionChunkChoice,
    CompletionTokensDetails, Delta, FunctionCall, FunctionDelta, Message, PromptTokensDetails, RequestMetrics, ToolCall,
    ToolCallDelta, Usage,
};
pub use request::{GenerateRequest, RepetitionDetection, Request, StreamOptions};
pub use responses::ResponsesRequest;
pub use tokens::{DetokenizeAnswer, DetokenizeRequest, TokenizeAnswer, TokenizeRequest};

/// Value of `object` in a [`ChatCompletion`], a [`ChatChunk`] and a [`Completion`], streamed or not.
pub const CHAT_COMPLETION: &str = "chat.completion";
pub const CHAT_COMPLETION_CHUNK: &str = "chat.completion.chunk";
pub const TEXT_COMPLETION: &str = "text_completion";

/// Last event of every stream.
pub const DONE: &str = "[DONE]";

/// Request header that becomes part of the answer's id and is echoed.
pub const REQUEST_ID_HEADER: &str = "x-request-id";

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
