//! What the next batch computes. There are no phases of prefill and decode: each request has computed some of its tokens, and a
//! budget is handed out so that it catches up. The order is vLLM 0.33's (`v1/core/sched/scheduler.py`): first the running requests in
//! the order of their admission, then, if none of them lost its blocks, the waiting ones.

mod queue;
mod restore;
mod share;

use std::collections::VecDeque;
use std::time::Instant;

pub use queue::{Queue, Turn};
pub use restore::Restores;
use share::Share;

use crate::backend::{Batch, BlockId, Row, Slot};
use crate::config::Policy;
use crate::handle::Limits;
use crate::kv::hash::BlockHasher;
use crate::kv::{Full, Kv};
use crate::request::RequestId;
use crate::sequence::{Chunk, Key, Sequence, State, Table};
use crate::speculate::DRAFTS_MAX;

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
}

/// Blocks and a slot whose owner is gone while batch `launch` was in flight: reusable once that has settled.
pub struct Retired {
    launch: u64,
    pub blocks: Vec<BlockId>,
    pub slot: Option<Slot>,
    sole: usize,
}

/// What one call of [`Schedule::plan`] decided; reused from step to step.
#[derive(Default)]
pub struct Plan {
    pub rows: Vec<PlannedRow>,
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
        let Self { rows, admitted, preempted, query_tokens, hit_tokens, lower_query_tokens, lower_hit_tokens } = self;
        rows.clear();
        admitted.clear();
        *preempted = 0;
        (*query_tokens, *hit_tokens, *lower_query_tokens, *lower_hit_tokens) = (0, 0, 0, 0);
    }
}

enum Room {
    Ready,
    /// Blocks come free when the batches in flight settle.
    Later,
    /// The request itself had to give way.
    Lost,
}

