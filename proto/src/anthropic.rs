//! Bodies of Anthropic's Messages API, as vLLM 0.33 serves it at `/v1/messages`.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// `POST /v1/messages`, and what of it `/v1/messages/count_tokens` has.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct MessagesRequest {
    pub model: Option<String>,
    /// `{"role", "content"}`; content is a text or a list of blocks.
    pub messages: Option<Vec<Value>>,
    pub max_tokens: Option<i64>,
    /// A text or a list of text blocks.
    pub system: Option<Value>,
    pub stop_sequences: Option<Vec<String>>,
    pub stream: Option<bool>,
    pub temperature: Option<f64>,
    pub top_k: Option<i64>,
    pub top_p: Option<f64>,
    pub tools: Option<Vec<Value>>,
    pub tool_choice: Option<Value>,
    pub thinking: Option<Value>,
    pub output_config: Option<Value>,
    pub metadata: Option<Value>,
    // --- vLLM's own
    pub cache_salt: Option<String>,
    pub chat_template_kwargs: Option<Map<String, Value>>,
    pub kv_transfer_params: Option<Value>,
    pub ec_transfer_params: Option<Value>,
    pub watermarking: Option<bool>,
}

/// The error body: `{"type": "error", "error": {"type", "message"}}`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ErrorBody<'a> {
    #[serde(rename = "type")]
    pub kind: &'static str,
    pub error: ErrorDetail<'a>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ErrorDetail<'a> {
    #[serde(rename = "type")]
    pub kind: &'static str,
    pub message: &'a str,
}

impl<'a> ErrorBody<'a> {
    pub fn new(status: u16, message: &'a str) -> Self {
        Self { kind: "error", error: ErrorDetail { kind: error_type(status), message } }
    }
}

/// `error.type` of a status; Anthropic's clients choose their exception by it.
pub fn error_type(status: u16) -> &'static str {
    match status {
        401 => "authentication_error",
        403 => "permission_error",
        404 => "not_found_error",
        413 => "request_too_large",
        429 => "rate_limit_error",
        503 => "overloaded_error",
        500.. => "api_error",
        _ => "invalid_request_error",
    }
}
