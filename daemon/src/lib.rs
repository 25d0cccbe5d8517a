//! The node agent: starts and watches engines, senses the node, reports to every scheduler.
//!
//! [`run`] starts it from a [`config::Config`]. Inside, `run` supervises, `attach` reads engines, `collect` senses the host; all leave
//! what they know on one board (`node`), which `report` and `edge` tell to schedulers, Prometheus and people.
#![forbid(unsafe_code)]

mod app;
mod assets;
pub mod attach;
pub mod collect;
pub mod config;
mod edge;
pub mod health;
pub mod node;
pub mod report;
pub mod run;
pub mod xid;

pub use app::{Bound, Running, run};
