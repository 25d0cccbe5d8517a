//! What a GPU is to the rest of the fleet: facts with their age, and a verdict with its reasons.

use std::fmt;
use std::time::Duration;

/// Most GPUs of one node.
pub const GPUS_MAX: usize = 64;
/// Most reasons of one verdict.
pub const REASONS_MAX: usize = 16;

/// What may be done with a GPU; worse is greater.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Verdict {
    #[default]
    Ok,
    /// Works, slower than it should or with an error that may be the first of more; its capacity counts less.
    Degraded,
    /// Finishes what it has and takes nothing new.
    Draining,
    /// Must not be used before there is evidence of repair.
    Quarantined,
}

impl Verdict {
    pub const ALL: [Self; 4] = [Self::Ok, Self::Degraded, Self::Draining, Self::Quarantined];

    /// Whether new requests may be sent to an engine on it.
    pub fn takes_work(self) -> bool {
        matches!(self, Self::Ok | Self::Degraded)
    }

    /// Lower-case name, as in JSON, metrics and tables.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Degraded => "degraded",
            Self::Draining => "draining",
            Self::Quarantined => "quarantined",
        }
    }

    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|verdict| verdict.as_str() == name)
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Load and condition of a GPU at one moment. Each is `None` where the GPU does not say, never zero.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct GpuFacts {
    /// Share of time in which some kernel ran, 0.0 ..= 1.0.
    pub busy: Option<f64>,
    /// Share of the streaming multiprocessors' time in which they had work (Hopper and later).
    pub sm_active: Option<f64>,
    /// Share of the memory's bandwidth in use (Hopper and later).
    pub dram_active: Option<f64>,
    pub memory_used_bytes: Option<u64>,
    pub memory_total_bytes: Option<u64>,
    pub power_w: Option<f64>,
    pub temperature_c: Option<f64>,
}

/// One GPU as its node reports it.
#[derive(Clone, Debug, PartialEq)]
pub struct GpuReport {
    pub uuid: String,
    /// Position in PCI order, as NVML counts.
    pub index: u32,
    /// `domain:bus:device.0`.
    pub pci_bus_id: String,
    pub model: String,
    pub verdict: Verdict,
    /// What a person can act on, worst first; at most [`REASONS_MAX`].
    pub reasons: Vec<String>,
    /// Share of its usual throughput that it still has, 0.0 ..= 1.0.
    pub capacity: f64,
    pub facts: GpuFacts,
    /// Of the facts, when the report was made.
    pub age: Duration,
}

/// What the GPUs of an engine mean for it.
#[derive(Clone, Debug, PartialEq)]
pub struct EngineHealth {
    /// The worst of its GPUs.
    pub verdict: Verdict,
    /// The least capacity among them.
    pub capacity: f64,
    /// Names the GPU and what is wrong; empty where nothing is.
    pub reason: String,
}

impl Default for EngineHealth {
    fn default() -> Self {
        Self { verdict: Verdict::Ok, capacity: 1.0, reason: String::new() }
    }
}
