//! Taking blocks and slots away: at once, or when the batches in flight that touch them have settled.

use super::Schedule;
use crate::backend::{BlockId, Slot};
use crate::sequence::{Key, State};

/// Blocks and a slot whose owner is gone while batch `launch` was in flight: reusable once that has settled.
pub struct Retired {
    launch: u64,
    pub blocks: Vec<BlockId>,
    pub slot: Option<Slot>,
    sole: usize,
}

impl Schedule {
    /// Takes everything from a request that was running; it is recomputed later, first of all that wait.
    pub(super) fn preempt(&mut self, key: Key) {
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

    /// Takes blocks and slot from a request. They are free at once, or when the last batch that touches them has settled.
    pub fn retire(&mut self, key: Key) {
        let sequence = self.table.get_mut(key);
        let (blocks, slot) = (std::mem::take(&mut sequence.blocks), sequence.slot.take());
        (sequence.offered, sequence.handed) = (0, 0);
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
}
