//! The KV cache: which blocks exist, who holds them, which of them are known by their content.

pub mod event;
pub mod hash;
pub mod lease;
