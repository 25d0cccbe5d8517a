//! The engine's edge: OpenAI HTTP as vLLM speaks it, `vllm:*` metrics, KV events, and the state that a node agent follows.
//!
//! ```text
//!   HTTP ──▶ edge (JSON, text) ──▶ engine::Handle ──▶ engine's thread ──▶ backend
//!    ▲                                                    │ outputs, reports, KV events
//!    └── answers, /metrics, /trackside/v1/state ◀─────────┘
//! ```
//! [`bind`] takes the addresses, [`Server::run`] loads the model, serves and drains. The port answers while the model loads, so that
//! a supervisor sees how far it is; `/health` is 200 only once the engine has answered.
#![forbid(unsafe_code)]

mod adapters;
mod config;
mod edge;
mod guide;
mod in_flight;
mod kv_disk;
mod load;
mod metrics;
mod serve;
mod watchdog;

/// What structured outputs are made of, for whoever measures their cost (`examples/masks.rs`).
#[doc(hidden)]
pub mod masks {
    pub use crate::guide::{Guide, Guides, Spec};
}

pub use config::{
    AnswerOptions, BackendChoice, Config, Convert, FakeSpeed, HttpOptions, Limits, Parser, Parsers, Runner, pooling, speculation,
};
pub use edge::cors::Cors;
pub use edge::kv_events::{BoundEvents, Encoding, HashForm, KvEventsConfig, binds, endpoint_of_rank};
pub use engine::config::Policy;
pub use engine_cpu::{CpuDtype, KvDtype};
pub use kv_disk::KvDiskConfig;
pub use serve::{Bound, Progress, Server, bind};
