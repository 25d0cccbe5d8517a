//! Everything counted anew; for tests.

use super::Engine;
use crate::plan::Schedule;
use crate::sequence::{Sequence, State};

impl Engine {
    /// Counts everything anew and compares; for tests, which call it between steps.
    ///
    /// # Panics
    /// A block leaks, is shared although it may yet be written, or is held without being accounted for.
    pub fn check(&self) {
        let Schedule { table, retired, kv, remote_blocks, slots, .. } = &self.schedule;
        let tables = table.iter().map(|sequence| &sequence.blocks[..]);
        let retired_tables = retired.iter().map(|retired| &retired.blocks[..]);
        let adrift = self.adrift.values().map(|blocks| &blocks[..]);
        let restored = self.schedule.restores.open.iter().map(|restore| &restore.held[..]);
        kv.check(tables.chain(retired_tables).chain(adrift).chain(restored));
        self.schedule.check();
        for sequence in table.iter() {
            let settled = sequence.progress.settled as usize / kv.block_tokens();
            for &block in sequence.blocks.iter().skip(settled) {
                let alone = kv.pool().holders(block) == 1 && kv.prefix().hash_of(block).is_none();
                assert!(alone, "request {} may write to {block:?}, which others see", sequence.id);
            }
            let progress = sequence.progress;
            assert!(progress.settled <= progress.computed && progress.computed <= progress.total(), "{progress:?}");
            assert_eq!(
                sequence.slot.is_some(),
                sequence.state == State::Running,
                "request {} has a slot while it runs",
                sequence.id
            );
        }
        let waits = |sequence: &&Sequence| sequence.state != State::Running;
        let waiting_blocks: usize = table.iter().filter(waits).map(|sequence| sequence.blocks.len()).sum();
        let adrift_blocks: usize = self.adrift.values().map(Vec::len).sum();
        assert_eq!(*remote_blocks, waiting_blocks + adrift_blocks, "blocks of remote KV");
        let slots_held = table.iter().filter(|sequence| sequence.slot.is_some()).count();
        let slots_retired = retired.iter().filter(|retired| retired.slot.is_some()).count();
        assert_eq!(slots.len() + slots_held + slots_retired, self.door.limits.config.max_num_seqs, "slots");
    }
}
