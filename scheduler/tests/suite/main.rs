//! The scheduler through its public doors: the decision, the index, the configuration, and a running scheduler over HTTP and gRPC.
#![forbid(unsafe_code)]

mod config;
mod decide;
mod gateway;
mod hostile;
mod index;
mod nodes;
mod support;
