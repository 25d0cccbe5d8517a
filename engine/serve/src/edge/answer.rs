//! Answers: JSON bodies, and errors as vLLM words their envelope.

use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use engine::request::Rejected;
use http::header::{CONTENT_TYPE, RETRY_AFTER};
use http::{HeaderValue, StatusCode};
use proto::openai::ErrorBody;
use serde::Serialize;

/// Seconds after which a request that found the engine full, loading or draining may be worth another try.
const RETRY_AFTER_S: u32 = 1;

/// An error on its way to the client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ApiError {
    pub body: ErrorBody,
    pub retry_after_s: Option<u32>,
}

impl From<ErrorBody> for ApiError {
    fn from(body: ErrorBody) -> Self {
        Self { body, retry_after_s: None }
    }
}

impl ApiError {
    pub fn new(status: StatusCode, message: impl Into<String>) -> Self {
        ErrorBody::new(status.as_u16(), message).into()
    }

    /// A 400 about one parameter.
    pub fn parameter(param: &'static str, message: impl Into<String>) -> Self {
        ErrorBody::new(400, message).naming(param).into()
    }

    /// A 503 that says when to come again.
    pub fn unavailable(message: impl Into<String>) -> Self {
        Self { body: ErrorBody::new(503, message), retry_after_s: Some(RETRY_AFTER_S) }
    }

    /// The engine would not take a request whose prompt came from parameter `prompt`.
    pub fn rejected(reason: &Rejected, prompt: &'static str) -> Self {
        let message = sentence(reason);
        match reason {
            Rejected::EmptyPrompt
            | Rejected::PromptTooLong { .. }
            | Rejected::TextTooLong { .. }
            | Rejected::NeverFits { .. } => Self::parameter(prompt, message),
            Rejected::TokenOutsideVocabulary { parameter: "prompt", .. } => Self::parameter(prompt, message),
            Rejected::TokenOutsideVocabulary { parameter, .. } | Rejected::Parameter { parameter, .. } => {
                Self::parameter(parameter, message)
            }
            Rejected::TooManyStopIds { .. } => Self::parameter("stop_token_ids", message),
            Rejected::QueueFull { .. }
            | Rejected::QueueTokensFull { .. }
            | Rejected::Paused
            | Rejected::Draining
            | Rejected::EngineDead => Self::unavailable(message),
        }
    }
}

/// An error's words as a sentence. A field's path at its beginning, such as `messages[1].content`, keeps its letters.
pub fn sentence(error: impl ToString) -> String {
    let text = error.to_string();
    let path = text.split_whitespace().next().is_some_and(|word| word.contains(['[', '.', '_']));
    let mut letters = text.chars();
    let upper = |letter: char| if path { letter.to_string() } else { letter.to_uppercase().to_string() };
    let first = letters.next().map(upper).unwrap_or_default();
    let end = if text.ends_with('.') { "" } else { "." };
    format!("{first}{}{end}", letters.as_str())
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.body.error.code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let mut response = json(status, &self.body);
        if let Some(seconds) = self.retry_after_s {
            response.headers_mut().insert(RETRY_AFTER, HeaderValue::from(seconds));
        }
        response
    }
}

/// A JSON answer.
pub fn json(status: StatusCode, body: &impl Serialize) -> Response {
    match serde_json::to_vec(body) {
        Ok(bytes) => bytes_of(status, "application/json", bytes),
        // Only a map with keys that are no strings, or a float that is no number, could do this.
        Err(error) => bytes_of(StatusCode::INTERNAL_SERVER_ERROR, "text/plain", format!("cannot write the answer: {error}")),
    }
}

pub fn bytes_of(status: StatusCode, content_type: &'static str, body: impl Into<Bytes>) -> Response {
    let mut response = Response::new(axum::body::Body::from(body.into()));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}
