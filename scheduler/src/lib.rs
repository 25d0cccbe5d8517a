//! Chooses an engine for a request: fleet table, KV index, decision, gateway.
#![forbid(unsafe_code)]
