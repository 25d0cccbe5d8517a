//! The part of a step for the requests that wait: whose turn it is, whether it fits, and what of it is cached.

use super::share::Share;
use super::{Plan, Schedule};
use crate::backend::Batch;
use crate::config::{ADAPTERS_MAX, Policy};
use crate::kv::Kv;
use crate::sequence::{Key, Sequence, State};

/// Waiting requests that one step passes over, at most.
const PASSED_MAX: usize = 16;

impl Schedule {
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

    pub(super) fn plan_waiting(&mut self, budget: &mut usize, share: &mut Share, batch: &mut Batch, plan: &mut Plan) {
        // Requests that are passed over: a running one computes what they need, or as many adapters run as may.
        let mut passed = 0;
        let mut adapters_wait = false;
        while *budget > 0 && share.tokens > 0 && !self.slots.is_empty() {
            let Some(key) = self.waiting.iter().nth(passed) else { break };
            let sequence = self.table.get(key);
            // Preempted a moment ago: what is in flight of it settles first, so that its rows are always of its present stay.
            if sequence.in_flight > 0 {
                break;
            }
            // Behind one that waits for another adapter's end, no further request keeps an adapter from ending.
            adapters_wait |= self.is_adapter_too_many(key);
            let adapter_waits = adapters_wait && sequence.adapter.is_some();
            if passed < PASSED_MAX && (adapter_waits || self.is_being_computed(key)) {
                passed += 1;
                continue;
            }
            if adapter_waits {
                break;
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

    /// Whether a waiting request's adapter would be one more than may run at once.
    fn is_adapter_too_many(&self, key: Key) -> bool {
        let Some(adapter) = self.table.get(key).adapter else { return false };
        let mut running = [0u64; ADAPTERS_MAX / 64];
        for slot in self.running.iter().filter_map(|&other| self.table.get(other).adapter) {
            running[slot.0 as usize / 64] |= 1 << (slot.0 % 64);
        }
        let runs = running[adapter.0 as usize / 64] >> (adapter.0 % 64) & 1 == 1;
        let adapters: u32 = running.iter().map(|slots| slots.count_ones()).sum();
        !runs && adapters as usize >= self.batch_adapters_max
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
    pub(super) fn fits(&self, key: Key) -> bool {
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
        // For life: the step of a request that runs asks for no memory.
        table.reserve(self.kv.blocks_for(sequence.length_max(self.length_max)));
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
