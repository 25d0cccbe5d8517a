//! What is told of the engine's work: a report per step for the metrics, and a snapshot that any thread may read at any time.

use std::time::Duration;

use crate::kv::residency::Eviction;
use crate::kv::tier::TierCounts;
use crate::request::{FinishReason, RequestId};

/// Takes reports. Called on the engine's thread: it must not block.
pub trait Observer: Send {
    fn step(&mut self, report: &StepReport);
}

impl<F: FnMut(&StepReport) + Send> Observer for F {
    fn step(&mut self, report: &StepReport) {
        self(report);
    }
}

/// What one step did. Reused from step to step.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct StepReport {
    /// Counts steps from 1.
    pub step: u64,
    /// The batches that settled in this step; none or one while the engine is busy.
    pub settled: Vec<BatchReport>,
    /// Requests that were admitted to the running batch for the first time.
    pub admitted: Vec<AdmittedReport>,
    /// From arrival to first token, of each request whose first token came in this step.
    pub first_token: Vec<Duration>,
    /// From arrival to the vector, of each request that ended with one in this step.
    pub vectors: Vec<Duration>,
    /// From one token to the next, of each further token of this step.
    pub inter_token: Vec<Duration>,
    pub finished: Vec<FinishedReport>,
    /// The rows with drafts that settled.
    pub drafts: Vec<DraftReport>,
    /// KV blocks given up, of those that are followed.
    pub evictions: Vec<Eviction>,
    /// Requests that lost their blocks and wait again.
    pub preempted: u32,
    /// Requests that failed because the model's output held no numbers.
    pub corrupted: u32,
}

impl StepReport {
    pub(crate) fn clear(&mut self) {
        let Self {
            step: _,
            settled,
            admitted,
            first_token,
            vectors,
            inter_token,
            finished,
            drafts,
            evictions,
            preempted,
            corrupted,
        } = self;
        settled.clear();
        admitted.clear();
        first_token.clear();
        vectors.clear();
        inter_token.clear();
        finished.clear();
        drafts.clear();
        evictions.clear();
        (*preempted, *corrupted) = (0, 0);
    }
}

/// A batch that settled.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct BatchReport {
    pub rows: u32,
    /// Tokens computed in rows that are not one token behind the sequence's end.
    pub prefill_tokens: u32,
    /// Tokens of rows that computed one behind the sequence's end, drafts included.
    pub decode_tokens: u32,
    /// How long the device was at it: from its launch, or from the end of the batch before where that is later.
    pub duration: Duration,
}

impl BatchReport {
    /// All tokens of the batch: what vLLM calls `iteration_tokens_total`.
    pub fn tokens(&self) -> u32 {
        self.prefill_tokens + self.decode_tokens
    }
}

/// A row with drafts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DraftReport {
    pub drafted: u32,
    /// How many of them, from the first on, were what was sampled.
    pub accepted: u32,
}

#[derive(Clone, Debug, PartialEq)]
pub struct AdmittedReport {
    pub request: RequestId,
    pub prompt_tokens: u32,
    /// Prompt tokens found in this engine's prefix cache, on any tier.
    pub cached_tokens: u32,
    /// Those among them that came back from host memory, and from the disk.
    pub host_tokens: u32,
    pub disk_tokens: u32,
    /// Prompt tokens whose KV came from another engine.
    pub remote_tokens: u32,
    /// From arrival to admission.
    pub queue: Duration,
}

/// A request from its arrival to its end. Intervals that did not come to pass are `None`.
#[derive(Clone, Debug, PartialEq)]
pub struct FinishedReport {
    pub request: RequestId,
    pub reason: FinishReason,
    pub prompt_tokens: u32,
    pub cached_tokens: u32,
    pub generated_tokens: u32,
    /// `max_tokens` of the request.
    pub tokens_max: u32,
    pub preemptions: u32,
    /// From arrival to end.
    pub e2e: Duration,
    /// From arrival to admission.
    pub queue: Option<Duration>,
    /// From admission to first token.
    pub prefill: Option<Duration>,
    /// From first to last token.
    pub decode: Option<Duration>,
    /// From admission to last token.
    pub inference: Option<Duration>,
}

