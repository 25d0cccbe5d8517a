//! `/v1/chat/completions` and `/v1/completions`, from a body to who answers it.

use std::sync::Arc;
use std::time::Instant;

use axum::body::Body;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use http::HeaderMap;
use proto::openai::Request;

use super::answer::ApiError;
use super::http::read_body;
use super::plan::Endpoint;
use super::{chat, completion, generate, orca, work};
use crate::edge::app::App;

pub async fn chat(State(app): State<Arc<App>>, headers: HeaderMap, body: Body) -> Response {
    answer(&app, Endpoint::Chat, headers, body).await
}

pub async fn completion(State(app): State<Arc<App>>, headers: HeaderMap, body: Body) -> Response {
    answer(&app, Endpoint::Completion, headers, body).await
}

async fn answer(app: &Arc<App>, endpoint: Endpoint, headers: HeaderMap, body: Body) -> Response {
    let answered = orca::report(app, &headers, read(app, endpoint, headers.clone(), body).await);
    answered.unwrap_or_else(IntoResponse::into_response)
}

async fn read(app: &Arc<App>, endpoint: Endpoint, headers: HeaderMap, body: Body) -> Result<Response, ApiError> {
    let arrived = Instant::now();
    let body = read_body(body, app.body_bytes_max).await?;
    run(app, endpoint, headers, body.len(), move || Ok(proto::openai::read(&body)?), arrived).await
}

/// Answers the request that `read` gives, whose body has so many bytes.
pub async fn run(
    app: &Arc<App>,
    endpoint: Endpoint,
    headers: HeaderMap,
    bytes: usize,
    read: impl FnOnce() -> Result<Request, ApiError> + Send + 'static,
    arrived: Instant,
) -> Result<Response, ApiError> {
    let checked = work::run(app, bytes, move |app| generate::check(app, endpoint, &headers, read()?, arrived));
    let begun = generate::begin(app, checked.await?).await?;
    match endpoint {
        Endpoint::Chat => chat::answer(begun).await,
        Endpoint::Completion => completion::answer(begun).await,
    }
}
