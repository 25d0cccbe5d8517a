//! The backend through its public door, on the small committed checkpoints.

#[path = "tiny/adapters.rs"]
mod adapters;
#[path = "tiny/checkpoints.rs"]
mod checkpoints;
#[path = "tiny/contract.rs"]
mod contract;
#[path = "tiny/invariance.rs"]
mod invariance;
#[path = "tiny/parity.rs"]
mod parity;
#[path = "tiny/support.rs"]
mod support;
