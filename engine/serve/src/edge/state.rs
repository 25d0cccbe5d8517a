//! `GET /trackside/v1/state`: what the node agent follows, one JSON object a line, at once when something changes and at most every
//! 20 ms, else every second.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::{RawQuery, State};
use axum::response::Response;
use bytes::Bytes;
use domain::{EngineState, Load};
use futures_util::stream;
use http::header::CONTENT_TYPE;
use http::{HeaderValue, StatusCode};
use proto::state::{InFlight, ReplicaInFlight, State as StateBody};
use tokio::sync::watch;
use tokio::time::Instant;

use super::answer::json;
use crate::edge::app::App;

/// Shortest time between two lines: changes within it are one.
const INTERVAL_MIN: Duration = Duration::from_millis(20);
/// Longest time between two lines.
const INTERVAL_MAX: Duration = Duration::from_secs(1);

pub async fn follow(State(app): State<Arc<App>>, RawQuery(query): RawQuery) -> Response {
    if query.is_some_and(|query| query.split('&').any(|part| part == "once" || part == "once=true" || part == "once=1")) {
        return json(StatusCode::OK, &body(&app));
    }
    let changes = app.in_flight.watch();
    let follower = Follower { app, changes, sent: None };
    let lines = stream::unfold(follower, |mut follower| async move {
        let line = follower.line().await?;
        Some((Ok::<_, Infallible>(line), follower))
    });
    let mut response = Response::new(Body::from_stream(lines));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/x-ndjson"));
    response
}

struct Follower {
    app: Arc<App>,
    changes: watch::Receiver<()>,
    sent: Option<Instant>,
}

impl Follower {
    /// The next line; `None` when the server ends.
    async fn line(&mut self) -> Option<Bytes> {
        if let Some(sent) = self.sent {
            let due = async {
                let _ = tokio::time::timeout_at(sent + INTERVAL_MAX, self.changes.changed()).await;
                tokio::time::sleep_until(sent + INTERVAL_MIN).await;
            };
            tokio::select! {
                () = due => {}
                () = self.app.ending.cancelled() => return None,
            }
        }
        self.changes.mark_unchanged();
        self.sent = Some(Instant::now());
        let mut line = serde_json::to_vec(&body(&self.app)).expect("plain data into memory");
        line.push(b'\n');
        Some(Bytes::from(line))
    }
}

/// A paused or sleeping engine finishes at most what it has: for a scheduler it drains.
fn told(app: &App) -> EngineState {
    match app.state() {
        EngineState::Ready if app.stats().is_some_and(|stats| stats.paused) => EngineState::Draining,
        state => state,
    }
}

/// The engine's state at this moment.
pub fn body(app: &App) -> StateBody {
    let Load { waiting, running, by_replica, others, kv, prefill_tok_s, decode_step_ms } = app.load();
    let wire = |count: domain::InFlight| InFlight { requests: count.requests, uncached_tokens: count.uncached_tokens };
    let replica =
        |(replica, count): (domain::ReplicaId, _)| ReplicaInFlight { replica: replica.to_string(), in_flight: wire(count) };
    StateBody {
        incarnation: app.incarnation.to_string(),
        state: told(app).to_string(),
        model: app.names[0].to_string(),
        adapters: app.adapters.all().iter().map(|known| known.key.name.to_string()).collect(),
        assets_digest: app.assets_digest.to_string(),
        context_length: u32::try_from(app.context_length()).unwrap_or(u32::MAX),
        steps: app.stats().map_or(0, |stats| stats.steps),
        waiting,
        running,
        in_flight: by_replica.into_iter().map(replica).collect(),
        others: wire(others),
        kv_blocks_used: kv.used_blocks,
        kv_blocks_total: kv.total_blocks,
        kv_block_tokens: kv.block_tokens,
        prefill_tok_s,
        decode_step_ms,
        kv_events: app.kv_events.endpoint.clone(),
        kv_replay: app.kv_events.replay_endpoint.clone(),
        loading: app.life.loading(),
    }
}
