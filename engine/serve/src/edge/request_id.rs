//! A client's own name for its request. It is a label, never a key: two clients may use the same one at once.

use axum::extract::Request;
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use http::{HeaderMap, HeaderName, HeaderValue};
use proto::openai::REQUEST_ID_HEADER;

use super::answer::ApiError;

/// Longest request id: it is part of every chunk of a stream.
pub const REQUEST_ID_BYTES_MAX: usize = 256;

const HEADER: HeaderName = HeaderName::from_static(REQUEST_ID_HEADER);

/// Refuses ids that are too long before anything else happens, and echoes the others.
pub async fn echo(request: Request, next: Next) -> Response {
    let id = match from_headers(request.headers()) {
        Ok(id) => id,
        Err(error) => return error.into_response(),
    };
    let mut response = next.run(request).await;
    if let Some(id) = id {
        response.headers_mut().insert(HEADER, id);
    }
    response
}

fn from_headers(headers: &HeaderMap) -> Result<Option<HeaderValue>, ApiError> {
    let Some(value) = headers.get(HEADER) else { return Ok(None) };
    match value.to_str() {
        Ok(text) => check(text, "x-request-id").map(|()| Some(value.clone())),
        Err(_) => Err(ApiError::parameter("x-request-id", "x-request-id holds characters other than visible ASCII.")),
    }
}

fn check(id: &str, param: &'static str) -> Result<(), ApiError> {
    let (bytes, max) = (id.len(), REQUEST_ID_BYTES_MAX);
    if bytes > max {
        return Err(ApiError::parameter(param, format!("{param} has {bytes} bytes; at most {max} are possible.")));
    }
    if id.is_empty() || id.chars().any(char::is_control) {
        return Err(ApiError::parameter(param, format!("{param} is empty or holds control characters.")));
    }
    Ok(())
}

/// The id of an answer: `<prefix>-` with the header, else the body's `request_id`, else a random one.
pub fn answer_id(prefix: &str, headers: &HeaderMap, body: Option<&str>) -> Result<String, ApiError> {
    if let Some(id) = headers.get(HEADER).and_then(|value| value.to_str().ok()) {
        return Ok(format!("{prefix}-{id}"));
    }
    match body {
        Some(id) => check(id, "request_id").map(|()| format!("{prefix}-{id}")),
        None => Ok(format!("{prefix}-{:032x}", rand::random::<u128>())),
    }
}
