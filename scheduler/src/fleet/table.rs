//! Nodes and their engines, as the State streams tell them; the clock is passed in.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use domain::gpu::GpuReport;
use domain::node::{HostFacts, NodeIdentity};
use domain::{EngineId, EngineName, EngineState, Incarnation, NodeId, ReplicaId};

use super::engine::{Engine, Evidence, Probe, Report};
use super::log::{Log, Phase};
use super::roster::Roster;

/// Nodes of one fleet.
pub const NODES_MAX: usize = 8192;
/// Engines of one node.
pub const ENGINES_PER_NODE_MAX: usize = 64;
/// A node that sent neither report nor heartbeat for so long is silent: five missed heartbeats.
pub const SILENT_AFTER: Duration = Duration::from_secs(5);
/// A node without a stream and without an engine that answers is forgotten after this.
pub const FORGET_AFTER: Duration = Duration::from_secs(600);
/// An engine whose blocks were not listed this long after its node reported it has no list to wait for.
const LOG_AWAITED: Duration = Duration::from_secs(10);

/// A State stream; a later one of the same node has a higher number and takes its place.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Session(pub u64);

/// What one State message changed.
#[derive(Clone, Debug, Default)]
pub struct Changes {
    pub engines: Vec<(EngineName, Report)>,
    pub removed: Vec<EngineName>,
    pub host: Option<HostFacts>,
    /// All GPUs of the node, where one changed.
    pub gpus: Option<Vec<GpuReport>>,
    /// Engines of the node that are not named are gone.
    pub complete: bool,
}

/// A node beyond one of the maxima, or a message of a stream that a later one replaced.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    #[error("{NODES_MAX} nodes are connected; this replica takes no further one")]
    TooManyNodes,
    #[error("node {0} has more than {ENGINES_PER_NODE_MAX} engines")]
    TooManyEngines(NodeId),
    #[error("a later stream of node {0} has taken this one's place")]
    Replaced(NodeId),
}

pub struct Node {
    pub identity: NodeIdentity,
    /// `None` while no stream is connected.
    pub session: Option<Session>,
    latest_session: Session,
    /// Whether every engine of the node was listed since its stream began.
    pub complete: bool,
    pub leaving: bool,
    pub host: HostFacts,
    pub gpus: Vec<GpuReport>,
    /// When they were reported; their own age is to be added.
    pub gpus_at: Instant,
    pub heard: Instant,
    pub engines: BTreeMap<EngineName, Arc<Engine>>,
    listed: Instant,
}

impl Node {
    /// Whether all of this node is known: its engines, and the blocks of each that serves.
    pub fn learned(&self, now: Instant) -> bool {
        let known = |engine: &Arc<Engine>| {
            engine.log.phase() == Phase::Whole || !engine.pulse().state.takes_work() || now - self.listed > LOG_AWAITED
        };
        self.complete && self.engines.values().all(known)
    }
}

/// All nodes of the fleet.
pub struct Table {
    replica: ReplicaId,
    nodes: HashMap<NodeId, Node>,
    /// By engine rather than inside it, because a Blocks stream may be ahead of the State stream.
    logs: HashMap<EngineId, Arc<Log>>,
}

impl Table {
    pub fn new(replica: ReplicaId) -> Self {
        Self { replica, nodes: HashMap::new(), logs: HashMap::new() }
    }

    pub fn nodes(&self) -> impl Iterator<Item = &Node> {
        self.nodes.values()
    }

    pub fn knows(&self, node: &NodeId) -> bool {
        self.nodes.contains_key(node)
    }

    /// A State stream said hello.
    pub fn connect(&mut self, identity: NodeIdentity, session: Session, now: Instant) -> Result<(), Refused> {
        if self.nodes.len() >= NODES_MAX && !self.nodes.contains_key(&identity.node) {
            return Err(Refused::TooManyNodes);
        }
        let node = self.nodes.entry(identity.node.clone()).or_insert_with(|| Node {
            identity: identity.clone(),
            session: None,
            latest_session: session,
            complete: false,
            leaving: false,
            host: HostFacts::default(),
            gpus: Vec::new(),
            gpus_at: now,
            heard: now,
            engines: BTreeMap::new(),
            listed: now,
        });
        if session < node.latest_session {
            return Err(Refused::Replaced(identity.node));
        }
        // Until the engines are listed again, what was known of them is old; routing goes on with it.
        node.engines.values().for_each(|engine| engine.set_evidence(Evidence::Unknown));
        (node.session, node.latest_session) = (Some(session), session);
        (node.identity, node.complete, node.leaving, node.heard) = (identity, false, false, now);
        Ok(())
    }

