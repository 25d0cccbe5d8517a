//! The scheduler's configuration: few keys, each with a default; strict, and all mistakes at once.

mod strict;

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use domain::{Fault, FaultKind};

use crate::decide::Policy;
use crate::filter::Limits;
use crate::score::Weights;
use strict::{Mistakes, Table};

/// Between these lies the largest body that may be configured.
const BODY_BYTES_MIN: u64 = 1 << 10;
const BODY_BYTES_MAX: u64 = 256 << 20;

#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// This replica's name, unique among replicas; in `x-trackside-replica`.
    pub name: String,
    pub listen: Listen,
    /// Scorers' weights and filters' limits.
    pub policy: Policy,
    /// Largest request body.
    pub body_bytes_max: usize,
    /// Longest wait for a connection to an engine.
    pub connect_timeout: Duration,
    /// How long open requests may go on after a shutdown.
    pub drain_timeout: Duration,
    /// Least time between two reports that agents are asked for.
    pub report_interval: Duration,
    /// Answers carry `x-trackside-engine`, `x-trackside-incarnation`, `x-trackside-prefix` (cached tokens at the engine / at the
    /// best one) and `x-trackside-prompt-tokens`.
    pub debug_headers: bool,
}

/// Where the scheduler listens. Port 0 takes any free port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Listen {
    pub gateway: SocketAddr,
    pub nodes: SocketAddr,
    pub admin: SocketAddr,
}

impl Default for Config {
    fn default() -> Self {
        let loopback = |port| SocketAddr::from(([127, 0, 0, 1], port));
        Self {
            name: "scheduler-0".to_owned(),
            listen: Listen { gateway: loopback(8000), nodes: loopback(9010), admin: loopback(9090) },
            policy: Policy::default(),
            body_bytes_max: 32 << 20,
            connect_timeout: Duration::from_millis(1000),
            drain_timeout: Duration::from_millis(30_000),
            report_interval: Duration::from_millis(20),
            debug_headers: false,
        }
    }
}

impl Config {
    /// The defaults on free ports of the loopback address: for tests, and for `trackside up`, which names its own.
    pub fn on_free_ports() -> Self {
        let free = SocketAddr::from(([127, 0, 0, 1], 0));
        Self { listen: Listen { gateway: free, nodes: free, admin: free }, ..Self::default() }
    }

    /// Reads a file.
    pub fn load(path: &Path) -> Result<Self, Fault> {
        let text = std::fs::read_to_string(path).map_err(|error| {
            let what = format!("cannot read the configuration {}", path.display());
            Fault::new(FaultKind::Config, what, "check the path and who may read it").because(error)
        })?;
        Self::parse(&text, &path.display().to_string())
    }

    /// Reads YAML. `name` is what the file is called in errors.
    pub fn parse(text: &str, name: &str) -> Result<Self, Fault> {
        let fault = |what: String| Fault::new(FaultKind::Config, what, "correct the file and start again");
        let tree = strict::parse(text).map_err(|error| fault(format!("{name}: {error}")))?;
        let mut mistakes = Mistakes::default();
        let config = Self::from_tree(&mut Table::root(&tree, &mut mistakes));
        if mistakes.is_empty() { Ok(config) } else { Err(fault(mistakes.told_of(name))) }
    }

    fn from_tree(root: &mut Table<'_>) -> Self {
        let mut config = Self::default();
        root.text("name", &mut config.name, is_replica_name);
        root.table("listen", |listen| {
            listen.parsed("gateway", "an address such as 127.0.0.1:8000", &mut config.listen.gateway);
            listen.parsed("nodes", "an address such as 127.0.0.1:9010", &mut config.listen.nodes);
            listen.parsed("admin", "an address such as 127.0.0.1:9090", &mut config.listen.admin);
        });
        root.table("weights", |weights| {
            let Weights { prefix, kv, queue } = &mut config.policy.weights;
            weights.weight("prefix", prefix);
            weights.weight("kv", kv);
            weights.weight("queue", queue);
        });
        let Limits { in_flight_max } = &mut config.policy.limits;
        root.whole("in_flight_max", 1..=1_000_000, |n| *in_flight_max = n as u32);
        root.whole("body_bytes_max", BODY_BYTES_MIN..=BODY_BYTES_MAX, |n| config.body_bytes_max = n as usize);
        root.whole("connect_timeout_ms", 1..=60_000, |n| config.connect_timeout = Duration::from_millis(n));
        root.whole("drain_timeout_ms", 0..=3_600_000, |n| config.drain_timeout = Duration::from_millis(n));
        root.whole("report_interval_ms", 1..=60_000, |n| config.report_interval = Duration::from_millis(n));
        root.truth("debug_headers", &mut config.debug_headers);
        root.finish();
        config
    }
}

/// It stands in a header and before a slash.
fn is_replica_name(name: &str) -> Result<(), String> {
    let fit = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    if (1..=63).contains(&name.len()) && name.chars().all(fit) {
        return Ok(());
    }
    Err("a replica's name has 1 to 63 letters, digits, '-', '_' and '.'".to_owned())
}
