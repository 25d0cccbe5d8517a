//! Asks data addresses of which the fleet is not sure. It is the only thing that takes an engine out when its node is silent.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, StatusCode};
use http_body_util::Empty;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::metrics::Metrics;
use crate::fleet::Fleet;
use crate::fleet::engine::{Engine, Probe};

const ROUND: Duration = Duration::from_millis(250);
/// Addresses that answered last time are asked every so many rounds.
const CALM_ROUNDS: u32 = 4;
/// An engine that computes on all its cores may take its time.
const TIMEOUT: Duration = Duration::from_secs(2);
/// A refused connection is an answer. Silence is one only when it repeats.
const SILENCES_MAX: u32 = 3;
/// Probes under way at a time.
const CONCURRENT_MAX: usize = 64;

/// What one probe found.
enum Found {
    Healthy,
    Refused,
    Silence,
}

/// Runs until the shutdown.
pub async fn run(fleet: Arc<Fleet>, metrics: Arc<Metrics>, shutdown: CancellationToken) {
    let mut connector = HttpConnector::new();
    connector.set_nodelay(true);
    let client = Client::builder(TokioExecutor::new()).pool_max_idle_per_host(0).build(connector);
    let mut silences: HashMap<std::net::SocketAddr, u32> = HashMap::new();
    let mut ticks = tokio::time::interval(ROUND);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    for round in 0u32.. {
        tokio::select! {
            _ = ticks.tick() => {}
            () = shutdown.cancelled() => return,
        }
        let calm = round % CALM_ROUNDS != 0;
        let due = |engine: &&Arc<Engine>| engine.wants_probe() && !(calm && engine.pulse().probe == Probe::Answered);
        let doubtful: Vec<Arc<Engine>> = fleet.roster().engines().iter().filter(due).cloned().collect();
        silences.retain(|address, _| doubtful.iter().any(|engine| engine.facts.address.0 == *address));
        for batch in doubtful.chunks(CONCURRENT_MAX) {
            let mut probes = JoinSet::new();
            for engine in batch.iter().cloned() {
                let client = client.clone();
                probes.spawn(async move {
                    let found = ask(&client, &engine).await;
                    (engine, found)
                });
            }
            while let Some(Ok((engine, found))) = probes.join_next().await {
                let silent = silences.entry(engine.facts.address.0).or_default();
                *silent = if matches!(found, Found::Silence) { *silent + 1 } else { 0 };
                let probe = match found {
                    Found::Healthy => Probe::Answered,
                    Found::Silence if *silent < SILENCES_MAX => continue,
                    Found::Refused | Found::Silence => {
                        metrics.probes_failed.inc();
                        Probe::Failed
                    }
                };
                if engine.pulse().probe != probe {
                    tracing::info!(engine = %engine.id, address = %engine.facts.address, ?probe, "asked an engine's address");
                }
                engine.set_probe(probe);
            }
        }
    }
}

async fn ask(client: &Client<HttpConnector, Empty<Bytes>>, engine: &Engine) -> Found {
    let request = Request::get(format!("http://{}/health", engine.facts.address)).body(Empty::new());
    let Ok(request) = request else { return Found::Refused };
    match tokio::time::timeout(TIMEOUT, client.request(request)).await {
        // An engine without this path is alive none the less.
        Ok(Ok(answer)) if answer.status().is_success() || answer.status() == StatusCode::NOT_FOUND => Found::Healthy,
        Ok(Ok(_)) => Found::Refused,
        Ok(Err(error)) if error.is_connect() => Found::Refused,
        Ok(Err(_)) | Err(_) => Found::Silence,
    }
}
