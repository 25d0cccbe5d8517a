//! What vLLM serves in its developer mode: pausing, sleeping, waking, forgetting the cache, aborting. Paths, queries and answers are those
//! of vLLM 0.33 (`entrypoints/rl/online/api_router.py`, `entrypoints/serve/dev`). Whoever reaches these can stop the engine, so they are
//! there only where they were asked for.

use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use engine::backend::Sleep;
use engine::handle::{Busy, Handle, PauseMode, Quiet, Reset, Wake};
use engine::request::FinishReason;
use http::StatusCode;
use serde_json::{Map, Value, json as value};
use tokio::sync::oneshot;

use super::answer::{ApiError, json, sentence};
use super::http::read_body;
use crate::edge::app::App;

pub fn routes() -> Router<Arc<App>> {
    Router::new()
        .route("/pause", post(pause))
        .route("/resume", post(resume))
        .route("/is_paused", get(is_paused))
        .route("/sleep", post(sleep))
        .route("/wake_up", post(wake_up))
        .route("/is_sleeping", get(is_sleeping))
        .route("/reset_prefix_cache", post(reset_prefix_cache))
        .route("/abort_requests", post(abort_requests))
        .route("/reset_mm_cache", post(reset_nothing))
        .route("/reset_encoder_cache", post(reset_nothing))
        .route("/get_world_size", get(world_size))
        .route("/weight_info", get(weight_info))
}

type Answer = Result<Response, ApiError>;

async fn pause(State(app): State<Arc<App>>, request: Request) -> Answer {
    let query = Query::of(&request);
    let (mode, clear) = (query.mode()?, query.flag("clear_cache", true)?);
    let quiet = Quiet { clear: clear && mode != PauseMode::Keep, sleep: None };
    // As vLLM: who keeps his requests also takes new ones, into the queue.
    ask(&app, |handle, reply| handle.pause(mode, quiet, mode != PauseMode::Keep, move || reply(()))).await?;
    Ok(ok(&value!({ "status": "paused" })))
}

async fn resume(State(app): State<Arc<App>>) -> Answer {
    ask(&app, |handle, reply| handle.resume(move || reply(()))).await?;
    Ok(ok(&value!({ "status": "resumed" })))
}

async fn is_paused(State(app): State<Arc<App>>) -> Answer {
    let stats = app.stats().ok_or_else(|| app.unavailable())?;
    Ok(ok(&value!({ "is_paused": stats.paused })))
}

async fn sleep(State(app): State<Arc<App>>, request: Request) -> Answer {
    let query = Query::of(&request);
    let mode = query.mode()?;
    let (level, sleep) = match query.last("level").unwrap_or("1") {
        "0" => (0, None),
        "1" => (1, Some(Sleep::Offload)),
        "2" => (2, Some(Sleep::Discard)),
        other => return Err(ApiError::parameter("level", format!("`level` is {other}; it must be 0, 1 or 2."))),
    };
    let quiet = Quiet { clear: sleep.is_some(), sleep };
    let _measured = app.metrics.sleeping();
    ask(&app, |handle, reply| handle.pause(mode, quiet, false, move || reply(()))).await?;
    Ok(ok(&value!({ "status": "sleeping", "level": level })))
}

async fn wake_up(State(app): State<Arc<App>>, request: Request) -> Answer {
    let tags = Query::of(&request).all("tags");
    for tag in &tags {
        if !matches!(&tag[..], "weights" | "kv_cache" | "scheduling") {
            let message = format!("`tags` holds {tag}; it may hold weights, kv_cache and scheduling.");
            return Err(ApiError::parameter("tags", message));
        }
    }
    let named = |name: &str| tags.is_empty() || tags.iter().any(|tag| tag == name);
    let wake = Wake { weights: named("weights"), kv_cache: named("kv_cache") };
    let _measured = app.metrics.waking();
    let awake = ask(&app, |handle, reply| handle.wake(wake, reply)).await?;
    let tags = if tags.is_empty() { Value::Null } else { tags.into() };
    Ok(ok(&value!({ "status": if awake { "awake" } else { "sleeping" }, "tags": tags })))
}

async fn is_sleeping(State(app): State<Arc<App>>) -> Answer {
    let stats = app.stats().ok_or_else(|| app.unavailable())?;
    Ok(ok(&value!({ "is_sleeping": stats.paused || stats.sleep_level > 0 })))
}

async fn reset_prefix_cache(State(app): State<Arc<App>>, request: Request) -> Answer {
    let query = Query::of(&request);
    let reset = Reset { running: query.flag("reset_running_requests", false)?, lower: query.flag("reset_external", false)? };
    let success = ask(&app, |handle, reply| handle.reset_prefix_cache(reset, reply)).await?;
    Ok(ok(&value!({ "success": success })))
}

