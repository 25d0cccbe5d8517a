//! What the agent knows of its node at this moment: engines, host, probes; with who changed when.
//!
//! Writers (supervision, attach, collectors) put facts in; readers (the streams to the schedulers, `/metrics`, `/status`) take
//! snapshots and never wait for a writer's I/O. Each change bears a revision, so that a stream sends exactly what changed since its last
//! message; urgent changes move a second mark.

pub mod engine;
pub mod metric;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use domain::gpu::GpuReport;
use domain::node::{HostFacts, NodeIdentity};
use domain::{EngineName, Fault, FaultKind};
use tokio::sync::watch;

pub use self::engine::EngineStatus;
use crate::collect::Outcome;
use crate::run::probe::Absence;

/// Whether a change waits for the next coalesced message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Urgency {
    /// May wait for others.
    Usual,
    /// An engine died, or takes no more work: a scheduler must hear of it before its next pick.
    Urgent,
}

/// Revisions of the last change and of the last urgent one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Revision {
    pub last: u64,
    pub urgent: u64,
}

/// A kernel probe and, where it is absent, why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProbeFact {
    pub probe: &'static str,
    /// `None`: attached.
    pub absent: Option<Absence>,
}

/// Counters of the agent itself; each a total since its start.
#[derive(Debug, Default)]
pub struct Counters {
    /// Connections of report streams that ended, by any cause.
    pub stream_reconnects: AtomicU64,
    /// Engines whose block log overran a slow scheduler and were sent anew.
    pub blocks_resyncs: AtomicU64,
    /// KV events that could not be decoded.
    pub kv_events_undecodable: AtomicU64,
    /// Blocks not indexed: unknown parent, unknown adapter, multimodal content, index full.
    pub kv_blocks_unindexed: AtomicU64,
    /// KV event batches missed and not had by replay.
    pub kv_batches_lost: AtomicU64,
    /// Bytes of engines' output lost in rotation.
    pub log_bytes_lost: AtomicU64,
    /// Records of engines that could not be written.
    pub record_failures: AtomicU64,
    /// Commands of schedulers that could not be obeyed.
    pub commands_refused: AtomicU64,
    /// Exit records of the kernel probe that were lost before they were read.
    pub probe_losses: AtomicU64,
}

impl Counters {
    pub fn add(counter: &AtomicU64, by: u64) {
        counter.fetch_add(by, Ordering::Relaxed);
    }

    pub fn get(counter: &AtomicU64) -> u64 {
        counter.load(Ordering::Relaxed)
    }
}

struct Board {
    engines: BTreeMap<EngineName, (u64, EngineStatus)>,
    host: HostFacts,
    host_revision: u64,
    gpus: Vec<GpuReport>,
    gpus_revision: u64,
    collected: BTreeMap<&'static str, (Instant, Outcome)>,
    probes: Vec<ProbeFact>,
}

/// The node as the agent sees it. Shared by `Arc`.
pub struct Node {
    pub identity: NodeIdentity,
    pub counters: Counters,
    pub started: Instant,
    board: Mutex<Board>,
    changes: watch::Sender<Revision>,
}

/// Everything at one moment.
#[derive(Clone, Debug)]
pub struct Snapshot {
    pub revision: Revision,
    pub engines: Vec<EngineStatus>,
    pub host: HostFacts,
    pub gpus: Vec<GpuReport>,
    pub collected: BTreeMap<&'static str, (Instant, Outcome)>,
    pub probes: Vec<ProbeFact>,
}

/// What changed behind a revision.
#[derive(Clone, Debug)]
pub struct Delta {
    pub revision: Revision,
    pub engines: Vec<EngineStatus>,
    pub host: Option<HostFacts>,
    /// All of them, where one changed.
    pub gpus: Option<Vec<GpuReport>>,
}

impl Delta {
    pub fn is_empty(&self) -> bool {
        self.engines.is_empty() && self.host.is_none() && self.gpus.is_none()
    }
}

