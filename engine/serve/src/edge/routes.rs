//! The route table: every path that this engine answers, in one place. docs/vllm.md says of each what of vLLM's it is.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Instant;

use axum::Router;
use axum::body::Body;
use axum::extract::{MatchedPath, Request, State};
use axum::middleware::{Next, from_fn, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use futures_util::FutureExt;
use http_body_util::BodyExt;

use super::{
    admin, batch, blocks, cors, derender, door, embeddings, inference, invocations, keys, lora, messages, probe, render,
    request_id, responses, server_info, state, tokens, work,
};
use crate::edge::app::App;
use crate::edge::keys::Keys;

pub fn router(app: Arc<App>) -> Router {
    let developers = if app.dev_mode { admin::routes() } else { Router::new() };
    let adapters = if app.loader.is_some() { lora::routes() } else { Router::new() };
    let tokenizer = if app.tokenizer_info.is_some() { tokens::info_routes() } else { Router::new() };
    let keys = Keys::new(&app.http.api_keys);
    let (cors, root) = (Arc::new(app.http.cors.clone()), app.http.root_path.clone());
    // As in vLLM: an engine generates or embeds, and what it does not do is not there.
    let does = if app.pooling.is_some() { embeddings::routes() } else { generation() };
    let mut routes = Router::new()
        // --- only where asked for
        .merge(developers)
        .merge(adapters)
        .merge(tokenizer)
        .merge(does)
        // --- token ids
        .route("/tokenize", post(tokens::tokenize))
        .route("/detokenize", post(tokens::detokenize))
        .route("/v1/messages/count_tokens", post(messages::count_tokens))
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
        .layer(from_fn(request_id::echo));
    if !keys.is_empty() {
        routes = routes.layer(from_fn_with_state(keys, keys::guard));
    }
    let routes =
        routes.layer(from_fn_with_state(cors, cors::answer)).layer(from_fn_with_state(Arc::clone(&app), count)).with_state(app);
    // Below the prefix, layers see paths without it.
    if root.is_empty() { routes } else { Router::new().nest(&root, routes.clone()).fallback_service(routes) }
}

/// The endpoints of an engine that generates.
fn generation() -> Router<Arc<App>> {
    Router::new()
        .route("/v1/chat/completions", post(door::chat))
        .route("/v1/completions", post(door::completion))
        .route("/v1/responses", post(responses::create))
        .route("/v1/responses/{response_id}", get(responses::retrieve))
        .route("/v1/responses/{response_id}/cancel", post(responses::cancel))
        .route("/v1/messages", post(messages::answer))
        .route("/v1/chat/completions/batch", post(batch::answer))
        .route("/inference/v1/generate", post(inference::answer))
        .route("/inference/v1/abort_requests", post(admin::abort_by_id))
        .route("/invocations", post(invocations::answer))
        .route("/v1/chat/completions/render", post(render::chat))
        .route("/v1/completions/render", post(render::completion))
        .route("/v1/messages/render", post(render::message))
        .route("/v1/responses/render", post(render::response))
        .route("/v1/chat/completions/derender", post(derender::chat))
        .route("/v1/completions/derender", post(derender::completion))
}

/// Counts answers by handler and status, and catches panics.
async fn count(State(app): State<Arc<App>>, request: Request, next: Next) -> Response {
    let began = Instant::now();
    let path = request.extensions().get::<MatchedPath>().cloned();
    let response = AssertUnwindSafe(next.run(request)).catch_unwind().await;
    let response = response.unwrap_or_else(|_| work::failed().into_response());
    let root = app.http.root_path.as_str();
    let path = path.as_ref().map(|path| path.as_str().strip_prefix(root).unwrap_or(path.as_str()));
    let answering = app.metrics.answered(path, response.status().as_u16(), began);
    // The body holds it, and drops it at its end.
    response.map(|body| {
        Body::new(body.map_err(move |error| {
            let _ = &answering;
            error
        }))
    })
}
