//! Puts the agent together: state folder, engines, collectors, streams, admin.

use std::fs;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use domain::id::{Incarnation, NodeId};
use domain::node::NodeIdentity;
use domain::{EngineName, EngineState, Fault, FaultKind};
use serde::Serialize;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::assets::Shelf;
use crate::collect::{self, Host};
use crate::config::{Config, Slot};
use crate::edge::{admin, control};
use crate::health::Monitor;
use crate::node::{Counters, EngineStatus, Node};
use crate::report::blocks::Blocks;
use crate::run::cgroup::CgroupBase;
use crate::run::probe::ExitProbe;
use crate::run::record::Records;
use crate::run::supervisor::Supervisor;
use crate::run::{Orders, Shared};

/// Longest wait for a word of adopted engines before the schedulers are told of them.
const HEARD_WITHIN: Duration = Duration::from_secs(1);

/// Longest wait for the schedulers to take the last report.
const GOODBYE_WITHIN: Duration = Duration::from_secs(2);

/// What the agent listens on, as bound: the JSON line on stdout.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Bound {
    pub node: String,
    pub admin: SocketAddr,
}

/// A running agent.
pub struct Running {
    pub bound: Bound,
    /// For those who run the agent in their own process (`trackside up`): what it knows.
    pub node: Arc<Node>,
    /// For the same: the way to its engines, and what their caches hold.
    pub orders: Orders,
    pub blocks: Blocks,
    engines: JoinSet<()>,
    streams: JoinSet<()>,
    rest: JoinSet<()>,
    admin: std::thread::JoinHandle<()>,
    ending: CancellationToken,
    shutdown: CancellationToken,
}

impl Running {
    /// Waits until the shutdown that [`run`] was given has come and everything is done: engines left or ended as configured, the last
    /// report sent.
    pub async fn ended(mut self) {
        self.shutdown.cancelled().await;
        // Engines first: what becomes of them is the last thing the schedulers hear.
        while self.engines.join_next().await.is_some() {}
        self.ending.cancel();
        // A scheduler that takes nothing, not even a good-bye, does not hold up the end.
        let said = async { while self.streams.join_next().await.is_some() {} };
        let _unheard = tokio::time::timeout(GOODBYE_WITHIN, said).await;
        self.streams.shutdown().await;
        while self.rest.join_next().await.is_some() {}
        let _ended = tokio::task::spawn_blocking(move || self.admin.join()).await;
    }
}

