//! What computes: the contract between the engine's step and a device. One step is one [`Batch`].
//!
//! A batch is plain arrays, the same on every device. A row names a *slot*, the place where the device keeps what it knows of a
//! request between steps, above all the last token it sampled: a decode row says "continue with your last token", so that a device
//! that settles late (CUDA, the fake) needs no round trip to the host before the next launch.

pub mod fake;

use std::ops::Range;

use engine_assets::Adapter;

use crate::pooling::Vector;
use crate::request::{Logprobs, Sampling};
use crate::sample::{MaskError, SharedState};

/// A physical KV block; index into the backend's one KV region, which is block-major: one block of all layers is contiguous.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct BlockId(pub u32);

/// Place of a running request on the device, `0 .. Limits::slots`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Slot(pub u32);

/// Place of a loaded adapter on the device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct AdapterSlot(pub u32);

/// What one launch computes. Reused from step to step; the vectors keep their capacity.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Batch {
    pub rows: Vec<Row>,
    /// Input ids of all rows with [`Input::Tokens`], concatenated.
    pub tokens: Vec<u32>,
    /// The tokens whose log-probabilities are told, of all rows with [`Row::scored`], concatenated.
    pub targets: Vec<u32>,
    pub tables: Tables,
}

/// The block tables of all slots, kept from batch to batch: planning hands over what changed. Block `i` of a slot's table holds its
/// positions `i * block_tokens ..`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Tables(Vec<Vec<BlockId>>);

impl Tables {
    /// Empty tables, with room for `blocks` blocks in each of `slots`.
    pub fn new(slots: usize, blocks: usize) -> Self {
        Self((0..slots).map(|_| Vec::with_capacity(blocks)).collect())
    }

    /// The table of a slot. It covers every position up to the last of the slot's row, and may go further.
    pub fn of(&self, slot: Slot) -> &[BlockId] {
        self.0.get(slot.0 as usize).map_or(&[], |table| table)
    }

    /// Replaces what a slot's table holds from block `from` on.
    pub fn replace(&mut self, slot: Slot, from: usize, blocks: &[BlockId]) {
        let slot = slot.0 as usize;
        if slot >= self.0.len() {
            self.0.resize_with(slot + 1, Vec::new);
        }
        self.0[slot].truncate(from);
        self.0[slot].extend_from_slice(blocks);
    }
}

/// A stretch of one request: positions `start .. start + len`, whose keys and values are written and whose queries see `0 ..= self`.
#[derive(Clone, Debug, PartialEq)]
pub struct Row {
    pub slot: Slot,
    /// The adapter that the request asked for. It is loaded.
    pub adapter: Option<AdapterSlot>,
    pub input: Input,
    /// Position of the first input token.
    pub start: u32,
    /// Whether the row's last position yields a token; not so for all but the last chunk of a prompt.
    pub sample: Option<Sample>,
    /// How many of the input tokens, at its end, are drafts: guesses at what the positions before them yield. From the position before
    /// the first draft on, each yields a token while the draft behind it is that token; the row then yields 1 to `drafts + 1`
    /// tokens, the same that as many rows would have. Only with [`Self::sample`].
    pub drafts: u32,
    pub scored: Option<Box<Scored>>,
}

impl Row {
    /// Positions whose logits are computed: those scored, then those that may yield a token.
    pub fn logit_rows(&self) -> usize {
        let scored = self.scored.as_ref().map_or(0, |scored| scored.targets.len());
        scored + self.sample.as_ref().map_or(0, |_| 1 + self.drafts as usize)
    }
}

/// Positions of a prompt of which is told how likely the next token was. They lie in the row, before all that yield a token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Scored {
    /// The first such position.
    pub first: u32,
    /// Part of [`Batch::targets`]: the token behind each of them.
    pub targets: Range<usize>,
    /// Most likely tokens to tell beside it.
    pub top: u32,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Input {
    /// This range of [`Batch::tokens`].
    Tokens(Range<usize>),
    /// The one token that this slot sampled last.
    Last,
}

