//! What the next batch computes. There are no phases of prefill and decode: each request has computed some of its tokens, and a
//! budget is handed out so that it catches up. The order is vLLM 0.33's (`v1/core/sched/scheduler.py`): first the running requests in
//! the order of their admission, then, if none of them lost its blocks, the waiting ones.

mod offer;
mod queue;
mod restore;
mod retire;
mod running;
mod share;
mod waiting;

use std::collections::VecDeque;
use std::time::Instant;

pub use queue::{Queue, Turn};
pub use restore::Restores;
pub use retire::Retired;
pub use waiting::reserve_all;

use crate::backend::{Batch, Row, Slot};
use crate::config::Policy;
use crate::handle::Limits;
use crate::kv::Kv;
use crate::request::RequestId;
use crate::sequence::{Chunk, Key, Table};

/// All requests and all that they hold: what planning and settling change.
pub struct Schedule {
    pub table: Table,
    /// In the order of admission, or of priority: the last is the first to be preempted.
    pub running: Vec<Key>,
    pub waiting: Queue,
    /// Requests whose blocks come back from a lower tier.
    pub restores: Restores,
    /// A restore can go on in the next step without the disk.
    pub restores_runnable: bool,
    /// The time of this step.
    pub now: Instant,
    pub kv: Kv,
    /// Slots that no request has.
    pub slots: Vec<Slot>,
    /// What batches in flight may still touch, in the order of their launch.
    pub retired: VecDeque<Retired>,
    /// Blocks among `retired` that nobody else holds: they are as good as free for deciding whether to preempt.
    coming: usize,
    /// Batches launched so far; also the number of the last one.
    pub launches: u64,
    /// Number of the last batch that settled.
    pub settled: u64,
    /// Blocks of requests that wait for remote KV, or have it and wait to run.
    pub remote_blocks: usize,
    /// Free blocks that running requests were admitted with and take as their prompts are computed.
    promised: usize,
    /// Whether waiting requests may be admitted, and running ones go on.
    pub admits: bool,
    pub runs: bool,
    /// Tokens that prompts get in a step with decodes.
    pub prefill_tokens_max: usize,
    /// Tokens that prompts still have to compute; reused from step to step.
    rests: Vec<usize>,
    /// Whether the last plan left a running request with more than one token to compute.
    prompts_run: bool,
    policy: Policy,
    max_num_seqs: usize,
    max_num_batched_tokens: usize,
    chunk_tokens_max: usize,
    length_max: usize,
    /// Rows of logits that the device computes beyond one for each row of a batch.
    spare_logit_rows_max: usize,
    /// How many of these the plan has left.
    spare_logit_rows: usize,
    /// Most running requests for which there are drafts.
    speculation_batch_max: usize,
    /// Most adapters among the running requests.
    batch_adapters_max: usize,
}

/// What one call of [`Schedule::plan`] decided; reused from step to step.
#[derive(Default)]
pub struct Plan {
    pub rows: Vec<PlannedRow>,
    /// Tokens of rows that compute no more than one behind the sequence's end and its drafts, and of all others.
    pub decode_tokens: u32,
    pub prefill_tokens: u32,
    /// Requests admitted for the first time.
    pub admitted: Vec<Key>,
    pub preempted: u32,
    /// Prompt tokens that admissions looked up in the prefix cache, and found.
    pub query_tokens: u64,
    pub hit_tokens: u64,
    /// Those looked up in lower tiers, and brought back.
    pub lower_query_tokens: u64,
    pub lower_hit_tokens: u64,
}

/// What settling must know of a row.
#[derive(Clone, Copy, Debug)]
pub struct PlannedRow {
    pub key: Key,
    pub id: RequestId,
    pub slot: Slot,
    pub chunk: Chunk,
    /// Whether the batch tells how likely tokens of its prompt are.
    pub scores: bool,
}

impl Plan {
    pub fn clear(&mut self) {
        let Self {
            rows,
            decode_tokens,
            prefill_tokens,
            admitted,
            preempted,
            query_tokens,
            hit_tokens,
            lower_query_tokens,
            lower_hit_tokens,
        } = self;
        rows.clear();
        admitted.clear();
        (*decode_tokens, *prefill_tokens, *preempted) = (0, 0, 0);
        (*query_tokens, *hit_tokens, *lower_query_tokens, *lower_hit_tokens) = (0, 0, 0, 0);
    }
}

