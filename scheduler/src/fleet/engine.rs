//! One engine as the scheduler knows it: what it is, how it does now, and the streams this replica has open on it.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use domain::gpu::{EngineHealth, Verdict};
use domain::{AssetsDigest, DataAddress, EngineId, EngineState, InFlight, Incarnation, KvUse, Load, ReplicaId, Role};

use super::log::Log;

/// What does not change while a process serves. A report that differs here makes a new [`Engine`].
#[derive(Clone, Debug, PartialEq)]
pub struct Facts {
    pub incarnation: Incarnation,
    pub role: Role,
    /// Base model, by the name it is served under.
    pub model: Arc<str>,
    pub adapters: Vec<Arc<str>>,
    /// `None` where the node has no model folder: requests to it are routed by load alone.
    pub assets: Option<AssetsDigest>,
    pub address: DataAddress,
    pub dp_rank: u32,
    /// Prompt and answer together, in tokens; zero where unknown.
    pub context_length: u32,
    pub pid: u32,
    /// Whether it counts open requests by replica.
    pub counts_in_flight: bool,
}

/// What the node says of an engine.
#[derive(Clone, Debug, PartialEq)]
pub struct Report {
    pub facts: Facts,
    pub state: EngineState,
    pub reason: Arc<str>,
    pub load: Load,
    pub restarts: u32,
    pub steps: u64,
    /// What its GPUs mean for it.
    pub health: EngineHealth,
}

/// How far what is known of an engine can be trusted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Evidence {
    /// Its node reports.
    Fresh,
    /// Its node's stream is lost or silent. That says nothing of the engine.
    Unknown,
}

/// Whether the data address answers. Asked only when there is reason to: unknown evidence, or a refused connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Probe {
    Unasked,
    Answered,
    Failed,
}

/// What changes all the time.
#[derive(Clone, Copy, Debug)]
pub struct Pulse {
    pub state: EngineState,
    pub evidence: Evidence,
    pub probe: Probe,
    pub verdict: Verdict,
    pub capacity: f64,
    pub waiting: u32,
    pub running: u32,
    /// Open requests that other replicas, earlier lives of this one and direct clients have on it.
    pub elsewhere: InFlight,
    /// All open requests that it counted itself, ours among them.
    pub counted: InFlight,
    pub kv: KvUse,
    pub prefill_tok_s: Option<f64>,
    pub decode_step_ms: Option<f64>,
    pub restarts: u32,
    pub steps: u64,
}

impl Pulse {
    fn of(report: &Report, replica: &ReplicaId, evidence: Evidence, probe: Probe) -> Self {
        let mut elsewhere = report.load.others;
        let mut counted = report.load.others;
        for (other, in_flight) in &report.load.by_replica {
            counted.add(*in_flight);
            if other != replica {
                elsewhere.add(*in_flight);
            }
        }
        let Load { waiting, running, kv, prefill_tok_s, decode_step_ms, .. } = report.load;
        Self {
            state: report.state,
            evidence,
            probe,
            verdict: report.health.verdict,
            capacity: report.health.capacity,
            waiting,
            running,
            elsewhere,
            counted,
            kv,
            prefill_tok_s,
            decode_step_ms,
            restarts: report.restarts,
            steps: report.steps,
        }
    }
}

/// An engine in the fleet, shared by the table that updates it and the requests that use it.
pub struct Engine {
    pub id: EngineId,
    pub facts: Facts,
    pub log: Arc<Log>,
    pulse: Mutex<Pulse>,
    reason: Mutex<Arc<str>>,
    /// Shared with the records of one life that came before and come after this one.
    open: Arc<Open>,
    /// Times this replica picked it, over all its lives.
    picks: Arc<AtomicU64>,
}

/// Streams of this replica on one life of an engine.
#[derive(Default)]
struct Open {
    requests: AtomicU32,
    uncached_tokens: AtomicU64,
}

impl Engine {
    pub fn new(id: EngineId, report: Report, log: Arc<Log>, replica: &ReplicaId) -> Self {
        Self {
            id,
            log,
            pulse: Mutex::new(Pulse::of(&report, replica, Evidence::Fresh, Probe::Unasked)),
            reason: Mutex::new(told(&report)),
            facts: report.facts,
            open: Arc::default(),
            picks: Arc::default(),
        }
    }

