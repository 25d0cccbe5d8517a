//! The agent's own HTTP: `/metrics`, `/healthz`, `/readyz`, `/status`, and the calls of an operator.
//!
//! It runs on a thread and a runtime of its own, so that a scrape is answered while the agent works and the agent works while
//! somebody scrapes. It reads snapshots; nothing is collected on request.

use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::sync::mpsc::sync_channel;
use std::thread::JoinHandle;
use std::time::Instant;

use axum::Json;
use axum::Router;
use axum::extract::{Path, Query, State};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use domain::gpu::GpuReport;
use domain::{EngineName, EngineState, Fault, FaultKind};
use http::{StatusCode, header};
use prometheus::proto::{Counter, Gauge, LabelPair, Metric, MetricFamily, MetricType};
use prometheus::{Encoder, TextEncoder};
use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;

use crate::collect::Missing;
use crate::collect::nvml::Stack;
use crate::health::Monitor;
use crate::node::metric::{Family, Kind, bounded};
use crate::node::{Counters, EngineStatus, Node, Snapshot};
use crate::report::blocks::Blocks;
use crate::run::exit::ExitClass;
use crate::run::{Order, Orders, Refused};

/// What the handlers share.
#[derive(Clone)]
pub struct Admin {
    pub node: Arc<Node>,
    pub blocks: Blocks,
    pub orders: Orders,
    pub monitor: Arc<Monitor>,
}

/// Listens and serves until `shutdown`. The address is the one bound, with the port that port 0 became.
pub fn start(admin: Admin, listen: SocketAddr, shutdown: CancellationToken) -> Result<(SocketAddr, JoinHandle<()>), Fault> {
    let cannot = |error: std::io::Error| {
        let action = "free the port, or give another address in `listen` (port 0 takes a free one)";
        Fault::new(FaultKind::Address, format!("cannot listen on {listen} for metrics and admin"), action).because(error)
    };
    let listener = TcpListener::bind(listen).map_err(cannot)?;
    listener.set_nonblocking(true).map_err(cannot)?;
    let bound = listener.local_addr().map_err(cannot)?;
    let (started, outcome) = sync_channel(1);
    let thread = std::thread::Builder::new().name("node-admin".into()).spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let listener = runtime.as_ref().map_err(|error| std::io::Error::other(error.to_string())).and_then(|runtime| {
            let _context = runtime.enter();
            tokio::net::TcpListener::from_std(listener)
        });
        match (runtime, listener) {
            (Ok(runtime), Ok(listener)) => {
                let _told = started.send(Ok(()));
                runtime.block_on(async {
                    let served = axum::serve(listener, router(admin));
                    // Dropped rather than drained: an open scrape must not hold up the agent's end.
                    if let Some(Err(error)) = shutdown.run_until_cancelled(served.into_future()).await {
                        tracing::error!(%error, "admin server ended");
                    }
                });
            }
            (Err(error), _) | (_, Err(error)) => {
                let _told = started.send(Err(error));
            }
        }
    });
    let thread = thread.map_err(cannot)?;
    outcome.recv().unwrap_or_else(|_| Err(std::io::Error::other("its thread ended"))).map_err(cannot)?;
    Ok((bound, thread))
}

fn router(admin: Admin) -> Router {
    Router::new()
        .route("/metrics", get(metrics))
        .route("/healthz", get(async || "ok\n"))
        .route("/readyz", get(readyz))
        .route("/status", get(status))
        .route("/engines/{name}/drain", post(drain))
        .route("/engines/{name}/release", post(release))
        .route("/gpus/{gpu}/release", post(release_gpu))
        .with_state(admin)
}

