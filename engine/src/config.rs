//! The engine's limits, by name, and how they must relate to the device's.

use std::fmt;
use std::time::Duration;

use domain::block::BLOCK_TOKENS_MAX;
use engine_assets::Pooling;

use crate::backend::Capacity;
use crate::speculate::Speculation;

/// vLLM's seed of the block-hash chain where `PYTHONHASHSEED` is not set (0.33).
pub const HASH_SEED: &str = "vllm-none-hash";

/// Usual [`Config::step_time`]: ten tokens a second are read as they come.
pub const STEP_TIME: Duration = Duration::from_millis(100);

/// vLLM's `--scheduling-policy`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Policy {
    /// First come, first served: nobody is starved.
    #[default]
    Fcfs,
    /// The lower a request's priority the sooner, and among equals who came first. As vLLM, nothing ages: as long as more urgent
    /// requests keep coming, the others wait.
    Priority,
}

/// Each adapter slot costs a step a look.
pub(crate) const ADAPTERS_MAX: usize = 256;

/// Every maximum of one engine. Names follow vLLM's flags where it has one.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// Most requests in the running batch.
    pub max_num_seqs: usize,
    /// Most tokens that one step computes, prefill and decode together.
    pub max_num_batched_tokens: usize,
    /// Most prompt tokens of one request in one step; bounds how long a long prompt delays the others' next token.
    pub prefill_chunk_tokens_max: usize,
    /// Longest sequence, prompt and output; never more than the device's. vLLM calls it `max_model_len`.
    pub max_model_len: usize,
    /// Whether computed blocks are kept for prompts that begin alike.
    pub prefix_caching: bool,
    /// Seed of the block-hash chain; engines with one seed name equal blocks alike.
    pub hash_seed: String,
    /// Most requests that wait. Whoever comes then is told to come again later.
    pub waiting_max: usize,
    /// Most prompt tokens of all waiting requests.
    pub waiting_tokens_max: usize,
    /// Most stop ids of one request: they are compared with each token.
    pub stop_ids_max: usize,
    /// Most likely tokens that a request may be told of, for each token. vLLM calls it `max_logprobs`.
    pub logprobs_max: usize,
    /// Most adapters loaded at once. vLLM calls it `max_cpu_loras`.
    pub adapters_max: usize,
    /// Most of them among the running requests; requests for another one wait. vLLM calls it `max_loras`.
    pub batch_adapters_max: usize,
    /// Most commands, other than requests, that wait for the next step.
    pub commands_max: usize,
    /// Most blocks that leases and requests waiting for remote KV keep from the running requests.
    pub pinned_blocks_max: usize,
    /// In which order waiting requests are admitted, and running ones preempted.
    pub policy: Policy,
    /// How long a step with decodes in it should take; prompts get as many tokens as fit by the measured speed, and at least as much
    /// time as the decodes. `None`: as many as the other limits allow.
    pub step_time: Option<Duration>,
    /// Longest time that a request waits for KV from another engine; then it computes its prompt itself.
    pub remote_wait_max: Duration,
    /// Blocks that host memory keeps when they leave the device; reserved at the start. 0: none.
    pub host_blocks: usize,
    /// Blocks that the disk keeps when they leave host memory. 0: none.
    pub disk_blocks: usize,
    /// Longest time that a request waits for its blocks to come back from a lower tier; then it computes what is missing.
    pub restore_wait_max: Duration,
    /// Of a million KV blocks, those whose stay on the device is followed and [reported](crate::observe::StepReport::evictions). 0: none.
    /// vLLM's `kv_cache_metrics_sample`.
    pub residency_sample_ppm: u32,
    /// Speculative decoding; `None`: every row computes one token.
    pub speculation: Option<Speculation>,
    /// What the vectors of an engine that embeds are made of: each of its requests ends with one and no token. `None`: it generates.
    /// The device must have been made for the same.
    pub pooling: Option<Pooling>,
}

impl Config {
    /// Defaults that suit `capacity`: as much as the device allows, a quarter of its blocks for leases and remote KV at most, and
    /// never so many that the longest sequence no longer fits beside them.
    pub fn for_device(capacity: &Capacity) -> Self {
        let longest_blocks = capacity.context_length.div_ceil(capacity.block_tokens.max(1));
        Self {
            max_num_seqs: capacity.slots,
            max_num_batched_tokens: capacity.batch_tokens,
            prefill_chunk_tokens_max: capacity.batch_tokens,
            max_model_len: capacity.context_length,
            prefix_caching: true,
            hash_seed: HASH_SEED.into(),
            waiting_max: 4096,
            waiting_tokens_max: capacity.context_length.max(4 << 20),
            stop_ids_max: 128,
            logprobs_max: 20,
            adapters_max: 32,
            batch_adapters_max: 8,
            commands_max: 1024,
            policy: Policy::Fcfs,
            step_time: Some(STEP_TIME),
            remote_wait_max: Duration::from_secs(60),
            host_blocks: 0,
            disk_blocks: 0,
            restore_wait_max: Duration::from_secs(5),
            pinned_blocks_max: (capacity.kv_blocks / 4).min(capacity.kv_blocks.saturating_sub(longest_blocks)),
            residency_sample_ppm: 0,
            speculation: None,
            pooling: None,
        }
    }

