//! The agent through its public doors: real processes, a real gRPC server, fixture trees of /proc.

mod agent;
mod collectors;
mod configuration;
mod engine;
mod kv_events;
mod life;
mod log;
mod native;
mod report;
mod supervision;
