//! The engine's HTTP edge: bodies of `proto` in, requests of `engine` out, and back. Nothing behind this module knows JSON.

pub(crate) mod admin;
pub(crate) mod answer;
pub(crate) mod app;
pub(crate) mod blocks;
pub(crate) mod chat;
pub(crate) mod choice;
pub(crate) mod completion;
pub(crate) mod generate;
pub(crate) mod generation;
pub(crate) mod http;
pub mod kv_events;
pub(crate) mod logprobs;
pub(crate) mod orca;
pub(crate) mod plan;
pub(crate) mod probe;
pub(crate) mod prompt;
pub(crate) mod rank;
pub(crate) mod refuse;
pub(crate) mod request_id;
pub(crate) mod routes;
pub(crate) mod server_info;
pub(crate) mod state;
pub(crate) mod stream;
pub(crate) mod tokens;
pub(crate) mod whole;
pub(crate) mod work;