    /// Checks each limit against the device and against the others, and says all that is wrong.
    pub fn check(&self, capacity: &Capacity) -> Result<(), ConfigError> {
        let Self {
            max_num_seqs,
            max_num_batched_tokens,
            prefill_chunk_tokens_max,
            max_model_len,
            prefix_caching,
            hash_seed: _,
            waiting_max,
            waiting_tokens_max,
            stop_ids_max,
            logprobs_max: _,
            adapters_max,
            batch_adapters_max,
            commands_max,
            pinned_blocks_max,
            host_blocks,
            disk_blocks,
            restore_wait_max: _,
            residency_sample_ppm: _,
            speculation,
            pooling,
            policy: _,
            step_time: _,
            remote_wait_max: _,
        } = *self;
        let Capacity { vocabulary, context_length, block_tokens, kv_blocks, slots, batch_tokens, logit_rows } = *capacity;
        let relations = [
            (vocabulary >= 1, format!("the device's vocabulary is {vocabulary}")),
            (
                (1..=BLOCK_TOKENS_MAX).contains(&block_tokens),
                format!("a block of {block_tokens} tokens; 1 to {BLOCK_TOKENS_MAX} are possible"),
            ),
            ((1..=slots).contains(&max_num_seqs), format!("max_num_seqs is {max_num_seqs}; the device has {slots} slots")),
            (
                (max_num_seqs..=batch_tokens).contains(&max_num_batched_tokens),
                format!(
                    "max_num_batched_tokens is {max_num_batched_tokens}; it must be at least max_num_seqs ({max_num_seqs}) and at most the \
                     device's {batch_tokens}"
                ),
            ),
            (
                logit_rows >= slots,
                format!("the device computes {logit_rows} rows of logits; each of its {slots} slots needs one"),
            ),
            (prefill_chunk_tokens_max >= 1, "prefill_chunk_tokens_max is 0; it must be at least 1".into()),
            (
                (2..=context_length).contains(&max_model_len),
                format!("max_model_len is {max_model_len}; it must be 2 to the model's {context_length}"),
            ),
            (
                kv_blocks > pinned_blocks_max && (kv_blocks - pinned_blocks_max).saturating_mul(block_tokens) >= 2,
                format!(
                    "pinned_blocks_max is {pinned_blocks_max}; of the device's {kv_blocks} KV blocks two tokens' worth must remain"
                ),
            ),
            (adapters_max <= ADAPTERS_MAX, format!("adapters_max is {adapters_max}; at most {ADAPTERS_MAX} are possible")),
            (batch_adapters_max >= 1, "batch_adapters_max is 0; it must be at least 1".into()),
            (waiting_max >= 1, "waiting_max is 0; it must be at least 1".into()),
            (
                waiting_tokens_max >= max_model_len,
                format!(
                    "waiting_tokens_max is {waiting_tokens_max}; the longest prompt, max_model_len ({max_model_len}), must fit"
                ),
            ),
            (stop_ids_max >= 1, "stop_ids_max is 0; it must be at least 1".into()),
            (
                host_blocks.max(disk_blocks) < u32::MAX as usize,
                format!("host_blocks is {host_blocks} and disk_blocks {disk_blocks}; they are numbered by 32 bits"),
            ),
            (
                disk_blocks == 0 || host_blocks > 0,
                format!("disk_blocks is {disk_blocks} and host_blocks 0; blocks reach the disk through host memory"),
            ),
            (
                pooling.is_none_or(|pooling| pooling.allows_cached() || !prefix_caching),
                "prefix_caching is on; the vectors are made of all tokens' hidden states, which no cache holds".into(),
            ),
            (
                pooling.is_none() || speculation.is_none(),
                "speculation is set; an engine that embeds generates nothing to be drafted".into(),
            ),
            (commands_max >= 1, "commands_max is 0; it must be at least 1".into()),
        ];
        let mut wrong: Vec<String> = relations.into_iter().filter(|(holds, _)| !holds).map(|(_, what)| what).collect();
        wrong.extend(speculation.iter().flat_map(Speculation::mistakes));
        if wrong.is_empty() { Ok(()) } else { Err(ConfigError(wrong)) }
    }

    /// Longest sequence that is served: what the model allows, and what fits the pool beside everything pinned, so that a request
    /// alone can always go on. A vector counts as the token that it comes in place of, and takes no position.
    pub fn length_max(&self, capacity: &Capacity) -> usize {
        let free_blocks = capacity.kv_blocks.saturating_sub(self.pinned_blocks_max);
        let length = self.max_model_len + usize::from(self.pooling.is_some());
        length.min(free_blocks.saturating_mul(capacity.block_tokens))
    }
}

/// All limits that do not go together, one sentence each.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigError(pub Vec<String>);

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.join("; "))
    }
}

impl std::error::Error for ConfigError {}

#[cfg(test)]
mod tests {
    use super::*;

    const DEVICE: Capacity = Capacity {
        vocabulary: 100,
        context_length: 64,
        block_tokens: 16,
        kv_blocks: 8,
        slots: 4,
        batch_tokens: 32,
        logit_rows: 4,
    };

    #[test]
    fn the_defaults_suit_the_device() {
        let config = Config::for_device(&DEVICE);
        assert_eq!(config.check(&DEVICE), Ok(()));
        assert_eq!((config.pinned_blocks_max, config.length_max(&DEVICE)), (2, 64));
    }

    #[test]
    fn all_mistakes_are_told_at_once() {
        let good = Config::for_device(&DEVICE);
        let check = |change: fn(&mut Config), mistakes: usize| {
            let mut config = good.clone();
            change(&mut config);
            assert_eq!(config.check(&DEVICE).map_err(|error| error.0.len()), Err(mistakes), "{config:?}");
        };
        check(|config| config.max_num_seqs = 5, 1);
        check(|config| config.max_num_batched_tokens = 3, 1);
        check(|config| config.max_model_len = 65, 1);
        check(|config| config.pinned_blocks_max = 8, 1);
        check(|config| config.waiting_tokens_max = 63, 1);
        check(|config| config.pooling = Some(Pooling::Mean), 1);
        check(|config| (config.max_num_seqs, config.waiting_max, config.stop_ids_max) = (0, 0, 0), 3);
    }
}
