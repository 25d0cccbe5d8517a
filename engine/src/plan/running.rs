//! The part of a step for the requests that run: their next tokens, their drafts, and the blocks for both.

use super::share::Share;
use super::{Plan, Schedule};
use crate::backend::Batch;
use crate::sequence::{Chunk, Key};
use crate::speculate::DRAFTS_MAX;

enum Room {
    Ready,
    /// Blocks come free when the batches in flight settle.
    Later,
    /// The request itself had to give way.
    Lost,
}

impl Schedule {
    /// Nobody who runs is starved: the budget has a token for each slot.
    pub(super) fn plan_running(&mut self, budget: &mut usize, share: &mut Share, batch: &mut Batch, plan: &mut Plan) {
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
            // A prompt goes on in the next step, unless the row says that it is at its end.
            self.prompts_run |= is_prompt && tokens_max == 0;
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
                Room::Later => self.prompts_run |= is_prompt,
                Room::Lost => break,
            }
        }
        // Those whom the budget did not reach.
        self.prompts_run |= i < self.running.len();
    }

    /// Whether a request is better planned when its tokens in flight have settled: drafts come behind a token that is known. That is so
    /// where drafts would be proposed even now, and the tokens in flight will probably be the first of them.
    fn waits_for_drafts(&mut self, key: Key) -> bool {
        if self.running.len() > self.speculation_batch_max {
            return false;
        }
        let sequence = self.table.get_mut(key);
        let pending = sequence.progress.pending as usize;
        pending > 0 && sequence.propose(DRAFTS_MAX) > pending
    }

    /// Puts drafts into a `chunk` that computes one token, as far as the request's limits, the budget and the free blocks allow. No
    /// other request gives way to drafts.
    fn speculate(&mut self, key: Key, chunk: &mut Chunk, spare_tokens: usize, promised: usize) {
        if self.running.len() > self.speculation_batch_max {
            return;
        }
        let sequence = self.table.get_mut(key);
        let progress = sequence.progress;
        let decodes = chunk.tokens == 1 && chunk.sample.is_some() && progress.generated() > 0 && progress.pending == 0;
        if !decodes || sequence.lookup.is_none() {
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

    pub(super) fn next_chunk(&self, key: Key, budget: usize) -> Option<Chunk> {
        let sequence = self.table.get(key);
        let tokens_max = budget.min(self.chunk_tokens_max);
        // Where a prompt is told of, each of its positions takes a row of logits.
        let tokens_max = if sequence.scores() { tokens_max.min(1 + self.spare_logit_rows) } else { tokens_max };
        sequence.next_chunk(tokens_max, self.length_max)
    }

    /// Gives `key` blocks for its first `positions` positions, preempting from the end of the running requests. Those come later in
    /// this plan than `key`, so that no row is taken back.
    fn make_room(&mut self, key: Key, positions: u32, promised: &mut usize, plan: &mut Plan) -> Room {
        let held = self.table.get(key).blocks.len();
        if positions as usize <= held * self.kv.block_tokens() {
            return Room::Ready;
        }
        let needed = self.kv.blocks_for(positions as usize) - held;
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
    pub(super) fn grow(&mut self, key: Key, blocks: usize) {
        let sequence = self.table.get_mut(key);
        for _ in 0..blocks {
            let grown = self.kv.grow(&mut sequence.blocks);
            assert!(grown, "as many were free");
        }
        let kept = blocks.min(sequence.promised);
        sequence.promised -= kept;
        self.promised -= kept;
    }
}