/// State and counters of an engine at one moment. Counters begin with the engine.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Stats {
    /// Steps done; stands still only when there is nothing to do, or when the engine is stuck.
    pub steps: u64,
    /// Requests submitted, preempted ones included, that are not in the running batch.
    pub waiting: usize,
    /// Requests among [`Self::waiting`] that wait for remote KV.
    pub waiting_remote: usize,
    /// Prompt tokens of requests that were never admitted.
    pub waiting_tokens: usize,
    pub running: usize,
    pub draining: bool,
    /// Blocks that a request, a lease or a batch in flight holds.
    pub used_blocks: usize,
    /// Blocks that can be handed out; cached ones among them.
    pub free_blocks: usize,
    pub total_blocks: usize,
    pub block_tokens: usize,
    /// Blocks of the device that the prefix cache knows, held or free.
    pub cached_blocks: usize,
    pub leases: usize,
    /// Prompt tokens looked up in the prefix cache.
    pub prefix_query_tokens: u64,
    /// Prompt tokens found there.
    pub prefix_hit_tokens: u64,
    /// Prompt tokens that were not on the device and were looked up in the lower tiers, and those that came back from there.
    pub lower_query_tokens: u64,
    pub lower_hit_tokens: u64,
    /// Blocks in host memory and on the disk.
    pub host_blocks: usize,
    pub disk_blocks: usize,
    pub tiers: TierCounts,
    /// The disk failed and is not used any more.
    pub disk_failed: bool,
    /// Transfers of remote KV that their deadline ended.
    pub transfers_late: u64,
    /// Nothing new is admitted.
    pub paused: bool,
    /// vLLM's sleep level; 0 is awake.
    pub sleep_level: u8,
    /// Prompt tokens of admitted requests.
    pub prompt_tokens: u64,
    pub generated_tokens: u64,
    /// Rows with drafts, their drafts, and those that were what was sampled.
    pub drafts: u64,
    pub draft_tokens: u64,
    pub accepted_tokens: u64,
    pub preemptions: u64,
    /// Requests that ended, however they did.
    pub finished: u64,
    /// Requests turned away by the admission limits.
    pub rejected: u64,
    /// Aborts and commands that found their queue full.
    pub dropped_commands: u64,
    /// KV event batches published; also the sequence of the next one.
    pub kv_event_batches: u64,
    /// Prefill speed over recent batches, tokens per second.
    pub prefill_tok_s: Option<f64>,
    /// That of the last batch that was measured.
    pub prefill_tok_s_last: f64,
    /// Duration of recent batches that only decoded, milliseconds.
    pub decode_step_ms: Option<f64>,
}

/// Weight of the newest batch in the measured rates: about ten batches are remembered.
const RATE_WEIGHT: f64 = 0.1;

/// Fewest prompt tokens for a batch to count as a measure of prefill speed; below, the fixed cost of a step dominates.
const PREFILL_TOKENS_MIN: u32 = 16;

/// Prompt tokens of a step with decodes while no speed is known.
const PREFILL_TOKENS_UNMEASURED: usize = 128;

impl Stats {
    /// Prompt tokens that fit beside decodes into a step of `time`, by what was measured. Prompts get at least as much time as the
    /// decodes: where these alone take longer than `time`, to starve the prompts would help nobody.
    pub(crate) fn prefill_tokens_within(&self, time: Duration) -> usize {
        // A prompt's tokens cost more the further it is, and a mean over the past comes too late: the last batch counts if it was slower.
        let Some(tok_s) = self.prefill_tok_s.map(|mean| mean.min(self.prefill_tok_s_last)) else {
            return PREFILL_TOKENS_UNMEASURED;
        };
        let decode_s = self.decode_step_ms.unwrap_or(0.0) / 1e3;
        let left_s = (time.as_secs_f64() - decode_s).max(decode_s);
        ((tok_s * left_s) as usize).max(PREFILL_TOKENS_MIN as usize)
    }

    /// Takes a settled batch into the measured rates.
    pub(crate) fn measure(&mut self, batch: &BatchReport) {
        let seconds = batch.duration.as_secs_f64();
        let recent =
            |rate: &mut Option<f64>, value: f64| *rate = Some(rate.map_or(value, |old| old + RATE_WEIGHT * (value - old)));
        if batch.prefill_tokens == 0 && batch.decode_tokens > 0 {
            recent(&mut self.decode_step_ms, seconds * 1e3);
        }
        if batch.prefill_tokens >= PREFILL_TOKENS_MIN {
            // What the decode rows of a mixed batch cost is taken off, but never more than half: the estimate may be stale.
            let decode_s = if batch.decode_tokens > 0 { self.decode_step_ms.unwrap_or(0.0) / 1e3 } else { 0.0 };
            let prefill_s = (seconds - decode_s).max(seconds / 2.0).max(1e-9);
            self.prefill_tok_s_last = f64::from(batch.prefill_tokens) / prefill_s;
            recent(&mut self.prefill_tok_s, self.prefill_tok_s_last);
        }
    }
}
