//! Making known what has settled.

use super::Schedule;
use crate::kv::Full;
use crate::kv::hash::BlockHasher;
use crate::sequence::Key;

impl Schedule {
    /// Makes the full blocks of a request known that have settled since the last time.
    pub fn offer(&mut self, key: Key, hasher: &mut BlockHasher) {
        let block_tokens = self.kv.block_tokens();
        let sequence = self.table.get_mut(key);
        let settled = sequence.progress.settled.min(sequence.progress.known) as usize;
        if settled < (sequence.offered + 1) * block_tokens {
            return;
        }
        let full = settled / block_tokens;
        hasher.extend(&mut sequence.hashes, &sequence.tokens[..full * block_tokens], &sequence.extra);
        let mut replaced = Vec::new();
        for index in sequence.offered..full {
            let tokens = &sequence.tokens[index * block_tokens..(index + 1) * block_tokens];
            let (hash, parent) = (sequence.hashes[index], index.checked_sub(1).map(|before| sequence.hashes[before]));
            let full = Full { index, hash, parent, tokens, extra: &sequence.extra };
            if let Some(block) = self.kv.cache(&mut sequence.blocks, &full) {
                replaced.push(block);
                sequence.handed = sequence.handed.min(index);
            }
        }
        sequence.offered = full;
        let launch = if sequence.in_flight > 0 { sequence.last_launch } else { self.settled };
        if !replaced.is_empty() {
            self.retire_blocks(launch, replaced, None);
        }
    }
}