/// Starts the agent on the caller's runtime. It runs until `shutdown`; then [`Running::ended`] waits for its end.
pub async fn run(config: Config, shutdown: CancellationToken) -> Result<Running, Fault> {
    let records = Records::open(&config.state_dir)?;
    let boot_id = boot_id()?;
    let identity = NodeIdentity {
        node: NodeId::new(&config.node),
        boot_id: boot_id.clone(),
        agent_version: env!("CARGO_PKG_VERSION").to_owned(),
        agent: Incarnation(rand::random()),
    };
    let statuses =
        config.slots.iter().map(|slot| EngineStatus::new(slot.name.clone(), slot.role, slot.dp_rank, slot.host, slot.port));
    let node = Arc::new(Node::new(identity, statuses));
    let blocks = Blocks::new(config.slots.iter().map(|slot| slot.name.clone()));
    let assets = Arc::new(Shelf::new(config.slots.iter().filter_map(|slot| slot.model_files.clone())));
    let probe = ExitProbe::attach();
    node.set_probes(vec![probe.fact()]);
    let earlier = records.engines();
    tell_strangers(&earlier, &config.slots);

    let sensing = (&config.nvml, config.host_root.as_path());
    let monitor = Monitor::start(config.health, sensing.0, sensing.1, &config.state_dir, node.clone(), &config.slots);
    let monitor = Arc::new(monitor.map_err(|error| {
        Fault::new(FaultKind::Internal, "cannot start the thread that senses GPUs", "raise the limit of threads").because(error)
    })?);
    let mut orders = Orders::default();
    let receivers: Vec<_> = config.slots.iter().map(|slot| orders.add(slot.name.clone())).collect();
    let ending = CancellationToken::new();
    let admin = admin::Admin { node: node.clone(), blocks: blocks.clone(), orders: orders.clone(), monitor: monitor.clone() };
    // The address is bound before an engine starts: a second agent on the same node fails here and disturbs nothing.
    let (address, admin) = admin::start(admin, config.listen, ending.clone())?;

    let cgroups = if config.cgroups {
        CgroupBase::find(std::path::Path::new("/proc"))
    } else {
        Err("switched off by `cgroups: false`".to_owned())
    };
    let shared = Arc::new(Shared {
        node: node.clone(),
        records,
        state_dir: config.state_dir.clone(),
        boot_id,
        cgroups,
        probe,
        on_stop: config.on_stop,
        engine_program: config.engine_program.clone(),
        devices: monitor.devices(),
        sensor: monitor.sensor().clone(),
        gpus: config.slots.iter().map(|slot| (slot.name.clone(), slot.gpus.clone())).collect(),
    });
    let mut engines = JoinSet::new();
    for (slot, receiver) in config.slots.into_iter().zip(receivers) {
        let Some(log) = blocks.get(&slot.name) else { continue };
        let supervisor = Supervisor::new(shared.clone(), slot, receiver, log.clone());
        engines.spawn(supervisor.run(shutdown.clone()));
    }
    let earlier: Vec<EngineName> = earlier.into_iter().map(EngineName::new).collect();
    let control = control::Control { node: node.clone(), blocks: blocks.clone(), orders: orders.clone(), assets };
    let mut streams = JoinSet::new();
    let (schedulers, end) = (config.schedulers, ending.clone());
    streams.spawn(async move {
        adopted_are_heard(&control.node, &earlier).await;
        control::start(&control, &schedulers, &end).join_all().await;
    });
    let mut rest = JoinSet::new();
    rest.spawn(collect::run(node.clone(), Host::new(config.host_root), ending.clone()));
    rest.spawn(monitor.run(ending.clone()));
    rest.spawn(drain_probe(shared, ending.clone()));
    let bound = Bound { node: config.node, admin: address };
    Ok(Running { bound, node, orders, blocks, engines, streams, rest, admin, ending, shutdown })
}

/// Empties the probe's ring now and then; whoever waits for an end empties it at once.
async fn drain_probe(shared: Arc<Shared>, ending: CancellationToken) {
    let mut ticks = tokio::time::interval(Duration::from_secs(5));
    let mut lost = 0;
    while ending.run_until_cancelled(ticks.tick()).await.is_some() {
        let now = shared.probe.drain();
        Counters::add(&shared.node.counters.probe_losses, now.saturating_sub(lost));
        lost = now;
    }
}

/// Waits until the engines that an earlier agent left have been heard of. The first message to a scheduler replaces all that it
/// knew of this node: sent at once, it would say that engines which serve are starting.
async fn adopted_are_heard(node: &Node, earlier: &[EngineName]) {
    let mut changes = node.changes();
    let heard = async {
        let is_open = |state| matches!(state, EngineState::Absent | EngineState::Starting);
        while earlier.iter().filter_map(|engine| node.engine(engine).ok()).any(|status| is_open(status.state)) {
            if changes.changed().await.is_err() {
                return;
            }
        }
    };
    // One that is silent for longer is told of as it is.
    let _silent = tokio::time::timeout(HEARD_WITHIN, heard).await;
}

/// Engines of an earlier configuration that may still run are nobody's to end; a person is told.
fn tell_strangers(earlier: &[String], slots: &[Slot]) {
    for engine in earlier {
        if !slots.iter().any(|slot| slot.name.as_str() == engine) {
            tracing::warn!(engine, "a record of an engine that is not configured any more: it may still run, and is left alone");
        }
    }
}

fn boot_id() -> Result<String, Fault> {
    let path = "/proc/sys/kernel/random/boot_id";
    let text = fs::read_to_string(path).map_err(|error| {
        Fault::new(FaultKind::Storage, format!("cannot read {path}"), "mount /proc: the agent needs it").because(error)
    })?;
    Ok(text.trim().to_owned())
}
