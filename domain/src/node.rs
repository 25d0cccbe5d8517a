//! What a node is and how it does, apart from its engines: identity and the facts the agent senses.

use crate::id::{Incarnation, NodeId};

/// Who speaks on a node stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeIdentity {
    pub node: NodeId,
    /// `/proc/sys/kernel/random/boot_id`: facts older than a reboot are void.
    pub boot_id: String,
    pub agent_version: String,
    /// Life of the agent's process.
    pub agent: Incarnation,
}

/// Facts of the host. Each is `None` where it is absent, never zero.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct HostFacts {
    pub cpus: Option<u32>,
    /// Busy share of all CPUs since the last sample, 0.0 ..= 1.0.
    pub cpu_busy: Option<f64>,
    pub memory_total_bytes: Option<u64>,
    pub memory_available_bytes: Option<u64>,
    /// Pressure stall information: share of the last 10 s in which some task waited, 0.0 ..= 1.0.
    pub cpu_pressure: Option<f64>,
    pub memory_pressure: Option<f64>,
    pub io_pressure: Option<f64>,
}