    /// The record that takes this one's place: what this replica has open there is open still, if it is the same life.
    pub fn followed_by(&self, report: Report, replica: &ReplicaId) -> Self {
        let same_life = report.facts.incarnation == self.facts.incarnation;
        Self {
            open: if same_life { self.open.clone() } else { Arc::default() },
            picks: self.picks.clone(),
            ..Self::new(self.id.clone(), report, self.log.clone(), replica)
        }
    }

    pub fn count_pick(&self) {
        self.picks.fetch_add(1, Ordering::Relaxed);
    }

    pub fn picks(&self) -> u64 {
        self.picks.load(Ordering::Relaxed)
    }

    fn lock(&self) -> MutexGuard<'_, Pulse> {
        self.pulse.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn pulse(&self) -> Pulse {
        *self.lock()
    }

    /// Why it is in its state, in words.
    pub fn reason(&self) -> Arc<str> {
        self.reason.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Takes in a report of the same life. A failed probe stands until the address answers.
    pub fn update(&self, report: Report, replica: &ReplicaId) {
        let mut pulse = self.lock();
        *pulse = Pulse::of(&report, replica, Evidence::Fresh, weighed(pulse.probe, Evidence::Fresh));
        drop(pulse);
        *self.reason.lock().unwrap_or_else(PoisonError::into_inner) = told(&report);
    }

    pub fn set_evidence(&self, evidence: Evidence) {
        let mut pulse = self.lock();
        (pulse.evidence, pulse.probe) = (evidence, weighed(pulse.probe, evidence));
    }

    /// Takes in what a probe of the data address, or a request's failed connection, found.
    pub fn set_probe(&self, probe: Probe) {
        let mut pulse = self.lock();
        pulse.probe = weighed(probe, pulse.evidence);
    }

    /// Whether its address should be asked again.
    pub fn wants_probe(&self) -> bool {
        let pulse = self.lock();
        pulse.probe == Probe::Failed || pulse.evidence == Evidence::Unknown
    }

    /// Requests this replica has open on it.
    pub fn open(&self) -> InFlight {
        InFlight {
            requests: self.open.requests.load(Ordering::Relaxed),
            uncached_tokens: self.open.uncached_tokens.load(Ordering::Relaxed),
        }
    }

    /// Counts a request as open until the returned guard is dropped.
    pub fn begin(self: &Arc<Self>, uncached_tokens: u64) -> OpenStream {
        self.open.requests.fetch_add(1, Ordering::Relaxed);
        self.open.uncached_tokens.fetch_add(uncached_tokens, Ordering::Relaxed);
        OpenStream { engine: self.clone(), uncached_tokens }
    }

    /// What is in flight there, each request once: our own streams exactly and at once, the others' as reported. Of an engine that does
    /// not count by replica, our own streams or its own metrics, whichever is more.
    pub fn in_flight(&self, pulse: &Pulse) -> InFlight {
        let mut open = self.open();
        if self.facts.counts_in_flight {
            open.add(pulse.elsewhere);
        } else {
            open.requests = open.requests.max(pulse.waiting.saturating_add(pulse.running));
        }
        open
    }
}

/// Why it is in its state, or else why its GPUs are not well.
fn told(report: &Report) -> Arc<str> {
    if report.reason.is_empty() { report.health.reason.as_str().into() } else { report.reason.clone() }
}

/// Fresh evidence outweighs an answered probe; only a failed one adds to it.
fn weighed(probe: Probe, evidence: Evidence) -> Probe {
    match (probe, evidence) {
        (Probe::Answered, Evidence::Fresh) => Probe::Unasked,
        _ => probe,
    }
}

/// A request that is open on an engine.
pub struct OpenStream {
    engine: Arc<Engine>,
    uncached_tokens: u64,
}

impl OpenStream {
    pub fn engine(&self) -> &Arc<Engine> {
        &self.engine
    }
}

impl Drop for OpenStream {
    fn drop(&mut self) {
        self.engine.open.requests.fetch_sub(1, Ordering::Relaxed);
        self.engine.open.uncached_tokens.fetch_sub(self.uncached_tokens, Ordering::Relaxed);
    }
}