impl Input {
    pub fn len(&self) -> usize {
        match self {
            Self::Tokens(range) => range.len(),
            Self::Last => 1,
        }
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// How the row's token is drawn; `index` counts the request's generated tokens from 0.
#[derive(Clone, Debug, PartialEq)]
pub struct Sample {
    pub sampling: Sampling,
    pub index: u32,
    /// Of a request that asks for more than `sampling`. Who samples tells it each token.
    pub state: Option<SharedState>,
}

/// A launched batch that is not settled. Tickets settle in the order of their launch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Ticket(pub u64);

/// What settled batches yield. Reused from step to step.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Outcomes {
    pub sampled: Vec<Sampled>,
    /// What is told of prompts: slots and, for each scored position of a row, its target's log-probability.
    pub scored: Vec<(Slot, Vec<Logprobs>)>,
    /// The vectors of rows that end their prompts, from a device that embeds. It samples nothing.
    pub pooled: Vec<(Slot, Vector)>,
}

impl Outcomes {
    pub fn clear(&mut self) {
        let Self { sampled, scored, pooled } = self;
        sampled.clear();
        scored.clear();
        pooled.clear();
    }
}

/// One token of a row that samples, or its failure, which is the row's last.
#[derive(Clone, Debug, PartialEq)]
pub struct Sampled {
    pub slot: Slot,
    pub token: Result<u32, NoToken>,
    pub logprobs: Option<Box<Logprobs>>,
    /// The request's mask lets nothing through behind this token: its output is complete.
    pub ended: bool,
}

impl Sampled {
    /// A token, and nothing to tell of it.
    pub fn plain(slot: Slot, token: u32) -> Self {
        Self { slot, token: Ok(token), logprobs: None, ended: false }
    }
}

/// Why a row yields no token. Only its request fails.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoToken {
    #[error("the model's output holds no number to choose a token from")]
    NotANumber,
    #[error("what the request allows leaves no token to choose")]
    NothingAllowed,
    #[error(transparent)]
    Mask(Box<MaskError>),
}

/// Sizes that a backend fixes at its start, for life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Capacity {
    pub vocabulary: usize,
    pub context_length: usize,
    pub block_tokens: usize,
    pub kv_blocks: usize,
    /// Most rows and most input tokens of one batch.
    pub slots: usize,
    pub batch_tokens: usize,
    /// Most positions of one batch whose logits are computed; at least `slots`.
    pub logit_rows: usize,
}

/// Memory that a backend reserves at its start for life, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Reserved {
    /// Weights in an order of their own. Those read from their files as they are stored are not among them.
    pub weights: usize,
    pub kv: usize,
    /// Activations and logits of the largest batch.
    pub activations: usize,
}

/// A device. Called from one thread; nothing it does may panic on a batch within its [`Capacity`].
pub trait Backend: Send {
    fn capacity(&self) -> Capacity;

    fn reserved(&self) -> Reserved {
        Reserved::default()
    }

    /// How many launched batches may be unsettled after a step: 0 where launching computes (CPU), 1 where it overlaps.
    fn lag(&self) -> usize;

    /// Begins to compute `batch`. Inputs are taken over before this returns.
    fn launch(&mut self, batch: &Batch) -> Result<Ticket, DeviceError>;

    /// Waits for the oldest ticket and appends, in row order, the [`Sampled`] of the rows that sample, at least one each, and an entry
    /// for each row with [`Row::scored`]. A device that embeds gives a vector in place of the former.
    fn settle(&mut self, ticket: Ticket, out: &mut Outcomes) -> Result<(), DeviceError>;

    /// Bytes of one KV block of all layers, as [`save_block`](Self::save_block) writes them; 0: this device cannot copy blocks.
    fn kv_block_bytes(&self) -> usize {
        0
    }

    /// All that a block's bytes depend on besides its tokens: weights, number format, layout, kernels. Blocks of two devices that say
    /// the same are interchangeable.
    fn kv_layout(&self) -> String {
        String::new()
    }

    /// Copies `block` into `out`, [`kv_block_bytes`](Self::kv_block_bytes) long. No batch in flight writes to it.
    fn save_block(&mut self, block: BlockId, out: &mut [u8]) -> Result<(), DeviceError> {
        let what = format!("cannot copy {block:?} into {} bytes", out.len());
        Err(DeviceError { device: "this device".into(), what })
    }

    /// Fills `block` with what [`save_block`](Self::save_block) wrote. No batch in flight touches it; those launched later see it.
    fn load_block(&mut self, block: BlockId, bytes: &[u8]) -> Result<(), DeviceError> {
        let what = format!("cannot fill {block:?} from {} bytes", bytes.len());
        Err(DeviceError { device: "this device".into(), what })
    }

    /// Gives memory back until [`wake`](Self::wake): what the KV blocks hold, and at [`Sleep::Discard`] the weights too if they can be
    /// had again. Nothing is in flight, and nothing is launched before it wakes.
    fn sleep(&mut self, _: Sleep) -> Result<(), DeviceError> {
        Ok(())
    }

    /// Takes its memory again. What KV blocks held is gone.
    fn wake(&mut self) -> Result<(), DeviceError> {
        Ok(())
    }

    /// Puts an adapter into a slot for the batches launched from now on, or empties the slot, which no unsettled batch names. After an
    /// error the slot is empty.
    fn set_adapter(&mut self, slot: AdapterSlot, adapter: Option<&Adapter>) -> Result<(), DeviceError> {
        let (_, _) = (slot, adapter);
        Err(DeviceError { device: "this device".to_owned(), what: "serves no adapters".to_owned() })
    }
}

/// How deep an engine sleeps: vLLM's levels 1 and 2.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sleep {
    /// The KV cache is dropped; weights stay where they are quick to have.
    Offload,
    /// Weights are dropped as well.
    Discard,
}

/// The device failed as a whole; the engine's process ends and its supervisor starts it again.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{device}: {what}")]
pub struct DeviceError {
    pub device: String,
    pub what: String,
}
