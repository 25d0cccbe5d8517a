//! The scheduler through its public doors: the decision, the index, the configuration, and a running scheduler over HTTP and gRPC.
#![forbid(unsafe_code)]
#![expect(clippy::unwrap_used, reason = "a step that fails is a test that fails")]

mod config;
mod decide;
mod fleet;
mod gateway;
mod hostile;
mod index;
mod nodes;
mod support;
