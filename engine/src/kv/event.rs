//! What happened to the prefix cache, as vLLM's KV events say it; encoding is the edge's.

use std::sync::Arc;

use domain::ExtraKeys;

use super::hash::BlockHash;

/// Takes batches of events, in sequence and without gap. Called on the engine's thread: it must not block.
pub trait KvSink: Send {
    fn put(&mut self, batch: KvBatch);
}

impl<F: FnMut(KvBatch) + Send> KvSink for F {
    fn put(&mut self, batch: KvBatch) {
        self(batch);
    }
}

/// The events of one step.
#[derive(Clone, Debug, PartialEq)]
pub struct KvBatch {
    /// Counts batches from 0 in one life of the engine.
    pub sequence: u64,
    pub events: Vec<KvEvent>,
}

#[derive(Clone, Debug, PartialEq)]
pub enum KvEvent {
    Stored(Stored),
    /// These blocks are no longer cached.
    Removed(Vec<BlockHash>),
    /// Nothing is cached any more.
    Cleared,
}

/// A run of full blocks of one sequence, each the parent of the next. `medium` is "GPU" on the wire, `group_idx` 0 and the kind
/// `full_attention`, for any device: they name the first tier and the only KV group.
#[derive(Clone, Debug, PartialEq)]
pub struct Stored {
    pub hashes: Vec<BlockHash>,
    /// The block before the first one; `None` at the start of a sequence.
    pub parent: Option<BlockHash>,
    /// Tokens of all blocks, `block_tokens` each.
    pub tokens: Vec<u32>,
    pub block_tokens: usize,
    /// What else the blocks' hashes stand for, as the request gave it: adapter (`lora_name`), salt, multimodal items.
    /// [`block_extra`](super::hash::block_extra) says what of it enters block `i`.
    pub extra: Arc<ExtraKeys>,
    /// Position of the first block in its sequence, in blocks.
    pub first_block: usize,
}

/// One cached block of a listing.
#[derive(Clone, Debug, PartialEq)]
pub struct CachedBlock {
    pub hash: BlockHash,
    pub parent: Option<BlockHash>,
    pub tokens: Vec<u32>,
    pub extra: Arc<ExtraKeys>,
    /// Position in its sequence, in blocks.
    pub index: usize,
}

/// What the prefix cache holds, parents before their children.
#[derive(Clone, Debug, PartialEq)]
pub struct BlockList {
    /// The list holds before the event batch of this sequence, and after all earlier ones.
    pub sequence: u64,
    pub block_tokens: usize,
    pub blocks: Vec<CachedBlock>,
}
