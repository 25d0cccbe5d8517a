//! Bodies between an engine (or proxy) and its node agent: `GET /trackside/v1/state`, newline-delimited JSON, one [`State`] a line,
//! on change at most every 20 ms, else every second; and `GET /trackside/v1/blocks`, newline-delimited JSON, a [`BlocksHead`]
//! followed by one [`Block`] a line, parents before children.

use serde::{Deserialize, Serialize};

/// Request header by which a scheduler replica names itself to the engine it picked: `<name>/<incarnation in hex>`.
pub const REPLICA_HEADER: &str = "x-trackside-replica";

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct State {
    /// Hex, 16 digits.
    pub incarnation: String,
    /// `domain::EngineState` in lower case: "starting", "warming", "ready", "draining".
    pub state: String,
    pub model: String,
    #[serde(default)]
    pub adapters: Vec<String>,
    /// Hex SHA-256 of tokenizer and chat template.
    pub assets_digest: String,
    pub context_length: u32,
    /// Steps made since the start; stands still while requests run when the engine is stuck.
    pub steps: u64,
    pub waiting: u32,
    pub running: u32,
    #[serde(default)]
    pub in_flight: Vec<ReplicaInFlight>,
    /// Open requests without a replica's name.
    #[serde(default)]
    pub others: InFlight,
    pub kv_blocks_used: u64,
    pub kv_blocks_total: u64,
    pub kv_block_tokens: u32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prefill_tok_s: Option<f64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub decode_step_ms: Option<f64>,
    /// ZMQ endpoint of KV events as bound, "tcp://127.0.0.1:5557"; absent when they are switched off.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kv_events: Option<String>,
    /// ROUTER endpoint for replay.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kv_replay: Option<String>,
    /// How far the weights are, while the state is "starting".
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub loading: Option<Loading>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Loading {
    pub done_bytes: u64,
    pub total_bytes: u64,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct InFlight {
    pub requests: u32,
    /// Their prompt tokens that no cache held and that are not computed yet; 0 from a request's first token on.
    pub uncached_tokens: u64,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReplicaInFlight {
    /// `<name>/<incarnation in hex>`.
    pub replica: String,
    #[serde(flatten)]
    pub in_flight: InFlight,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BlocksHead {
    pub incarnation: String,
    /// Sequence of the KV-event batch that the list already contains; events from `sequence + 1` on come after it. `None` before
    /// the first event.
    pub sequence: Option<u64>,
    pub block_tokens: u32,
    pub blocks: u64,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Block {
    /// The engine's hash as its events carry it: the low 64 bits.
    pub hash: u64,
    pub parent: Option<u64>,
    pub tokens: Vec<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub adapter: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cache_salt: Option<String>,
    /// The tier, by the word of vLLM's events: "CPU", "STORAGE"; absent on the device. A block on two tiers is listed twice.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub medium: Option<String>,
}
