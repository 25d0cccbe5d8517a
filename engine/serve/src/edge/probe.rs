//! Small questions that routers, supervisors and Prometheus ask often.

use std::sync::Arc;

use axum::extract::State;
use axum::response::{IntoResponse, Response};
use http::StatusCode;
use proto::openai::{ModelCard, ModelList};
use serde_json::json as value;

use super::answer::{ApiError, bytes_of, json};
use super::kv_events::QUEUE_BATCHES_MAX;
use crate::adapters::Known;
use crate::edge::app::App;

/// Prometheus' text format.
const METRICS_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

pub async fn models(State(app): State<Arc<App>>) -> Response {
    let context = u32::try_from(app.context_length()).ok();
    let card = |name: &Arc<str>| ModelCard::new(name.to_string(), app.created, Some(app.root.clone()), context);
    let adapter = |known: Known| ModelCard {
        parent: Some(app.names[0].to_string()),
        ..ModelCard::new(known.key.name.to_string(), app.created, Some(known.path.to_string()), context)
    };
    let cards = app.names.iter().map(card).chain(app.adapters.all().into_iter().map(adapter));
    json(StatusCode::OK, &ModelList::new(cards.collect()))
}

/// 200 with an empty body once the engine has answered, and while it drains; never before, and never after its thread ended.
pub async fn health(State(app): State<Arc<App>>) -> Response {
    match app.is_alive() {
        true => StatusCode::OK.into_response(),
        false => app.unavailable().into_response(),
    }
}

/// 200 while new requests are taken.
pub async fn ready(State(app): State<Arc<App>>) -> Response {
    match app.ready() {
        Ok(_) => StatusCode::OK.into_response(),
        Err(error) => error.into_response(),
    }
}

/// The release of vLLM whose contract this engine speaks: clients and routers choose parameters by it.
pub const VLLM_VERSION: &str = "0.33.0";

/// vLLM's version where vLLM has it, our own beside it.
pub async fn version() -> Response {
    json(StatusCode::OK, &value!({ "version": VLLM_VERSION, "trackside": env!("CARGO_PKG_VERSION") }))
}

pub async fn load(State(app): State<Arc<App>>) -> Response {
    json(StatusCode::OK, &value!({ "server_load": app.in_flight.counts().requests() }))
}

pub async fn metrics(State(app): State<Arc<App>>) -> Response {
    let stats = app.stats();
    bytes_of(StatusCode::OK, METRICS_TYPE, app.metrics.scrape(stats.as_ref(), &app.adapters.in_use(), app.recall()))
}

/// vLLM's `KVEventsConfig` by data-parallel rank, for subscribers that know only the HTTP address; `{}` where none are published.
/// Endpoints are as bound.
pub async fn kv_event_sources(State(app): State<Arc<App>>) -> Response {
    let mut sources = serde_json::Map::new();
    if let (Some(config), Some(endpoint)) = (&app.kv_events_config, &app.kv_events.endpoint) {
        let source = value!({
            "enable_kv_cache_events": true,
            "publisher": "zmq",
            "endpoint": endpoint,
            "replay_endpoint": app.kv_events.replay_endpoint,
            "buffer_steps": config.buffer_steps,
            "hwm": QUEUE_BATCHES_MAX,
            "max_queue_size": QUEUE_BATCHES_MAX,
            "topic": config.topic,
        });
        sources.insert(app.data_parallel_rank.to_string(), source);
    }
    json(StatusCode::OK, &sources)
}

pub async fn not_found(State(app): State<Arc<App>>, uri: http::Uri) -> Response {
    let path: String = uri.path().chars().take(200).collect();
    let why = match app.pooling {
        Some(_) => " This engine embeds: it serves /v1/embeddings and /pooling, and generates nothing.",
        None if ["/v1/embeddings", "/pooling"].contains(&&*path) => " This engine generates; give it --runner pooling to embed.",
        None => "",
    };
    ApiError::new(StatusCode::NOT_FOUND, format!("There is no {path} here.{why}")).into_response()
}

pub async fn wrong_method(method: http::Method, uri: http::Uri) -> Response {
    let path: String = uri.path().chars().take(200).collect();
    ApiError::new(StatusCode::METHOD_NOT_ALLOWED, format!("{path} does not take {method}.")).into_response()
}
