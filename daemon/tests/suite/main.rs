//! The agent through its public doors: real processes, a real gRPC server, fixture trees of /proc.
#![expect(clippy::unwrap_used, reason = "tests and their helpers: a panic is how they fail")]

mod agent;
mod collectors;
mod configuration;
mod engine;
mod gpus;
mod hostile;
mod kv_events;
mod life;
mod log;
mod native;
mod report;
mod supervision;
mod verdicts;
mod xids;
