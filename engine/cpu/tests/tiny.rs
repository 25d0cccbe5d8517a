//! The backend through its public door, on the small committed checkpoints.

#[path = "tiny/adapters.rs"]
mod adapters;
#[path = "tiny/checkpoints.rs"]
mod checkpoints;
#[path = "tiny/contract.rs"]
mod contract;
#[path = "tiny/embeddings.rs"]
mod embeddings;
#[path = "tiny/invariance.rs"]
mod invariance;
#[path = "tiny/parity.rs"]
mod parity;
#[path = "tiny/spellings.rs"]
mod spellings;
#[path = "tiny/support.rs"]
mod support;
#[path = "tiny/tolerance.rs"]
mod tolerance;
