//! What can be said of a request without asking the engine.

use crate::backend::{Capacity, Reserved};
use crate::config::{Config, Policy};
use crate::kv::hash::BlockHasher;
use crate::request::{Named, NewRequest, Rejected};

/// What the door knows without asking the engine; fixed for life.
#[derive(Debug)]
pub struct Limits {
    pub capacity: Capacity,
    pub reserved: Reserved,
    pub config: Config,
    /// Longest sequence, prompt and output: [`Config::length_max`].
    pub length_max: usize,
    pub(super) hasher: BlockHasher,
}

impl Limits {
    pub(crate) fn new(capacity: Capacity, reserved: Reserved, config: Config) -> Self {
        let length_max = config.length_max(&capacity);
        let hasher = BlockHasher::new(&config.hash_seed, capacity.block_tokens);
        Self { capacity, reserved, config, length_max, hasher }
    }

    pub(crate) fn hasher(&self) -> BlockHasher {
        self.hasher.clone()
    }

    /// Whether `request` could be served at all.
    pub(super) fn admits(&self, request: &NewRequest) -> Result<(), Rejected> {
        let tokens = request.prompt.len();
        if tokens == 0 {
            return Err(Rejected::EmptyPrompt);
        }
        if request.priority != 0 && self.config.policy == Policy::Fcfs {
            let what = format!(
                "is {} and must be 0: this engine serves in order of arrival (--scheduling-policy fcfs)",
                request.priority
            );
            return Err(Rejected::parameter("priority", what));
        }
        let context_length = self.config.max_model_len;
        if self.config.pooling.is_some() && tokens > context_length {
            return Err(Rejected::TextTooLong { tokens, context_length });
        }
        if self.config.pooling.is_none() && tokens >= context_length {
            return Err(Rejected::PromptTooLong { tokens, context_length });
        }
        if tokens >= self.length_max {
            let block_tokens = self.capacity.block_tokens;
            return Err(Rejected::NeverFits {
                blocks: (tokens + 1).div_ceil(block_tokens),
                pool_blocks: self.length_max / block_tokens,
            });
        }
        let (stop, vocabulary) = (&request.finish.stop, self.capacity.vocabulary);
        if stop.len() > self.config.stop_ids_max {
            return Err(Rejected::TooManyStopIds { ids: stop.len(), ids_max: self.config.stop_ids_max });
        }
        let named = Named { vocabulary };
        named.check("prompt", request.prompt.iter().copied())?;
        named.check("stop_token_ids", stop.iter().copied())?;
        request.sampling.check()?;
        request.extras.as_ref().map_or(Ok(()), |extras| extras.check(vocabulary, &self.config))
    }

    /// A client aborts a request once, perhaps as it ends by itself: twice the requests that can be open is never reached by
    /// callers that keep to that.
    pub(super) fn aborts_max(&self) -> usize {
        2 * (self.config.waiting_max + self.config.max_num_seqs)
    }
}