/// Waiting requests that one step passes over, at most.
const PASSED_MAX: usize = 16;

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
                .with_tiers(config.host_blocks, config.disk_blocks),
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
            policy: config.policy,
            max_num_seqs: config.max_num_seqs,
            max_num_batched_tokens: config.max_num_batched_tokens,
            chunk_tokens_max: config.prefill_chunk_tokens_max,
            length_max: limits.length_max,
            spare_logit_rows_max: capacity.logit_rows - config.max_num_seqs,
            spare_logit_rows: 0,
            speculation_batch_max: config.speculation.map_or(0, |speculation| speculation.batch_max),
        }
    }

    /// Fills `batch`, and `plan` with what its rows mean; moves requests between `waiting` and `running`. The batch must be launched
    /// next, as number `self.launches + 1`.
    pub fn plan(&mut self, batch: &mut Batch, plan: &mut Plan) {
        batch.rows.clear();
        batch.tokens.clear();
        batch.targets.clear();
        batch.blocks.clear();
        plan.clear();
        self.spare_logit_rows = self.spare_logit_rows_max;
        if !self.runs {
            return;
        }
        let mut budget = self.max_num_batched_tokens;
        let mut share = self.share(budget);
        self.plan_running(&mut budget, &mut share, batch, plan);
        self.advance_restores();
        // Whoever lost its blocks would lose them again to who is admitted now.
        if plan.preempted == 0 && self.admits {
            self.plan_waiting(&mut budget, &mut share, batch, plan);
        }
        assert!(batch.rows.len() <= self.max_num_seqs, "one row per slot");
    }

    /// Nobody who runs is starved: the budget has a token for each slot.
    fn plan_running(&mut self, budget: &mut usize, share: &mut Share, batch: &mut Batch, plan: &mut Plan) {
        // Blocks of `coming` that rows of this plan wait for.
        let mut promised = 0;
        let mut i = 0;
        while i < self.running.len() && *budget > 0 {
            let key = self.running[i];
            i += 1;
            // The rows behind this one keep a token each.
            let behind = self.running.len() - i;
            let is_prompt = self.table.get(key).progress.rest() > 1;
            let tokens_max = if is_prompt { share.tokens.min(share.each).min(budget.saturating_sub(behind)) } else { *budget };
            if tokens_max == 0 {
                continue;
            }
            let Some(mut chunk) = self.next_chunk(key, tokens_max) else { continue };
            if self.waits_for_drafts(key) {
                continue;
            }
            match self.make_room(key, chunk.start + chunk.tokens, &mut promised, plan) {
                Room::Ready => {
                    share.tokens -= if is_prompt { chunk.tokens as usize } else { 0 };
                    self.speculate(key, &mut chunk, budget.saturating_sub(1 + behind), promised);
                    self.push_row(key, chunk, budget, batch, plan);
                }
                Room::Later => {}
                Room::Lost => break,
            }
        }
    }

    /// Whether a request is better planned when its tokens in flight have settled: drafts come behind a token that is known. That is so
    /// where drafts would be proposed even now, and the tokens in flight will probably be the first of them.
    fn waits_for_drafts(&mut self, key: Key) -> bool {
        let speculates = self.running.len() <= self.speculation_batch_max;
        let sequence = self.table.get_mut(key);
        let pending = sequence.progress.pending as usize;
        speculates && pending > 0 && sequence.propose(DRAFTS_MAX) > pending
    }

    /// Puts drafts into a `chunk` that computes one token, as far as the request's limits, the budget and the free blocks allow. No
    /// other request gives way to drafts.
    fn speculate(&mut self, key: Key, chunk: &mut Chunk, spare_tokens: usize, promised: usize) {
        let sequence = self.table.get_mut(key);
        let progress = sequence.progress;
        let decodes = chunk.tokens == 1 && chunk.sample.is_some() && progress.generated() > 0 && progress.pending == 0;
        if !decodes || sequence.lookup.is_none() || self.running.len() > self.speculation_batch_max {
            return;
        }
        let tokens_left = sequence.finish.tokens_max.max(1) - progress.generated();
        let length_left = self.length_max - progress.total() as usize;
        let wanted = (tokens_left as usize).min(length_left) - 1;
        let proposed = sequence.propose(wanted.min(spare_tokens).min(self.spare_logit_rows));
        let mut drafts = match &sequence.sample_state {
            Some(state) if proposed > 0 => state.lock().foresee(&sequence.drafts),
            _ => proposed,
        };
        let here = chunk.start as usize + 1;
        let missing = self.kv.blocks_for(here + drafts).saturating_sub(sequence.blocks.len());
        let others = promised + self.promised - sequence.promised;
        let fits = missing <= self.kv.free().saturating_sub(others);
        if !fits {
            drafts = drafts.min(sequence.blocks.len() * self.kv.block_tokens() - here);
        }
        sequence.drafts.truncate(drafts);
        if fits {
            self.grow(key, missing);
        }
        if drafts > 0 {
            chunk.drafts = u32::try_from(drafts).expect("a row has few drafts");
            chunk.tokens += chunk.drafts;
            chunk.last = false;
        }
    }

    fn next_chunk(&self, key: Key, budget: usize) -> Option<Chunk> {
        let sequence = self.table.get(key);
        let tokens_max = budget.min(self.chunk_tokens_max);
        // Where a prompt is told of, each of its positions takes a row of logits.
        let tokens_max = if sequence.scores() { tokens_max.min(1 + self.spare_logit_rows) } else { tokens_max };
        sequence.next_chunk(tokens_max, self.length_max)
    }

    /// Gives `key` blocks for its first `positions` positions, preempting from the end of the running requests. Those come later in
    /// this plan than `key`, so that no row is taken back.
    fn make_room(&mut self, key: Key, positions: u32, promised: &mut usize, plan: &mut Plan) -> Room {
        let needed = self.kv.blocks_for(positions as usize).saturating_sub(self.table.get(key).blocks.len());
        if needed == 0 {
            return Room::Ready;
        }
        loop {
            if self.kv.free() >= needed {
                self.grow(key, needed);
                return Room::Ready;
            }
            if (self.kv.free() + self.coming).saturating_sub(*promised) >= needed {
                *promised += needed;
                return Room::Later;
            }
            if self.revoke_restore() {
                continue;
            }
            let victim = self.running.pop().expect("the request that needs room runs");
            self.preempt(victim);
            plan.preempted += 1;
            if victim == key {
                return Room::Lost;
            }
        }
    }

    /// Gives `key` that many free blocks, those first that it was promised.
    fn grow(&mut self, key: Key, blocks: usize) {
        let sequence = self.table.get_mut(key);
        for _ in 0..blocks {
            let grown = self.kv.grow(&mut sequence.blocks);
            assert!(grown, "as many were free");
        }
        let kept = blocks.min(sequence.promised);
        sequence.promised -= kept;
        self.promised -= kept;
    }

    /// Takes everything from a request that was running; it is recomputed later, first of all that wait.
    fn preempt(&mut self, key: Key) {
        let sequence = self.table.get_mut(key);
        sequence.become_state(State::Waiting);
        sequence.preemptions += 1;
        sequence.restored = false;
        self.retire(key);
        self.wait_first(key);
    }

    /// Takes everything from everybody, while nothing is in flight: they wait again, in the order in which they ran.
    /// Says how many ran.
    pub fn preempt_all(&mut self) -> usize {
        while self.revoke_restore() {}
        let running = self.running.len();
        while let Some(key) = self.running.pop() {
            self.preempt(key);
        }
        running
    }

    /// Puts a request at the end of those that wait.
    pub fn wait(&mut self, key: Key) {
        let sequence = self.table.get_mut(key);
        sequence.turn = Some(match self.policy {
            Policy::Fcfs => self.waiting.push_back(key),
            Policy::Priority => self.waiting.insert(sequence.rank(), key),
        });
    }

    /// Puts a request that waited its turn before at the front.
    pub fn wait_first(&mut self, key: Key) {
        let sequence = self.table.get_mut(key);
        sequence.turn = Some(match self.policy {
            Policy::Fcfs => self.waiting.push_front(key),
            Policy::Priority => self.waiting.insert(sequence.rank(), key),
        });
    }

    /// Puts a request among those that run. The last is the first to be preempted: who came last, and by priority the least urgent.
    fn run(&mut self, key: Key) {
        let table = &self.table;
        let at = match self.policy {
            Policy::Fcfs => self.running.len(),
            Policy::Priority => {
                let rank = table.get(key).rank();
                self.running.partition_point(|&other| table.get(other).rank() < rank)
            }
        };
        self.running.insert(at, key);
    }

    fn plan_waiting(&mut self, budget: &mut usize, share: &mut Share, batch: &mut Batch, plan: &mut Plan) {
        // Requests that are passed over: a running one computes what they need.
        let mut passed = 0;
        while *budget > 0 && share.tokens > 0 && !self.slots.is_empty() {
            let Some(key) = self.waiting.iter().nth(passed) else { break };
            let sequence = self.table.get(key);
            // Preempted a moment ago: what is in flight of it settles first, so that its rows are always of its present stay.
            if sequence.in_flight > 0 {
                break;
            }
            if passed < PASSED_MAX && self.is_being_computed(key) {
                passed += 1;
                continue;
            }
            let restorable = !sequence.restored && sequence.blocks.is_empty();
            if restorable && self.fits(key) && self.restore(key) {
                continue;
            }
            if !self.reserve(key, plan) {
                break;
            }
            let sequence = self.table.get_mut(key);
            let turn = sequence.turn.take().expect("who waits has a turn");
            self.waiting.remove(turn);
            sequence.become_state(State::Running);
            sequence.slot = self.slots.pop();
            let first = sequence.preemptions == 0;
            let chunk =
                self.next_chunk(key, share.tokens.min(share.each).min(*budget)).expect("a request at its limits has ended");
            let held = self.table.get(key).blocks.len();
            let needed = self.kv.blocks_for((chunk.start + chunk.tokens) as usize).saturating_sub(held);
            self.grow(key, needed);
            self.run(key);
            share.tokens -= chunk.tokens as usize;
            self.push_row(key, chunk, budget, batch, plan);
            if first {
                plan.admitted.push(key);
            }
        }
    }

    /// Whether the next block that a waiting request does not find in the cache is of a prompt that runs: then it waits for it, and
    /// equal prompts that come together are computed once.
    fn is_being_computed(&self, key: Key) -> bool {
        let sequence = self.table.get(key);
        if !sequence.blocks.is_empty() {
            return false;
        }
        let chain = sequence.chain(self.kv.block_tokens());
        let known = self.kv.prefix().find_chain(chain).count();
        let Some(next) = chain.get(known) else { return false };
        // A hash stands for all before it, so that equal blocks have the same place in their chains.
        let computes = |other: &Sequence| other.offered <= known && other.hashes.get(known) == Some(next);
        self.running.iter().any(|&other| computes(self.table.get(other)))
    }

    /// Whether a request that waits would fit at this moment if none of its blocks were cached.
    fn fits(&self, key: Key) -> bool {
        let sequence = self.table.get(key);
        let known = self.kv.prefix().find_chain(sequence.chain(self.kv.block_tokens())).count();
        self.kv.free().saturating_sub(self.promised) + known >= self.kv.blocks_for(sequence.tokens.len() + 1)
    }

    /// Gives a waiting request the cached blocks at its start, and the promise of those for its other tokens and the next. `false` where
    /// they do not fit.
    fn reserve(&mut self, key: Key, plan: &mut Plan) -> bool {
        let sequence = self.table.get_mut(key);
        if !sequence.blocks.is_empty() {
            self.remote_blocks -= sequence.blocks.len();
            return true;
        }
        let blocks = self.kv.blocks_for(sequence.tokens.len() + 1);
        let mut table = std::mem::take(&mut sequence.blocks);
        let hits = self.kv.hold_known(sequence.chain(self.kv.block_tokens()), blocks, self.promised, &mut table);
        sequence.blocks = table;
        let Some(hits) = hits else { return false };
        sequence.promised = blocks - hits;
        self.promised += blocks - hits;
        let cached = sequence.start_behind(hits, self.kv.block_tokens());
        if sequence.preemptions == 0 {
            sequence.cached_tokens = cached;
            // Blocks that were brought back may have been taken again since.
            sequence.disk_tokens = sequence.disk_tokens.min(cached);
            sequence.host_tokens = sequence.host_tokens.min(cached - sequence.disk_tokens);
            let restored = sequence.host_tokens + sequence.disk_tokens;
            plan.query_tokens += sequence.tokens.len() as u64;
            plan.hit_tokens += u64::from(cached - restored);
            if self.kv.tiers().is_some() {
                plan.lower_query_tokens += sequence.tokens.len() as u64 - u64::from(cached - restored);
                plan.lower_hit_tokens += u64::from(restored);
            }
        }
        true
    }

    fn push_row(&mut self, key: Key, chunk: Chunk, budget: &mut usize, batch: &mut Batch, plan: &mut Plan) {
        let sequence = self.table.get_mut(key);
        let slot = sequence.slot.expect("a running request has a slot");
        let input = sequence.input(&chunk, &mut batch.tokens);
        let scored = sequence.score(&chunk, &mut batch.targets);
        let scores = scored.is_some();
        let first_block = batch.blocks.len();
        let used = self.kv.blocks_for((chunk.start + chunk.tokens) as usize);
        batch.blocks.extend_from_slice(&sequence.blocks[..used]);
        let blocks = first_block..batch.blocks.len();
        let row = Row {
            slot,
            input,
            start: chunk.start,
            blocks,
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
        plan.rows.push(PlannedRow { key, id: sequence.id, slot, chunk, scores });
    }

    /// Takes blocks and slot from a request. They are free at once, or when the last batch that touches them has settled.
    pub fn retire(&mut self, key: Key) {
        let sequence = self.table.get_mut(key);
        let (blocks, slot) = (std::mem::take(&mut sequence.blocks), sequence.slot.take());
        sequence.offered = 0;
        sequence.progress.computed = 0;
        sequence.progress.settled = 0;
        sequence.progress.sampled_here = false;
        self.promised -= std::mem::take(&mut sequence.promised);
        let launch = if sequence.in_flight > 0 { sequence.last_launch } else { self.settled };
        self.retire_blocks(launch, blocks, slot);
    }

    /// Lets go of blocks and a slot once batch `launch` has settled.
    pub fn retire_blocks(&mut self, launch: u64, blocks: Vec<BlockId>, slot: Option<Slot>) {
        if launch <= self.settled {
            self.kv.release(&blocks);
            self.slots.extend(slot);
            return;
        }
        let sole = blocks.iter().filter(|&&block| self.kv.pool().holders(block) == 1).count();
        self.coming += sole;
        // Launches retire nearly in order; the list is short.
        let at = self.retired.partition_point(|other| other.launch <= launch);
        self.retired.insert(at, Retired { launch, blocks, slot, sole });
    }

    /// Batch `launch` has settled: what waited for it is free.
    pub fn release_retired(&mut self, launch: u64) {
        assert_eq!(launch, self.settled + 1, "batches settle in the order of their launch");
        self.settled = launch;
        while self.retired.front().is_some_and(|retired| retired.launch <= launch) {
            let Some(retired) = self.retired.pop_front() else { break };
            self.coming -= retired.sole;
            self.kv.release(&retired.blocks);
            self.slots.extend(retired.slot);
        }
    }

    /// Makes the full blocks of a request known that have settled since the last time.
    pub fn offer(&mut self, key: Key, hasher: &mut BlockHasher) {
        let block_tokens = self.kv.block_tokens();
        let sequence = self.table.get_mut(key);
        let full = sequence.progress.settled.min(sequence.progress.known) as usize / block_tokens;
        if full <= sequence.offered {
            return;
        }
        hasher.extend(&mut sequence.hashes, &sequence.tokens[..full * block_tokens], &sequence.extra);
        let mut replaced = Vec::new();
        for index in sequence.offered..full {
            let tokens = &sequence.tokens[index * block_tokens..(index + 1) * block_tokens];
            let (hash, parent) = (sequence.hashes[index], index.checked_sub(1).map(|before| sequence.hashes[before]));
            let full = Full { index, hash, parent, tokens, extra: &sequence.extra };
            replaced.extend(self.kv.cache(&mut sequence.blocks, &full));
        }
        sequence.offered = full;
        let launch = if sequence.in_flight > 0 { sequence.last_launch } else { self.settled };
        if !replaced.is_empty() {
            self.retire_blocks(launch, replaced, None);
        }
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
    }
}

/// Gives a request all blocks for its tokens and the next at once, the first of them from the prefix cache, and says how many tokens
/// those hold. `None` where they do not fit.
pub fn reserve_all(kv: &mut Kv, sequence: &mut Sequence) -> Option<u32> {
    let blocks = kv.blocks_for(sequence.tokens.len() + 1);
    let mut table = std::mem::take(&mut sequence.blocks);
    let hits = kv.take(sequence.chain(kv.block_tokens()), blocks, &mut table);
    sequence.blocks = table;
    Some(sequence.start_behind(hits?, kv.block_tokens()))
}

impl Sequence {
    /// The request begins behind `hits` cached blocks; says how many tokens those are.
    fn start_behind(&mut self, hits: usize, block_tokens: usize) -> u32 {
        self.offered = hits;
        let cached = u32::try_from(hits * block_tokens).expect("a prompt fits the context");
        self.progress.restart(cached);
        cached
    }
}
