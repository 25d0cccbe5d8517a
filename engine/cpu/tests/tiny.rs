//! The backend through its public door, on the small committed checkpoints.

#[path = "tiny/parity.rs"]
mod parity;
#[path = "tiny/support.rs"]
mod support;
