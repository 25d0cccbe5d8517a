//! The operator's port: metrics, health, what the fleet looks like, why a request would go where it would go, draining.

mod explain;
mod view;

use std::sync::Arc;
use std::time::Instant;

use axum::Router;
use axum::body::Bytes;
use axum::extract::{DefaultBodyLimit, Path, Query, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use domain::{EngineId, EngineName, NodeId};
use serde::{Deserialize, Serialize};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use super::metrics::Metrics;
use super::nodes::{Nodes, NotSent};
use super::openai::{self, Problem};
use crate::choose::Chooser;

#[derive(Clone)]
pub struct Admin {
    pub chooser: Arc<Chooser>,
    pub nodes: Arc<Nodes>,
    pub metrics: Arc<Metrics>,
    pub body_bytes_max: usize,
}

impl Admin {
    /// Serves until the shutdown.
    pub async fn run(self, listener: TcpListener, shutdown: CancellationToken) -> std::io::Result<()> {
        let body_bytes_max = self.body_bytes_max;
        let routes = Router::new()
            .route("/healthz", get(async || "ok\n"))
            .route("/readyz", get(ready))
            .route("/metrics", get(metrics))
            .route("/debug/fleet", get(fleet))
            .route("/debug/decide", post(decide))
            .route("/engines/{node}/{engine}/drain", post(drain))
            .layer(DefaultBodyLimit::max(body_bytes_max))
            .with_state(self);
        axum::serve(listener, routes).with_graceful_shutdown(shutdown.cancelled_owned()).await
    }
}

fn json<T: Serialize>(status: StatusCode, body: &T) -> Response {
    match serde_json::to_vec_pretty(body) {
        Ok(text) => (status, [(header::CONTENT_TYPE, "application/json")], text).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}

fn problem(problem: &Problem) -> Response {
    let status = StatusCode::from_u16(problem.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    (status, [(header::CONTENT_TYPE, "application/json")], problem.body()).into_response()
}

/// Ready from the moment at which every connected node, and at least one, was known with its engines and blocks. The body says how
/// far it is.
async fn ready(State(admin): State<Admin>) -> Response {
    let ready = admin.nodes.has_learned();
    let status = if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    json(status, &view::Learned::of(&admin.chooser.fleet, ready, Instant::now()))
}

async fn metrics(State(admin): State<Admin>) -> Response {
    match admin.metrics.text() {
        Ok(text) => ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], text).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}

async fn fleet(State(admin): State<Admin>) -> Response {
    let ready = admin.nodes.has_learned();
    json(StatusCode::OK, &view::Fleet::of(&admin.chooser.fleet, &admin.chooser.texts, ready, Instant::now()))
}

/// Takes the body of a chat or completion request and says where it would go and why. Nothing is sent and nothing is counted.
async fn decide(State(admin): State<Admin>, body: Bytes) -> Response {
    let explained = tokio::task::spawn_blocking(move || {
        let question = openai::question_of_any(&body)?;
        let weights = admin.chooser.policy.weights;
        let explained = admin.chooser.consider(&question, |considered| explain::Explanation::of(&considered, &weights));
        explained.map_err(|refused| Problem::from(&refused))
    });
    match explained.await {
        Ok(Ok(explained)) => json(StatusCode::OK, &explained),
        Ok(Err(refused)) => problem(&refused),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}

#[derive(Deserialize)]
struct Drain {
    on: bool,
}

async fn drain(
    State(admin): State<Admin>,
    Path((node, engine)): Path<(String, String)>,
    Query(Drain { on }): Query<Drain>,
) -> Response {
    let id = EngineId { node: NodeId::new(node), name: EngineName::new(engine) };
    match admin.nodes.drain(&id, on) {
        Ok(()) => {
            (StatusCode::ACCEPTED, format!("drain of {id} {}\n", if on { "asked for" } else { "taken back" })).into_response()
        }
        Err(error) => {
            let status = match error {
                NotSent::Unknown(_) => StatusCode::NOT_FOUND,
                NotSent::NotConnected(_) | NotSent::Busy(_) => StatusCode::SERVICE_UNAVAILABLE,
            };
            problem(&Problem::new(status.as_u16(), "DrainError", error.to_string()))
        }
    }
}
