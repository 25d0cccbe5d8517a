//! `/invocations`: SageMaker's one door, which leads where the body belongs. vLLM 0.33 tries its request types in the same order.

use std::sync::Arc;
use std::time::Instant;

use axum::body::Body;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use http::{HeaderMap, StatusCode};
use proto::openai::Request;

use super::answer::ApiError;
use super::http::read_body;
use super::plan::Endpoint;
use super::{door, work};
use crate::edge::app::App;

/// SageMaker's name for the adapter that a request is for.
const ADAPTER_HEADER: &str = "x-amzn-sagemaker-adapter-identifier";

pub async fn answer(State(app): State<Arc<App>>, headers: HeaderMap, body: Body) -> Response {
    begin(&app, headers, body).await.unwrap_or_else(IntoResponse::into_response)
}

async fn begin(app: &Arc<App>, headers: HeaderMap, body: Body) -> Result<Response, ApiError> {
    let arrived = Instant::now();
    let body = read_body(body, app.body_bytes_max).await?;
    let bytes = body.len();
    let mut request: Request = work::run(app, bytes, move |_| Ok(proto::openai::read(&body)?)).await?;
    if let Some(adapter) = headers.get(ADAPTER_HEADER).and_then(|name| name.to_str().ok()) {
        request.model = Some(adapter.to_owned());
    }
    let endpoint = match (&request.messages, &request.prompt) {
        (Some(_), _) => Endpoint::Chat,
        (None, Some(_)) => Endpoint::Completion,
        (None, None) => {
            let message =
                "Cannot find suitable handler for request. Expected one of: ['ChatCompletionRequest', 'CompletionRequest']";
            return Err(ApiError::new(StatusCode::BAD_REQUEST, message));
        }
    };
    door::run(app, endpoint, headers, bytes, move || Ok(request), arrived).await
}