impl Node {
    pub fn new(identity: NodeIdentity, engines: impl IntoIterator<Item = EngineStatus>) -> Self {
        let engines = engines.into_iter().map(|engine| (engine.name.clone(), (0, engine))).collect();
        let board = Board {
            engines,
            host: HostFacts::default(),
            host_revision: 0,
            gpus: Vec::new(),
            gpus_revision: 0,
            collected: BTreeMap::new(),
            probes: Vec::new(),
        };
        Self {
            identity,
            counters: Counters::default(),
            started: Instant::now(),
            board: Mutex::new(board),
            changes: watch::Sender::new(Revision::default()),
        }
    }

    fn board(&self) -> MutexGuard<'_, Board> {
        // A writer that panicked left plain data behind, each field whole.
        self.board.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notified of every change.
    pub fn changes(&self) -> watch::Receiver<Revision> {
        self.changes.subscribe()
    }

    /// Changes one engine; unknown names are ignored, because the set of engines is fixed by the configuration.
    pub fn update(&self, engine: &EngineName, urgency: Urgency, change: impl FnOnce(&mut EngineStatus)) {
        let mut board = self.board();
        let Some((revision, status)) = board.engines.get_mut(engine) else { return };
        let before = status.clone();
        change(status);
        if *status == before {
            return;
        }
        if status.state != before.state {
            status.since = Instant::now();
        }
        self.changes.send_modify(|current| {
            current.last += 1;
            if urgency == Urgency::Urgent {
                current.urgent = current.last;
            }
            *revision = current.last;
        });
    }

    pub fn set_probes(&self, probes: Vec<ProbeFact>) {
        self.board().probes = probes;
    }

    /// Puts in what a round of collectors found.
    pub fn collected(&self, at: Instant, host: HostFacts, outcomes: impl IntoIterator<Item = (&'static str, Outcome)>) {
        let mut board = self.board();
        board.collected.extend(outcomes.into_iter().map(|(name, outcome)| (name, (at, outcome))));
        if board.host != host {
            board.host = host;
            self.changes.send_modify(|current| {
                current.last += 1;
                board.host_revision = current.last;
            });
        }
    }

    /// Puts in the GPUs as judged. A growing age is no news of its own.
    pub fn set_gpus(&self, gpus: Vec<GpuReport>) {
        let mut board = self.board();
        let same = |(before, now): (&GpuReport, &GpuReport)| GpuReport { age: before.age, ..now.clone() } == *before;
        let news = board.gpus.len() != gpus.len() || !board.gpus.iter().zip(&gpus).all(same);
        board.gpus = gpus;
        if news {
            self.changes.send_modify(|current| {
                current.last += 1;
                board.gpus_revision = current.last;
            });
        }
    }

    pub fn engine(&self, name: &EngineName) -> Result<EngineStatus, Fault> {
        let board = self.board();
        board.engines.get(name).map(|(_, status)| status.clone()).ok_or_else(|| {
            let known: Vec<&str> = board.engines.keys().map(EngineName::as_str).collect();
            let action = format!("name one of: {}", known.join(", "));
            Fault::new(FaultKind::Usage, format!("there is no engine {name} on node {}", self.identity.node), action)
        })
    }

    pub fn snapshot(&self) -> Snapshot {
        let board = self.board();
        Snapshot {
            revision: *self.changes.borrow(),
            engines: board.engines.values().map(|(_, status)| status.clone()).collect(),
            host: board.host,
            gpus: board.gpus.clone(),
            collected: board.collected.clone(),
            probes: board.probes.clone(),
        }
    }

    /// Everything that changed after revision `since`.
    pub fn delta(&self, since: u64) -> Delta {
        let board = self.board();
        let changed = board.engines.values().filter(|(revision, _)| *revision > since);
        Delta {
            revision: *self.changes.borrow(),
            engines: changed.map(|(_, status)| status.clone()).collect(),
            host: (board.host_revision > since).then_some(board.host),
            gpus: (board.gpus_revision > since).then(|| board.gpus.clone()),
        }
    }
}