impl Schedule {
    /// `loads_max`: blocks that one step may copy from host memory.
    pub fn new(limits: &Limits, tells_events: bool, loads_max: usize, now: Instant) -> Self {
        let (config, capacity) = (&limits.config, &limits.capacity);
        let slots = u32::try_from(config.max_num_seqs).expect("slots are numbered by u32");
        Self {
            table: Table::default(),
            running: Vec::with_capacity(config.max_num_seqs),
            waiting: Queue::default(),
            restores: Restores::new(config.restore_wait_max, loads_max),
            restores_runnable: false,
            now,
            kv: Kv::new(capacity.kv_blocks, capacity.block_tokens, tells_events)
                .with_tiers(config.host_blocks, config.disk_blocks)
                .with_residency(config.residency_sample_ppm, now),
            slots: (0..slots).rev().map(Slot).collect(),
            retired: VecDeque::new(),
            coming: 0,
            launches: 0,
            settled: 0,
            remote_blocks: 0,
            promised: 0,
            admits: true,
            runs: true,
            prefill_tokens_max: usize::MAX,
            rests: Vec::new(),
            prompts_run: false,
            policy: config.policy,
            max_num_seqs: config.max_num_seqs,
            max_num_batched_tokens: config.max_num_batched_tokens,
            chunk_tokens_max: config.prefill_chunk_tokens_max,
            length_max: limits.length_max,
            spare_logit_rows_max: capacity.logit_rows - config.max_num_seqs,
            spare_logit_rows: 0,
            speculation_batch_max: config.speculation.map_or(0, |speculation| speculation.batch_max),
            batch_adapters_max: config.batch_adapters_max,
        }
    }

    /// Fills `batch`, and `plan` with what its rows mean; moves requests between `waiting` and `running`. The batch must be launched
    /// next, as number `self.launches + 1`.
    pub fn plan(&mut self, batch: &mut Batch, plan: &mut Plan) {
        batch.rows.clear();
        batch.tokens.clear();
        batch.targets.clear();
        plan.clear();
        self.spare_logit_rows = self.spare_logit_rows_max;
        if !self.runs {
            return;
        }
        let mut budget = self.max_num_batched_tokens;
        let mut share = self.share(budget);
        self.prompts_run = false;
        self.plan_running(&mut budget, &mut share, batch, plan);
        self.advance_restores();
        // Whoever lost its blocks would lose them again to who is admitted now.
        if plan.preempted == 0 && self.admits {
            self.plan_waiting(&mut budget, &mut share, batch, plan);
        }
        assert!(batch.rows.len() <= self.max_num_seqs, "one row per slot");
    }

    fn push_row(&mut self, key: Key, chunk: Chunk, budget: &mut usize, batch: &mut Batch, plan: &mut Plan) {
        let sequence = self.table.get_mut(key);
        let slot = sequence.slot.expect("a running request has a slot");
        let input = sequence.input(&chunk, &mut batch.tokens);
        let scored = sequence.score(&chunk, &mut batch.targets);
        let scores = scored.is_some();
        if sequence.handed < sequence.blocks.len() {
            batch.tables.replace(slot, sequence.handed, &sequence.blocks[sequence.handed..]);
            sequence.handed = sequence.blocks.len();
        }
        let row = Row {
            slot,
            input,
            start: chunk.start,
            sample: sequence.sample(&chunk),
            drafts: chunk.drafts,
            scored,
            adapter: sequence.adapter,
        };
        self.spare_logit_rows -= row.logit_rows().saturating_sub(1);
        batch.rows.push(row);
        sequence.progress.launch(&chunk);
        sequence.in_flight += 1;
        sequence.last_launch = self.launches + 1;
        *budget -= chunk.tokens as usize;
        let decodes = chunk.last || chunk.drafts > 0;
        *(if decodes { &mut plan.decode_tokens } else { &mut plan.prefill_tokens }) += chunk.tokens;
        self.prompts_run |= chunk.sample.is_none();
        plan.rows.push(PlannedRow { key, id: sequence.id, slot, chunk, scores });
    }

    /// Takes requests that have ended out of the list of those that run.
    pub fn sweep(&mut self) {
        let table = &self.table;
        self.running.retain(|&key| table.holds(key));
    }

    /// Counts anew what running requests were promised; for tests.
    pub fn check(&self) {
        let promised: usize = self.table.iter().map(|sequence| sequence.promised).sum();
        assert_eq!(self.promised, promised, "promised blocks");
        let waiting = self.table.iter().filter(|sequence| sequence.turn.is_some()).count();
        assert_eq!(self.waiting.len(), waiting, "who has a turn waits");
        let decodes = |&key: &Key| self.table.get(key).progress.rest() <= 1;
        assert!(self.prompts_run || self.running.iter().all(decodes), "a prompt runs that nobody counts");
    }
}
