//! Reads a running engine on its own contract: what it does, and which blocks its KV cache holds.
//!
//! Native engines push (`native`): a state stream, a block list, KV events. Foreign ones are asked (`foreign`): `/health`, `/v1/models`,
//! `/metrics` every 250 ms, KV events with replay. Both end in the same two places: [`Seen`] for the engine's supervisor, and the
//! engine's [`BlockLog`].

pub mod event;
pub mod exposition;
pub mod follow;
pub mod foreign;
pub mod native;
pub mod rehash;

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use domain::{AssetsDigest, EngineState, Incarnation, Load};
use tokio::sync::mpsc;

use crate::config::{Foreign, Slot, SlotKind};
use crate::edge::engine::EngineClient;
use crate::node::Node;
use crate::report::blocks::BlockLog;
use crate::run::log::Log;

/// What was seen of an engine.
#[derive(Clone, Debug, PartialEq)]
pub enum Seen {
    /// It answers, but takes no requests yet.
    Answers,
    Observed(Box<Observed>),
    /// It could not be reached just now.
    Silent(String),
}

/// An engine's own account of itself.
#[derive(Clone, Debug, PartialEq)]
pub struct Observed {
    /// `None`: it does not tell its lives apart.
    pub incarnation: Option<Incarnation>,
    pub state: EngineState,
    pub model: String,
    pub adapters: Vec<String>,
    pub assets: Option<AssetsDigest>,
    pub context_length: u32,
    pub load: Load,
    pub steps: u64,
    pub counts_in_flight: bool,
    pub address: SocketAddr,
    /// Weights read and weights in all, in bytes, while it loads.
    pub loading: Option<(u64, u64)>,
}

impl Observed {
    /// Requests it holds in any form.
    pub fn busy(&self) -> u64 {
        let open = self.load.by_replica.iter().map(|(_, open)| u64::from(open.requests)).sum::<u64>();
        let open = open + u64::from(self.load.others.requests);
        open.max(u64::from(self.load.waiting) + u64::from(self.load.running))
    }
}

/// The engine to read and how.
#[derive(Clone, Debug)]
pub struct Target {
    host: IpAddr,
    port: u16,
    /// Where an earlier agent found it.
    known: Option<SocketAddr>,
    log: Option<Log>,
    flavour: Flavour,
    assets: Option<std::path::PathBuf>,
}

#[derive(Clone, Debug)]
enum Flavour {
    Native,
    /// Not started by us as a native one; it may turn out to be one all the same.
    Foreign(Foreign),
}

impl Target {
    pub fn of(slot: &Slot, known: Option<SocketAddr>, log: Option<Log>) -> Self {
        let flavour = match &slot.kind {
            SlotKind::Native { .. } => Flavour::Native,
            SlotKind::Command { foreign, .. } | SlotKind::Attach { foreign } => Flavour::Foreign(foreign.clone()),
        };
        Self { host: slot.host, port: slot.port, known, log, flavour, assets: slot.model_files.clone() }
    }

    /// Its data address: as configured, or as it says itself where port 0 was asked for.
    async fn address(&self) -> SocketAddr {
        if self.port != 0 {
            return SocketAddr::new(self.host, self.port);
        }
        if let Some(known) = self.known {
            return known;
        }
        let mut pace = Retry::new();
        loop {
            if let Some(address) = self.log.as_ref().and_then(Log::first_json).as_ref().and_then(bound) {
                return address;
            }
            pace.wait().await;
        }
    }
}

/// The address in the JSON line that a native engine prints when it listens.
fn bound(line: &serde_json::Value) -> Option<SocketAddr> {
    ["address", "http", "listen"].into_iter().find_map(|key| line.get(key)?.as_str()?.parse().ok())
}

/// Reads the engine until dropped.
pub async fn watch(target: Target, node: Arc<Node>, blocks: Arc<BlockLog>, seen: mpsc::Sender<Seen>) {
    let client = EngineClient::new(target.address().await);
    match &target.flavour {
        Flavour::Native => native::watch(&client, &node, &blocks, &seen).await,
        Flavour::Foreign(foreign) => foreign::watch(&client, foreign, target.assets.as_deref(), &node, &blocks, &seen).await,
    }
}

/// Tries again soon at first, because a start is awaited, and ever less often after that.
pub(crate) struct Retry {
    since: Instant,
}

impl Retry {
    pub fn new() -> Self {
        Self { since: Instant::now() }
    }

    pub async fn wait(&mut self) {
        let delay = match self.since.elapsed().as_secs() {
            0..2 => Duration::from_millis(25),
            2..20 => Duration::from_millis(200),
            _ => Duration::from_secs(1),
        };
        tokio::time::sleep(delay).await;
    }
}
