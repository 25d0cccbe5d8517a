//! The nouns both sides of Trackside share: ids, units, the token-block key, engines, nodes, load, requests, faults.
//!
//! No I/O, no async, no serde, no clock: a type here can be used by the engine's step, by the scheduler's decision and by a
//! simulation of ten thousand nodes alike. Wire forms of these nouns live in `proto`.
#![forbid(unsafe_code)]

pub mod block;
pub mod engine;
pub mod fault;
pub mod gpu;
pub mod id;
pub mod load;
pub mod node;
pub mod request;

pub use block::{AdapterKey, BlockKey, ExtraKeys};
pub use engine::{EngineState, Role};
pub use fault::{Fault, FaultKind};
pub use id::{AssetsDigest, DataAddress, EngineId, EngineName, Incarnation, ModelId, NodeId, ReplicaId};
pub use load::{InFlight, KvUse, Load};
pub use request::Ask;