    /// Takes in what a stream reported. Returns whether the roster changed.
    pub fn report(&mut self, id: &NodeId, session: Session, changes: Changes, now: Instant) -> Result<bool, Refused> {
        let node = current(&mut self.nodes, id, session)?;
        let Changes { engines, removed, host, gpus, complete } = changes;
        let unlisted = node.engines.keys().filter(|name| !complete && engines.iter().all(|(listed, _)| listed != *name));
        if unlisted.count() + engines.len() > ENGINES_PER_NODE_MAX {
            return Err(Refused::TooManyEngines(id.clone()));
        }
        node.heard = now;
        if let Some(host) = host {
            node.host = host;
        }
        if let Some(gpus) = gpus {
            (node.gpus, node.gpus_at) = (gpus, now);
        }
        let mut gone = removed;
        if complete {
            (node.complete, node.listed) = (true, now);
            gone.extend(node.engines.keys().filter(|name| engines.iter().all(|(listed, _)| listed != *name)).cloned());
        }
        let mut changed = false;
        for name in gone {
            if let Some(engine) = node.engines.remove(&name) {
                changed = true;
                engine.log.close();
                self.logs.remove(&engine.id);
            }
        }
        for (name, report) in engines {
            let id = EngineId { node: id.clone(), name };
            let dead = ended(report.state).then_some(report.facts.incarnation);
            match node.engines.get(&id.name) {
                // An agent that was started again names what it found running before it has looked at it.
                Some(engine) if is_unseen(&report) && engine.pulse().state.takes_work() => engine.set_evidence(Evidence::Unknown),
                Some(engine) if engine.facts == report.facts => {
                    if ended(engine.pulse().state) && dead.is_none() {
                        engine.log.revive(report.facts.incarnation);
                    }
                    engine.update(report, &self.replica);
                }
                Some(before) => {
                    if before.facts.incarnation != report.facts.incarnation {
                        before.log.end(before.facts.incarnation);
                        // Requests that still hold the old life must not see it as alive.
                        before.set_probe(Probe::Failed);
                    }
                    before.log.revive(report.facts.incarnation);
                    let after = Arc::new(before.followed_by(report, &self.replica));
                    node.engines.insert(id.name.clone(), after);
                    changed = true;
                }
                None => {
                    let log = self.logs.entry(id.clone()).or_default().clone();
                    let engine = Arc::new(Engine::new(id.clone(), report, log, &self.replica));
                    node.engines.insert(id.name.clone(), engine);
                    changed = true;
                }
            }
            if let (Some(dead), Some(engine)) = (dead, node.engines.get(&id.name)) {
                engine.log.end(dead);
            }
        }
        Ok(changed)
    }

    /// A heartbeat.
    pub fn heard(&mut self, id: &NodeId, session: Session, now: Instant) -> Result<(), Refused> {
        let node = current(&mut self.nodes, id, session)?;
        node.heard = now;
        if node.complete {
            node.engines.values().for_each(|engine| engine.set_evidence(Evidence::Fresh));
        }
        Ok(())
    }

    /// The stream ended, with or without a good-bye. The engines are not gone; what is known of them is not fresh any more.
    pub fn disconnect(&mut self, id: &NodeId, session: Session, leaving: bool) {
        let Ok(node) = current(&mut self.nodes, id, session) else { return };
        (node.session, node.leaving) = (None, leaving);
        node.engines.values().for_each(|engine| engine.set_evidence(Evidence::Unknown));
    }

    /// Notices silence, and forgets nodes that are long gone. Returns whether the roster changed.
    pub fn age(&mut self, now: Instant) -> bool {
        for node in self.nodes.values().filter(|node| now - node.heard > SILENT_AFTER) {
            node.engines.values().for_each(|engine| engine.set_evidence(Evidence::Unknown));
        }
        let logs = &mut self.logs;
        let before = self.nodes.len();
        self.nodes.retain(|_, node| {
            let answers = node.engines.values().any(|engine| engine.pulse().probe != Probe::Failed);
            let keep = node.session.is_some() || answers || now - node.heard < FORGET_AFTER;
            if !keep {
                logs.retain(|id, log| {
                    let other = id.node != node.identity.node;
                    if !other {
                        log.close();
                    }
                    other
                });
            }
            keep
        });
        self.nodes.len() != before
    }

    /// The log of an engine, made when a Blocks stream is the first to name it. `None` when the node is not known or is full.
    pub fn log(&mut self, id: &EngineId) -> Option<Arc<Log>> {
        if let Some(log) = self.logs.get(id) {
            return Some(log.clone());
        }
        self.nodes.get(&id.node)?;
        let of_node = self.logs.keys().filter(|other| other.node == id.node).count();
        (of_node < ENGINES_PER_NODE_MAX).then(|| self.logs.entry(id.clone()).or_default().clone())
    }

    pub fn roster(&self) -> Roster {
        let mut engines: Vec<Arc<Engine>> = self.nodes.values().flat_map(|node| node.engines.values().cloned()).collect();
        engines.sort_by(|a, b| a.id.cmp(&b.id));
        Roster::new(engines)
    }
}

fn current<'t>(nodes: &'t mut HashMap<NodeId, Node>, id: &NodeId, session: Session) -> Result<&'t mut Node, Refused> {
    nodes.get_mut(id).filter(|node| node.session == Some(session)).ok_or_else(|| Refused::Replaced(id.clone()))
}

/// Whether the agent does not know yet which life the engine is in.
fn is_unseen(report: &Report) -> bool {
    let starts = matches!(report.state, EngineState::Absent | EngineState::Starting | EngineState::Warming);
    report.facts.incarnation == Incarnation(0) && starts
}

/// States in which the process, and with it its KV cache, is gone.
fn ended(state: EngineState) -> bool {
    matches!(
        state,
        EngineState::Absent | EngineState::Stopped | EngineState::Crashed | EngineState::Backoff | EngineState::Quarantined
    )
}
