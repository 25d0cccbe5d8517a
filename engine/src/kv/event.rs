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
    /// These blocks are no longer cached there; another tier may hold them.
    Removed {
        hashes: Vec<BlockHash>,
        medium: Medium,
    },
    /// Nothing is cached any more, on any tier.
    Cleared,
}

/// The tier on which a block lies, by vLLM's words: "GPU" is the first tier of any device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Medium {
    Device,
    Host,
    Disk,
}

impl Medium {
    /// The word on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Device => "GPU",
            Self::Host => "CPU",
            Self::Disk => "STORAGE",
        }
    }
}

/// A run of full blocks of one sequence, each the parent of the next. On the wire `group_idx` is 0 and the kind `full_attention`: there
/// is one KV group.
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
    pub medium: Medium,
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
    pub medium: Medium,
}

/// What the prefix cache held at one moment, in no order. A block on two tiers is listed twice.
#[derive(Clone, Debug, PartialEq)]
pub struct BlockList {
    /// The list holds before the event batch of this sequence, and after all earlier ones.
    pub sequence: u64,
    pub block_tokens: usize,
    pub blocks: Vec<CachedBlock>,
}

impl BlockList {
    /// The blocks, parents before their children.
    pub fn parents_first(mut self) -> Self {
        self.blocks.sort_by_key(|block| block.index);
        self
    }
}
