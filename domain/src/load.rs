//! What an engine is doing: requests, KV blocks, measured rates.

use crate::id::ReplicaId;

/// Most replicas that one engine counts in-flight requests for; further ones are counted together as [`Load::others`].
pub const REPLICAS_MAX: usize = 64;

/// Load of one engine at one moment, as it counts it itself.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Load {
    /// Requests admitted to the engine and not yet running.
    pub waiting: u32,
    /// Requests in the running batch.
    pub running: u32,
    /// Open requests by the replica that picked this engine.
    pub by_replica: Vec<(ReplicaId, InFlight)>,
    /// Open requests that carry no replica's name: direct clients.
    pub others: InFlight,
    pub kv: KvUse,
    /// Tokens per second of prefill, measured over recent steps; `None` before the first.
    pub prefill_tok_s: Option<f64>,
    /// Duration of a decode step, measured over recent steps; `None` before the first.
    pub decode_step_ms: Option<f64>,
}

/// Requests that are open somewhere, and the prompt tokens among them that no cache held.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct InFlight {
    pub requests: u32,
    pub uncached_tokens: u64,
}

impl InFlight {
    pub fn add(&mut self, other: Self) {
        self.requests = self.requests.saturating_add(other.requests);
        self.uncached_tokens = self.uncached_tokens.saturating_add(other.uncached_tokens);
    }

    /// Takes a finished request out; a count never goes below zero.
    pub fn remove(&mut self, other: Self) {
        self.requests = self.requests.saturating_sub(other.requests);
        self.uncached_tokens = self.uncached_tokens.saturating_sub(other.uncached_tokens);
    }
}

/// KV blocks of an engine's first tier.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct KvUse {
    /// Blocks held by requests. Cached blocks that nobody holds are free.
    pub used_blocks: u64,
    pub total_blocks: u64,
    pub block_tokens: u32,
}

impl KvUse {
    /// 0.0 ..= 1.0, as `vllm:kv_cache_usage_perc`.
    pub fn fraction(self) -> f64 {
        if self.total_blocks == 0 { 0.0 } else { self.used_blocks as f64 / self.total_blocks as f64 }
    }
}
