//! Blocks that come back from below the device, and what becomes of those that cannot.

use super::Kv;
use super::event::Medium;
use super::hash::BlockHash;
use super::prefix::Content;
use super::tier::{DiskPlace, Lower, Move};
use crate::backend::BlockId;

impl Kv {
    /// Brings a block of host memory back to the device, at the end of `table`. `false` where there is no room, or making room took
    /// it from host memory.
    pub fn load(&mut self, hash: &BlockHash, table: &mut Vec<BlockId>) -> bool {
        let slot = |kv: &Self| match kv.tiers.as_ref()?.find(hash)? {
            Lower::Host(slot) => Some(slot),
            Lower::Disk(_) => None,
        };
        if let Some(tiers) = &mut self.tiers {
            tiers.touch(std::slice::from_ref(hash));
        }
        if slot(self).is_none() || !self.grow(table) {
            return false;
        }
        let block = *table.last().expect("the table grew");
        let Some(slot) = slot(self) else {
            table.pop();
            self.pool.release(block, false);
            return false;
        };
        self.return_to_device(Lower::Host(slot), block);
        if let Some(tiers) = &mut self.tiers {
            tiers.load(slot, block);
        }
        true
    }

    /// Makes room on the device for a block that was read from the disk, at the end of `table`; the caller fills it, after the moves
    /// that are due. `None` where there is no room, or the disk no longer vouches for it.
    pub fn take_read(&mut self, hash: &BlockHash, table: &mut Vec<BlockId>) -> Option<BlockId> {
        let tiers = self.tiers.as_ref()?;
        let lower = tiers.find(hash)?;
        let (content, tokens) = tiers.content(lower).map(|(content, tokens)| (content.clone(), tokens.to_vec()))?;
        if !self.grow(table) {
            return None;
        }
        let block = *table.last().expect("the table grew");
        self.log.stored(&content, &tokens, Medium::Device);
        self.prefix.insert(block, content, &tokens);
        Some(block)
    }

    fn return_to_device(&mut self, lower: Lower, block: BlockId) {
        let Some((content, tokens)) = self.tiers.as_ref().and_then(|tiers| tiers.content(lower)) else { return };
        self.log.stored(content, tokens, Medium::Device);
        self.prefix.insert(block, content.clone(), tokens);
    }

    /// A block that an earlier life of the engine left on the disk.
    pub fn found(&mut self, place: DiskPlace, content: Content, tokens: &[u32]) -> bool {
        self.tiers.as_mut().is_some_and(|tiers| tiers.found(place, content, tokens, &mut self.log))
    }

    /// A block on the disk is not what it should be.
    pub fn lose(&mut self, hash: &BlockHash) {
        if let Some(tiers) = &mut self.tiers {
            tiers.lose(hash, &mut self.log);
        }
    }

    /// The disk failed.
    pub fn lose_disk(&mut self) {
        if let Some(tiers) = &mut self.tiers {
            tiers.lose_disk(&mut self.log);
        }
    }

    /// The copies that are due before the next batch is launched.
    pub fn take_moves(&mut self, moves: &mut Vec<Move>) {
        if let Some(tiers) = &mut self.tiers {
            tiers.take_moves(moves);
        }
    }
}
