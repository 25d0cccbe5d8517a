//! Leaves out the engines that cannot serve a request, each with its reason.

pub mod alive;
pub mod context;
pub mod health;
pub mod room;
pub mod serves;
pub mod state;

use domain::gpu::Verdict;
use domain::{Ask, EngineState, Role};

use crate::decide::Candidate;

/// Bounds that filters hold against.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Requests in flight on one engine.
    pub in_flight_max: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self { in_flight_max: 1024 }
    }
}

/// Why an engine was left out.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    #[error("does not serve the model")]
    OtherModel,
    #[error("its role is {}", role_name(*.0))]
    OtherRole(Role),
    #[error("it is {0}")]
    State(EngineState),
    #[error("its GPU is {0}")]
    Gpu(Verdict),
    #[error("its address does not answer")]
    Silent,
    #[error("its context holds {context_length} tokens")]
    ContextTooShort { context_length: u32 },
    #[error("it has as many requests in flight as it may have")]
    Full,
}

impl Refusal {
    /// Whether the engine is on its way to take work.
    pub fn passes_soon(&self) -> bool {
        use EngineState::{Absent, Backoff, Crashed, Starting, Warming};
        matches!(self, Self::State(Absent | Starting | Warming | Crashed | Backoff))
    }
}

fn role_name(role: Role) -> &'static str {
    match role {
        Role::Both => "both",
        Role::Prefill => "prefill",
        Role::Decode => "decode",
    }
}

pub type Filter = fn(&Ask, &Candidate<'_>, &Limits) -> Result<(), Refusal>;

/// All filters with their names, in the order in which they are asked.
pub const FILTERS: [(&str, Filter); 6] = [
    ("serves", serves::check),
    ("state", state::check),
    ("health", health::check),
    ("alive", alive::check),
    ("context", context::check),
    ("room", room::check),
];

/// Asks every filter; the first that refuses speaks.
pub fn admit(ask: &Ask, candidate: &Candidate<'_>, limits: &Limits) -> Result<(), Refusal> {
    FILTERS.iter().try_for_each(|(_, check)| check(ask, candidate, limits))
}
