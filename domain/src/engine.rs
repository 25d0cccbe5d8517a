//! What an engine is to the rest of the fleet: its role and where it stands in its life.

use std::fmt;

/// Which leg of a request an engine serves.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Role {
    /// Prefill and decode.
    #[default]
    Both,
    Prefill,
    Decode,
}

/// Where an engine stands in its life.
///
/// ```text
/// Absent → Starting → Warming → Ready ⇄ Degraded
///             ↑                   ↓        ↓
///          Backoff ← Crashed ←────┴─ Draining → Stopped
///                       ↓
///                  Quarantined
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum EngineState {
    /// Not started yet, or not found.
    #[default]
    Absent,
    /// The process runs and loads its model.
    Starting,
    /// The model is loaded; a first answer has not been seen.
    Warming,
    Ready,
    /// Serves, slower than it should; its capacity counts by measured throughput.
    Degraded,
    /// Finishes what it has and takes nothing new.
    Draining,
    /// Ended because it was asked to.
    Stopped,
    /// Ended, or stuck, without being asked to.
    Crashed,
    /// Waits before the next start.
    Backoff,
    /// Not started again before there is evidence of repair.
    Quarantined,
}

impl EngineState {
    /// All states, in the order of the drawing.
    pub const ALL: [Self; 10] = [
        Self::Absent,
        Self::Starting,
        Self::Warming,
        Self::Ready,
        Self::Degraded,
        Self::Draining,
        Self::Stopped,
        Self::Crashed,
        Self::Backoff,
        Self::Quarantined,
    ];

    /// Whether new requests may be sent to it.
    pub fn takes_work(self) -> bool {
        matches!(self, Self::Ready | Self::Degraded)
    }

    /// Lower-case name, as in JSON, metrics and tables.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Absent => "absent",
            Self::Starting => "starting",
            Self::Warming => "warming",
            Self::Ready => "ready",
            Self::Degraded => "degraded",
            Self::Draining => "draining",
            Self::Stopped => "stopped",
            Self::Crashed => "crashed",
            Self::Backoff => "backoff",
            Self::Quarantined => "quarantined",
        }
    }
}

impl fmt::Display for EngineState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
