//! The engine's edge: HTTP, metrics, KV events.
#![forbid(unsafe_code)]