async fn metrics(State(admin): State<Admin>) -> Response {
    let families = families(&admin);
    let mut text = Vec::with_capacity(64 << 10);
    match TextEncoder::new().encode(&families, &mut text) {
        Ok(()) => ([(header::CONTENT_TYPE, prometheus::TEXT_FORMAT)], text).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}

/// Ready once every engine has been looked after; whether they serve is for `/status` and the schedulers.
async fn readyz(State(admin): State<Admin>) -> Response {
    let snapshot = admin.node.snapshot();
    if snapshot.collected.is_empty() {
        return (StatusCode::SERVICE_UNAVAILABLE, "the host has not been sensed yet\n").into_response();
    }
    "ok\n".into_response()
}

async fn status(State(admin): State<Admin>) -> Json<StatusBody> {
    let snapshot = admin.node.snapshot();
    Json(StatusBody::of(&admin, &snapshot, Instant::now()))
}

#[derive(Deserialize)]
struct DrainQuery {
    /// `on=false` takes a drain back.
    #[serde(default = "on")]
    on: bool,
}

fn on() -> bool {
    true
}

async fn drain(
    State(admin): State<Admin>,
    Path(name): Path<String>,
    query: Result<Query<DrainQuery>, axum::extract::rejection::QueryRejection>,
) -> Response {
    match query {
        Ok(Query(query)) => order(&admin, &name, Order::Drain(query.on)),
        Err(rejection) => (StatusCode::BAD_REQUEST, format!("{rejection}; give ?on=true or ?on=false\n")).into_response(),
    }
}

async fn release(State(admin): State<Admin>, Path(name): Path<String>) -> Response {
    order(&admin, &name, Order::Release)
}

/// The operator says that a GPU is repaired.
async fn release_gpu(State(admin): State<Admin>, Path(gpu): Path<String>) -> Response {
    match admin.monitor.release(&bounded(&gpu)) {
        Some(true) => (StatusCode::ACCEPTED, "released\n").into_response(),
        Some(false) => (StatusCode::OK, "nothing is held against it\n").into_response(),
        None => {
            let gpus = admin.node.snapshot().gpus;
            let known: Vec<&str> = gpus.iter().map(|gpu| gpu.uuid.as_str()).collect();
            let why = format!("there is no GPU {} here; name one of: {}\n", bounded(&gpu), known.join(", "));
            (StatusCode::NOT_FOUND, why).into_response()
        }
    }
}

fn order(admin: &Admin, name: &str, order: Order) -> Response {
    let name = EngineName::new(bounded(name));
    match admin.orders.send(&name, order) {
        Ok(()) => (StatusCode::ACCEPTED, "accepted\n").into_response(),
        Err(Refused::Busy) => {
            (StatusCode::SERVICE_UNAVAILABLE, format!("engine {name} has orders waiting; try again\n")).into_response()
        }
        Err(Refused::NoSuchEngine) => {
            let why = admin.node.engine(&name).err().map(|fault| fault.to_string()).unwrap_or_default();
            (StatusCode::NOT_FOUND, format!("{why}\n")).into_response()
        }
    }
}

#[derive(Serialize)]
struct StatusBody {
    node: String,
    agent_version: String,
    agent_incarnation: String,
    boot_id: String,
    uptime_s: f64,
    gpu_stack: StackBody,
    kernel_log: String,
    gpus: Vec<GpuBody>,
    engines: Vec<EngineBody>,
    probes: Vec<ProbeBody>,
    collectors: Vec<CollectorBody>,
}

#[derive(Serialize)]
struct StackBody {
    state: &'static str,
    reason: String,
}

#[derive(Serialize)]
struct GpuBody {
    index: u32,
    uuid: String,
    pci_bus_id: String,
    model: String,
    verdict: &'static str,
    reasons: Vec<String>,
    capacity: f64,
    age_s: f64,
}

#[derive(Serialize)]
struct EngineBody {
    name: String,
    state: &'static str,
    state_age_s: f64,
    reason: String,
    model: String,
    adapters: Vec<String>,
    address: String,
    pid: u32,
    restarts: u32,
    incarnation: String,
    waiting: u32,
    running: u32,
    steps: u64,
    kv_blocks_used: u64,
    kv_blocks_total: u64,
    blocks_indexed: usize,
    blocks_note: String,
    containment: String,
    gpu_verdict: &'static str,
    gpu_reason: String,
}

#[derive(Serialize)]
struct ProbeBody {
    probe: &'static str,
    attached: bool,
    reason: String,
}

#[derive(Serialize)]
struct CollectorBody {
    collector: &'static str,
    state: &'static str,
    reason: String,
    age_s: f64,
}

impl StatusBody {
    fn of(admin: &Admin, snapshot: &Snapshot, now: Instant) -> Self {
        let Admin { node, blocks, monitor, .. } = admin;
        let age = |at: Instant| now.saturating_duration_since(at).as_secs_f64();
        let engine = |status: &EngineStatus| EngineBody {
            name: status.name.to_string(),
            state: status.state.as_str(),
            state_age_s: age(status.since),
            reason: status.reason.clone(),
            model: bounded(&status.model).into_owned(),
            adapters: status.adapters.iter().map(|adapter| bounded(adapter).into_owned()).collect(),
            address: status.address.to_string(),
            pid: status.pid,
            restarts: status.restarts,
            incarnation: status.incarnation.to_string(),
            waiting: status.load.waiting,
            running: status.load.running,
            steps: status.steps,
            kv_blocks_used: status.load.kv.used_blocks,
            kv_blocks_total: status.load.kv.total_blocks,
            blocks_indexed: blocks.get(&status.name).map_or(0, |log| log.len()),
            blocks_note: status.blocks_note.clone(),
            containment: status.containment.clone(),
            gpu_verdict: status.health.verdict.as_str(),
            gpu_reason: status.health.reason.clone(),
        };
        let collector = |(name, (at, outcome)): (&&'static str, &(Instant, crate::collect::Outcome))| {
            let (state, reason) = match outcome {
                Ok(_) => ("ok", String::new()),
                Err(Missing::Absent(why)) => ("absent", why.clone()),
                Err(Missing::Failed(why)) => ("failed", why.clone()),
            };
            CollectorBody { collector: name, state, reason, age_s: age(*at) }
        };
        Self {
            node: node.identity.node.to_string(),
            agent_version: node.identity.agent_version.clone(),
            agent_incarnation: node.identity.agent.to_string(),
            boot_id: node.identity.boot_id.clone(),
            uptime_s: age(node.started),
            gpu_stack: stack_body(&monitor.sensor().stack()),
            kernel_log: monitor.kernel_log().err().unwrap_or("read").to_owned(),
            gpus: snapshot.gpus.iter().map(gpu_body).collect(),
            engines: snapshot.engines.iter().map(engine).collect(),
            probes: snapshot
                .probes
                .iter()
                .map(|fact| ProbeBody {
                    probe: fact.probe,
                    attached: fact.absent.is_none(),
                    reason: fact.absent.as_ref().map(|absence| absence.sentence.clone()).unwrap_or_default(),
                })
                .collect(),
            collectors: snapshot.collected.iter().map(collector).collect(),
        }
    }
}

fn stack_body(stack: &Stack) -> StackBody {
    let reason = match stack {
        Stack::Absent(why) | Stack::Failed(why) => why.clone(),
        Stack::Unresponsive { missed } => format!("a call of NVML has not returned for {missed} polls"),
        Stack::Unknown | Stack::Answers => String::new(),
    };
    StackBody { state: stack.as_str(), reason }
}

fn gpu_body(gpu: &GpuReport) -> GpuBody {
    GpuBody {
        index: gpu.index,
        uuid: gpu.uuid.clone(),
        pci_bus_id: gpu.pci_bus_id.clone(),
        model: gpu.model.clone(),
        verdict: gpu.verdict.as_str(),
        reasons: gpu.reasons.clone(),
        capacity: gpu.capacity,
        age_s: gpu.age.as_secs_f64(),
    }
}

/// All metrics of the agent, in the order of their names.
fn families(admin: &Admin) -> Vec<MetricFamily> {
    let snapshot = admin.node.snapshot();
    let mut families: Vec<Family> = snapshot
        .collected
        .values()
        .filter_map(|(_, outcome)| outcome.as_ref().ok())
        .flat_map(|found| found.iter().cloned())
        .collect();
    families.extend(own(admin, &snapshot));
    families.extend(admin.monitor.families());
    families.retain(|family| !family.samples.is_empty());
    families.sort_by_key(|family| family.name);
    families.into_iter().map(encoded).collect()
}

/// The agent's own metrics.
fn own(admin: &Admin, snapshot: &Snapshot) -> Vec<Family> {
    let Counters {
        stream_reconnects,
        blocks_resyncs,
        kv_events_undecodable,
        kv_blocks_unindexed,
        kv_batches_lost,
        log_bytes_lost,
        record_failures,
        commands_refused,
        probe_losses,
    } = &admin.node.counters;
    let counter = |name, help, value| Family::counter(name, help).with([], Counters::get(value) as f64);
    let mut state = Family::gauge("trackside_node_engine_state", "1 for the state each engine is in.");
    let mut restarts = Family::counter("trackside_node_engine_restarts_total", "Starts of each engine after the first.");
    let mut exits = Family::counter("trackside_node_engine_exits_total", "Ends of each engine's lives, by cause.");
    let mut waiting = Family::gauge("trackside_node_engine_requests_waiting", "Requests admitted and not yet running.");
    let mut running = Family::gauge("trackside_node_engine_requests_running", "Requests in the running batch.");
    let mut kv = Family::gauge("trackside_node_engine_kv_usage_ratio", "Share of KV blocks held by requests.");
    let mut indexed = Family::gauge("trackside_node_engine_blocks_indexed", "KV blocks known by routing key.");
    let mut info = Family::gauge("trackside_node_engine_info", "Facts of each engine as labels; always 1.");
    for status in &snapshot.engines {
        let engine = status.name.as_str();
        for each in EngineState::ALL {
            state.push([("engine", engine), ("state", each.as_str())], f64::from(u8::from(each == status.state)));
        }
        restarts.push([("engine", engine)], f64::from(status.restarts));
        for class in ExitClass::ALL {
            let count = status.exits.get(&class).copied().unwrap_or(0);
            exits.push([("engine", engine), ("cause", class.as_str())], count as f64);
        }
        waiting.push([("engine", engine)], f64::from(status.load.waiting));
        running.push([("engine", engine)], f64::from(status.load.running));
        kv.push([("engine", engine)], status.load.kv.fraction());
        indexed.push([("engine", engine)], admin.blocks.get(&status.name).map_or(0, |log| log.len()) as f64);
        info.push([("engine", engine), ("model", &status.model), ("address", &status.address.to_string())], 1.0);
    }
    let mut probes = Family::gauge("trackside_node_probe_attached", "Whether each kernel probe is attached, and why not.");
    for fact in &snapshot.probes {
        let reason = fact.absent.as_ref().map_or("", |absence| absence.label);
        probes.push([("probe", fact.probe), ("reason", reason)], f64::from(u8::from(fact.absent.is_none())));
    }
    let mut up = Family::gauge(
        "trackside_node_collector_up",
        "1 where a collector's last round found something; absent ones have no sample.",
    );
    for (name, (_, outcome)) in &snapshot.collected {
        match outcome {
            Ok(_) => up.push([("collector", name)], 1.0),
            Err(Missing::Failed(_)) => up.push([("collector", name)], 0.0),
            Err(Missing::Absent(_)) => {}
        }
    }
    let identity = &admin.node.identity;
    let build = Family::gauge("trackside_node_info", "Facts of the agent as labels; always 1.")
        .with([("node", identity.node.as_str()), ("version", &identity.agent_version)], 1.0);
    vec![
        build,
        state,
        restarts,
        exits,
        waiting,
        running,
        kv,
        indexed,
        info,
        probes,
        up,
        counter(
            "trackside_node_report_stream_reconnects_total",
            "Report streams that ended and were opened again.",
            stream_reconnects,
        ),
        counter(
            "trackside_node_blocks_resyncs_total",
            "Block logs that overran a slow scheduler and were sent anew.",
            blocks_resyncs,
        ),
        counter("trackside_node_kv_events_undecodable_total", "KV events that could not be understood.", kv_events_undecodable),
        counter(
            "trackside_node_kv_blocks_unindexed_total",
            "KV blocks left out of the index because not all of their content is known.",
            kv_blocks_unindexed,
        ),
        counter("trackside_node_kv_batches_lost_total", "KV event batches missed and not replayed.", kv_batches_lost),
        counter("trackside_node_log_bytes_lost_total", "Bytes of engines' output lost in rotation.", log_bytes_lost),
        counter("trackside_node_record_failures_total", "Records of engines that could not be written.", record_failures),
        counter("trackside_node_commands_refused_total", "Commands of schedulers that were not obeyed.", commands_refused),
        counter("trackside_node_probe_losses_total", "Records of the kernel probe lost before they were read.", probe_losses),
    ]
}

fn encoded(family: Family) -> MetricFamily {
    let mut encoded = MetricFamily::default();
    encoded.set_name(family.name.to_owned());
    encoded.set_help(family.help.to_owned());
    encoded.set_field_type(match family.kind {
        Kind::Counter => MetricType::COUNTER,
        Kind::Gauge => MetricType::GAUGE,
    });
    let metrics = family.samples.into_iter().map(|sample| {
        let labels = sample.labels.into_iter().map(|(name, value)| {
            let mut pair = LabelPair::default();
            pair.set_name(name.to_owned());
            pair.set_value(value);
            pair
        });
        let mut metric = Metric::from_label(labels.collect());
        match family.kind {
            Kind::Counter => {
                let mut counter = Counter::default();
                counter.set_value(sample.value);
                metric.set_counter(counter);
            }
            Kind::Gauge => {
                let mut gauge = Gauge::default();
                gauge.set_value(sample.value);
                metric.set_gauge(gauge);
            }
        }
        metric
    });
    encoded.set_metric(metrics.collect());
    encoded
}
