//! The engine without a device or a network: admit, plan, launch, settle.
//!
//! ```text
//!   Handle ──submit/abort──▶ Engine (one thread) ──Batch──▶ Backend (cpu, cuda, fake)
//!      ▲                        │  step = admit, plan, launch → ticket, settle the previous ticket
//!      └────── Output ◀─────────┘
//! ```
//! No async, no I/O, no clock of its own, no unsafe: the clock is one of the [`Ports`](step::Ports), tokens come out through a
//! [`Sink`](request::Sink), and what computes stands behind [`Backend`](backend::Backend).
#![forbid(unsafe_code)]

mod adapters;
pub mod backend;
pub mod config;
pub mod device;
pub mod handle;
pub mod kv;
pub mod layer;
pub mod model;
pub mod observe;
mod plan;
pub mod pooling;
pub mod request;
pub mod sample;
mod sequence;
pub mod speculate;
pub mod step;
