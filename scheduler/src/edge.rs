//! Everything that speaks a protocol, and the only user of `proto`.

pub mod admin;
pub mod gateway;
pub mod metrics;
pub mod nodes;
pub mod openai;
pub mod probe;
