//! Supervision: one task for each engine, which starts it, watches it, ends it with all its descendants and starts it again.
//!
//! `machine` decides (pure, see its drawing), `supervisor` does what was decided. The engine's process belongs to nobody but itself:
//! it has a process group of its own, writes to a file, and is written down in `record`, so that it outlives the agent and the next
//! agent takes it over.
//!
//! ```text
//!   orders (scheduler, operator) ─┐
//!   attach: state, silence ───────┼─▶ machine ─▶ spawn · terminate · clear the tree
//!   pidfd: end ───────────────────┘       └────▶ node (state, reason) ─▶ streams, /metrics, /status
//! ```

pub mod cgroup;
pub mod event;
pub mod exit;
pub mod life;
pub mod log;
pub mod machine;
pub mod memory;
pub mod policy;
pub mod probe;
pub mod process;
pub mod record;
pub mod supervisor;
pub mod tree;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use domain::EngineName;
use domain::gpu::EngineHealth;
use tokio::sync::{mpsc, watch};
use tokio::task::spawn_blocking;

use self::cgroup::CgroupBase;
use self::probe::ExitProbe;
use self::record::{Record, Records};
use crate::collect::nvml::Sensor;
use crate::config::OnStop;
use crate::node::{Counters, Node};

/// Orders waiting for one engine.
const ORDERS_MAX: usize = 16;

/// What somebody wants of an engine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// Take no new work, or take it again.
    Drain(bool),
    /// End it, after its requests, and leave it ended.
    Stop,
    /// Start a quarantined or stopped engine again.
    Release,
}

/// The way to each engine's supervisor.
#[derive(Clone, Debug, Default)]
pub struct Orders {
    engines: BTreeMap<EngineName, mpsc::Sender<Order>>,
}

/// Why an order was not passed on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    NoSuchEngine,
    /// Its supervisor has not come to earlier orders yet, or has ended.
    Busy,
}

impl Orders {
    pub(crate) fn add(&mut self, engine: EngineName) -> mpsc::Receiver<Order> {
        let (sender, receiver) = mpsc::channel(ORDERS_MAX);
        self.engines.insert(engine, sender);
        receiver
    }

    pub fn send(&self, engine: &EngineName, order: Order) -> Result<(), Refused> {
        let sender = self.engines.get(engine).ok_or(Refused::NoSuchEngine)?;
        sender.try_send(order).map_err(|_| Refused::Busy)
    }
}

/// What all supervisors of one agent share.
pub struct Shared {
    pub node: Arc<Node>,
    pub records: Records,
    pub state_dir: PathBuf,
    pub boot_id: String,
    /// The error says why processes are kept together only by their family.
    pub cgroups: Result<CgroupBase, String>,
    pub probe: ExitProbe,
    pub on_stop: OnStop,
    /// Program that runs `engine …`.
    pub engine_program: PathBuf,
    /// What its GPUs mean for each engine.
    pub devices: watch::Receiver<Arc<BTreeMap<EngineName, EngineHealth>>>,
    pub sensor: Arc<Sensor>,
    /// GPUs of each engine that is started here, as configured; none: all of them.
    pub gpus: BTreeMap<EngineName, Vec<String>>,
}

impl Shared {
    /// Writes a record. A full disk is counted and told, and stops no engine: it matters more than its record.
    pub async fn save(&self, engine: &str, record: &Record) {
        let (records, name, record) = (self.records.clone(), engine.to_owned(), record.clone());
        if let Ok(Err(fault)) = spawn_blocking(move || records.save(&name, &record)).await {
            Counters::add(&self.node.counters.record_failures, 1);
            tracing::error!(%fault);
        }
    }
}
