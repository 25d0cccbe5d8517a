//! The route table: every path that this engine answers, in one place. docs/vllm.md says of each what of vLLM's it is.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use axum::Router;
use axum::extract::{MatchedPath, Request, State};
use axum::middleware::{Next, from_fn, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use futures_util::FutureExt;

use super::{
    admin, blocks, chat, completion, inference, messages, probe, render, request_id, responses, server_info, state, tokens, work,
};
use crate::edge::app::App;

pub fn router(app: Arc<App>) -> Router {
    let developers = if app.dev_mode { admin::routes() } else { Router::new() };
    Router::new()
        // --- only where asked for
        .merge(developers)
        // --- generation
        .route("/v1/chat/completions", post(chat::answer))
        .route("/v1/completions", post(completion::answer))
        .route("/v1/responses", post(responses::create))
        .route("/v1/responses/{response_id}", get(responses::retrieve))
        .route("/v1/responses/{response_id}/cancel", post(responses::cancel))
        .route("/v1/messages", post(messages::answer))
        .route("/inference/v1/generate", post(inference::answer))
        // --- token ids
        .route("/tokenize", post(tokens::tokenize))
        .route("/detokenize", post(tokens::detokenize))
        .route("/v1/messages/count_tokens", post(messages::count_tokens))
        .route("/v1/chat/completions/render", post(render::chat))
        .route("/v1/completions/render", post(render::completion))
        .route("/v1/messages/render", post(render::message))
        // --- who this engine is
        .route("/v1/models", get(probe::models))
        .route("/version", get(probe::version))
        .route("/server_info", get(server_info::answer))
        .route("/kv_event_sources", get(probe::kv_event_sources))
        // --- how it is
        .route("/health", get(probe::health))
        .route("/ping", get(probe::health).post(probe::health))
        .route("/readyz", get(probe::ready))
        .route("/load", get(probe::load))
        .route("/metrics", get(probe::metrics))
        // --- Trackside's own
        .route("/trackside/v1/state", get(state::follow))
        .route("/trackside/v1/blocks", get(blocks::list))
        .fallback(probe::not_found)
        .method_not_allowed_fallback(probe::wrong_method)
        .layer(from_fn(request_id::echo))
        .layer(from_fn_with_state(Arc::clone(&app), count))
        .with_state(app)
}

/// Counts answers by handler and status, and catches panics.
async fn count(State(app): State<Arc<App>>, request: Request, next: Next) -> Response {
    let path = request.extensions().get::<MatchedPath>().cloned();
    let response = AssertUnwindSafe(next.run(request)).catch_unwind().await;
    let response = response.unwrap_or_else(|_| work::failed().into_response());
    app.metrics.answered(path.as_ref().map(MatchedPath::as_str), response.status().as_u16());
    response
}
