//! Chooses an engine for a request: fleet table, KV index, decision, gateway.
//!
//! Read it in this order: [`decide`] is the decision, one screen and pure; [`filter`], [`score`] and [`pick`] are its three steps;
//! [`fleet`] is what it decides by; [`choose`] leads from a client's question to a choice; `edge` speaks HTTP and gRPC; [`app`] composes.
#![forbid(unsafe_code)]

pub mod app;
pub mod choose;
pub mod config;
pub mod decide;
mod edge;
pub mod filter;
pub mod fleet;
pub mod pick;
pub mod score;
pub mod text;

pub use app::{Bound, Running, run};
pub use config::Config;