/// Without ids, all requests end.
async fn abort_requests(State(app): State<Arc<App>>, request: Request) -> Answer {
    let body = read_body(request.into_body(), app.body_bytes_max).await?;
    let body: Value = serde_json::from_slice(&body).map_err(|_| ApiError::new(StatusCode::BAD_REQUEST, "Invalid JSON format"))?;
    let Some(body) = body.as_object() else {
        return Err(ApiError::new(StatusCode::BAD_REQUEST, "Request body must be a JSON object"));
    };
    let handle = app.handle().ok_or_else(|| app.unavailable())?;
    if let Some(ids) = body.get("request_ids").and_then(Value::as_array).filter(|ids| !ids.is_empty()) {
        abort(&app, handle, ids);
        return Ok(ok(&value!({ "status": "aborted", "aborted": ids.len() })));
    }
    let stats = handle.stats();
    handle.abort_all(FinishReason::Aborted).map_err(busy)?;
    Ok(ok(&value!({ "status": "aborted", "aborted": stats.running + stats.waiting })))
}

/// `POST /inference/v1/abort_requests`: ends the requests of these ids. An id that is unknown or has ended is passed over.
pub async fn abort_by_id(State(app): State<Arc<App>>, body: Body) -> Answer {
    let body = read_body(body, app.body_bytes_max).await?;
    let body: Map<String, Value> = proto::openai::read(&body)?;
    let Some(ids) = body.get("request_ids").and_then(Value::as_array) else {
        return Err(ApiError::parameter("request_ids", "Missing 'request_ids' in request body"));
    };
    abort(&app, app.handle().ok_or_else(|| app.unavailable())?, ids);
    Ok(StatusCode::OK.into_response())
}

fn abort(app: &App, handle: &Handle, ids: &[Value]) {
    let open = ids.iter().filter_map(Value::as_str).flat_map(|id| app.open.find(id));
    open.for_each(|id| handle.abort(id, FinishReason::Aborted));
}

/// vLLM's caches of images, of which there is none to forget here.
async fn reset_nothing() -> StatusCode {
    StatusCode::OK
}

/// Processes that hold the model together.
async fn world_size() -> Response {
    ok(&value!({ "world_size": 1 }))
}

/// Weights are those that were loaded at the start.
async fn weight_info() -> Response {
    ok(&value!({ "weight_version": "default" }))
}

/// Gives the engine a command and waits for its answer.
async fn ask<T: Send + 'static>(
    app: &App,
    command: impl FnOnce(&Handle, Box<dyn FnOnce(T) + Send>) -> Result<(), Busy>,
) -> Result<T, ApiError> {
    let handle = app.handle().ok_or_else(|| app.unavailable())?;
    let (reply, answer) = oneshot::channel();
    // The client may be gone when the answer comes; then nobody takes it.
    command(handle, Box::new(move |answer| drop(reply.send(answer)))).map_err(busy)?;
    answer.await.map_err(|_| app.unavailable())
}

fn busy(busy: Busy) -> ApiError {
    ApiError::unavailable(sentence(busy))
}

fn ok(body: &Value) -> Response {
    json(StatusCode::OK, body).into_response()
}

/// A request's query. Values of these endpoints need no unescaping.
struct Query<'a>(Vec<(&'a str, &'a str)>);

impl<'a> Query<'a> {
    fn of(request: &'a Request) -> Self {
        let parts = request.uri().query().unwrap_or_default().split('&');
        Self(parts.filter_map(|part| part.split_once('=')).collect())
    }

    fn last(&self, name: &str) -> Option<&'a str> {
        self.0.iter().rev().find(|(key, _)| *key == name).map(|(_, value)| *value)
    }

    fn all(&self, name: &str) -> Vec<String> {
        self.0.iter().filter(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned()).collect()
    }

    /// What pydantic takes for a boolean.
    fn flag(&self, name: &'static str, default: bool) -> Result<bool, ApiError> {
        let Some(value) = self.last(name) else { return Ok(default) };
        match &value.to_ascii_lowercase()[..] {
            "1" | "true" | "on" | "yes" | "t" | "y" => Ok(true),
            "0" | "false" | "off" | "no" | "f" | "n" => Ok(false),
            _ => Err(ApiError::parameter(name, format!("`{name}` is {value}; it must be true or false."))),
        }
    }

    fn mode(&self) -> Result<PauseMode, ApiError> {
        match self.last("mode").unwrap_or("abort") {
            "abort" => Ok(PauseMode::Abort),
            "wait" => Ok(PauseMode::Wait),
            "keep" => Ok(PauseMode::Keep),
            other => Err(ApiError::parameter("mode", format!("`mode` is {other}; it must be abort, wait or keep."))),
        }
    }
}
