//! The engine without a device or a network: step, plan, kv, model, layer, sample, backend.
#![forbid(unsafe_code)]
