//! The KV cache: which blocks exist, who holds them, which of them are known by their content.
//!
//! ```text
//!            take                      cache (settled, full)
//!   free ───────────▶ held, unknown ─────────────────────────▶ held, known ──┐
//!    ▲                     │ release                     release │ ▲ hit     │ hit: one more holder
//!    └─────────────────────┴────────── take: Removed ◀── free, known ◀───────┘ release: one less
//! ```
//! A known block is never written again: it is full, and only settled blocks become known.

pub mod disk;
pub mod event;
pub mod hash;
pub mod lease;
mod log;
pub mod pool;
pub mod prefix;
pub mod tier;

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Instant;

use domain::ExtraKeys;

use crate::backend::BlockId;
use event::{BlockList, KvBatch, Medium};
use hash::BlockHash;
use lease::{LeaseId, Leases};
use log::EventLog;
use pool::Pool;
use prefix::{Content, Prefix};
use tier::{DiskPlace, Lower, Move, Tiers};

#[derive(Debug)]
pub struct Kv {
    pool: Pool,
    prefix: Prefix,
    leases: Leases,
    block_tokens: usize,
    log: EventLog,
    /// What lies below the device; `None` where nothing does.
    tiers: Option<Tiers>,
}

/// A full, settled block of a sequence, ready to be known.
pub struct Full<'a> {
    pub index: usize,
    pub hash: BlockHash,
    pub parent: Option<BlockHash>,
    pub tokens: &'a [u32],
    pub extra: &'a Arc<ExtraKeys>,
}

impl Kv {
    pub fn new(blocks: usize, block_tokens: usize, tells_events: bool) -> Self {
        let (pool, prefix) = (Pool::new(blocks), Prefix::new(blocks, block_tokens));
        let log = EventLog::new(tells_events, block_tokens);
        Self { pool, prefix, leases: Leases::default(), block_tokens, log, tiers: None }
    }

    /// Keeps `host_blocks` blocks that leave the device, and behind those `disk_blocks`.
    pub fn with_tiers(self, host_blocks: usize, disk_blocks: usize) -> Self {
        let tiers = (host_blocks > 0).then(|| Tiers::new(host_blocks, disk_blocks, self.block_tokens));
        Self { tiers, ..self }
    }

    /// Blocks that cover `positions`.
    pub fn blocks_for(&self, positions: usize) -> usize {
        positions.div_ceil(self.block_tokens)
    }

    pub fn block_tokens(&self) -> usize {
        self.block_tokens
    }

    pub fn free(&self) -> usize {
        self.pool.free()
    }

    pub fn total(&self) -> usize {
        self.pool.total()
    }

    pub fn used(&self) -> usize {
        self.pool.total() - self.pool.free()
    }

    pub fn known(&self) -> usize {
        self.prefix.len()
    }

    pub fn leases(&self) -> &Leases {
        &self.leases
    }

    pub fn pool(&self) -> &Pool {
        &self.pool
    }

    pub fn prefix(&self) -> &Prefix {
        &self.prefix
    }

    /// Event batches published so far, and the sequence of the next one.
    pub fn batches(&self) -> u64 {
        self.log.batches()
    }

    pub fn tiers(&self) -> Option<&Tiers> {
        self.tiers.as_ref()
    }

    pub fn tiers_mut(&mut self) -> Option<&mut Tiers> {
        self.tiers.as_mut()
    }

    /// Fills `table` with `blocks` blocks whose first are the known ones of `chain`, and says how many those are. Takes all or, where
    /// that many are not free, nothing.
    pub fn take(&mut self, chain: &[BlockHash], blocks: usize, table: &mut Vec<BlockId>) -> Option<usize> {
        let hits = self.hold_known(chain, blocks, 0, table)?;
        for _ in hits..blocks {
            let taken = self.grow(table);
            assert!(taken, "as many were free");
        }
        Some(hits)
    }

    /// Fills `table` with the known blocks at the start of `chain` and says how many those are, if `blocks` in all would fit beside
    /// the `promised` ones, which are free and meant for others. Otherwise takes nothing.
    pub fn hold_known(&mut self, chain: &[BlockHash], blocks: usize, promised: usize, table: &mut Vec<BlockId>) -> Option<usize> {
        assert!(table.is_empty() && chain.len() <= blocks, "a table is filled once");
        let free = self.pool.free().saturating_sub(promised);
        // Even if all of the chain is known and held, the rest must be free: most requests that do not fit end here.
        if free < blocks - chain.len() {
            return None;
        }
        table.reserve(blocks);
        table.extend(self.prefix.find_chain(chain));
        let hits = table.len();
        let free_hits = table.iter().filter(|&&block| self.pool.holders(block) == 0).count();
        if free < free_hits + blocks - hits {
            table.clear();
            return None;
        }
        table.iter().for_each(|&block| self.pool.hold(block));
        Some(hits)
    }

    /// Appends one block to `table`; `false` where none is free.
    pub fn grow(&mut self, table: &mut Vec<BlockId>) -> bool {
        let Some(block) = self.pool.take() else { return false };
        if let Some(content) = self.prefix.remove(block) {
            if let Some(tiers) = &mut self.tiers {
                tiers.keep(block, &content, self.prefix.tokens(block), &mut self.log);
            }
            self.log.removed(content.hash, Medium::Device);
        }
        table.push(block);
        true
    }

    /// Adds the block known by `hash` to `table`, with one more holder; `false` where it is not on the device.
    pub fn hold(&mut self, hash: &BlockHash, table: &mut Vec<BlockId>) -> bool {
        let Some(block) = self.prefix.find(hash) else { return false };
        self.pool.hold(block);
        table.push(block);
        true
    }

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

    /// Makes block `full.index` of `table` known, if its parent is. Where another block is known by the same hash, that one takes
    /// its place in the table: the block that is handed back must be [released](Self::release) once no batch in flight reads it.
    pub fn cache(&mut self, table: &mut [BlockId], full: &Full<'_>) -> Option<BlockId> {
        let Full { index, hash, parent, tokens, extra } = *full;
        let block = table[index];
        if let Some(parent) = parent
            && self.prefix.hash_of(table[index - 1]) != Some(parent)
        {
            return None;
        }
        match self.prefix.find(&hash) {
            Some(known) if known == block => None,
            Some(known) => {
                self.pool.hold(known);
                table[index] = known;
                Some(block)
            }
            None => {
                let content = Content { hash, parent, index: index as u32, extra: Arc::clone(extra) };
                self.log.stored(&content, tokens, Medium::Device);
                self.prefix.insert(block, content, tokens);
                None
            }
        }
    }

    /// Lets go of a sequence's blocks, last block first.
    pub fn release(&mut self, blocks: &[BlockId]) {
        for &block in blocks.iter().rev() {
            let known = self.prefix.hash_of(block).is_some();
            self.pool.release(block, known);
        }
    }

    /// Makes these blocks, and all that are known behind them on any tier, unknown: what they hold cannot be trusted.
    pub fn forget(&mut self, blocks: &[BlockId]) {
        let mut gone: HashSet<BlockHash> = blocks.iter().filter_map(|&block| self.prefix.hash_of(block)).collect();
        if gone.is_empty() {
            return;
        }
        self.log.removed_all(self.prefix.remove_behind(&mut gone), Medium::Device);
        if let Some(tiers) = &mut self.tiers {
            tiers.forget(&mut gone, &mut self.log);
        }
    }

    /// Makes all blocks of the device unknown, and with `lower` those of all tiers, unless one is held; says whether it was done. vLLM
    /// refuses alike.
    pub fn reset(&mut self, lower: bool) -> bool {
        let idle = self.used() == 0;
        if idle {
            self.clear(lower);
        }
        idle
    }

    /// Makes all blocks unknown, held or not. What held ones hold must be forgotten by their holders as well.
    pub fn clear(&mut self, lower: bool) {
        let kept = self
            .tiers
            .as_ref()
            .is_some_and(|tiers| !tiers.host().is_empty() || tiers.disk().is_some_and(|disk| !disk.is_empty()));
        if kept && !lower {
            self.log.removed_all(self.prefix.hashes(), Medium::Device);
        } else {
            if let Some(tiers) = &mut self.tiers {
                tiers.clear();
            }
            self.log.cleared();
        }
        self.prefix.clear();
    }

    /// Keeps the known blocks at the start of `chain`, at most `blocks_max`.
    pub fn lease(&mut self, chain: &[BlockHash], blocks_max: usize, expires: Instant) -> Option<(LeaseId, usize)> {
        let blocks: Vec<BlockId> = self.prefix.find_chain(chain).take(blocks_max).collect();
        if blocks.is_empty() {
            return None;
        }
        blocks.iter().for_each(|&block| self.pool.hold(block));
        let kept = blocks.len();
        Some((self.leases.open(blocks, expires), kept))
    }

    pub fn renew_lease(&mut self, id: LeaseId, expires: Instant) -> bool {
        self.leases.renew(id, expires)
    }

    pub fn release_lease(&mut self, id: LeaseId) {
        let blocks = self.leases.close(id);
        self.release(&blocks);
    }

    /// Ends all leases.
    pub fn end_leases(&mut self) {
        while let Some(id) = self.leases.first() {
            self.release_lease(id);
        }
    }

    /// Ends the leases whose end has come.
    pub fn expire_leases(&mut self, now: Instant) {
        while let Some(id) = self.leases.due(now) {
            self.release_lease(id);
        }
    }

    /// The events since the last call, numbered; `None` where there are none.
    pub fn take_events(&mut self) -> Option<KvBatch> {
        self.log.take()
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

    /// All known blocks. Events that were not [taken](Self::take_events) are part of the list, so they must be none.
    pub fn list(&self) -> BlockList {
        assert!(self.log.is_empty(), "a list holds at a sequence");
        let mut blocks = self.prefix.list(Medium::Device);
        if let Some(tiers) = &self.tiers {
            tiers.list(&mut blocks);
            blocks.sort_by_key(|block| block.index);
        }
        BlockList { sequence: self.log.batches(), block_tokens: self.block_tokens, blocks }
    }

    /// Counts everything anew and compares; for tests and for an idle engine. `tables` are all block tables there are, the leases'
    /// apart.
    ///
    /// # Panics
    /// A count is wrong: a block leaks, or is held by fewer than its count says.
    pub fn check<'a>(&self, tables: impl Iterator<Item = &'a [BlockId]>) {
        let mut holders = vec![0u32; self.pool.total()];
        tables.flatten().copied().chain(self.leases.held()).for_each(|block| holders[block.0 as usize] += 1);
        for (block, &holders) in (0..).map(BlockId).zip(&holders) {
            assert_eq!(self.pool.holders(block), holders, "holders of {block:?}");
        }
        let free: Vec<BlockId> = self.pool.free_list().collect();
        assert!(free.iter().all(|&block| self.pool.holders(block) == 0), "a free block is held");
        assert_eq!(free.len(), holders.iter().filter(|&&holders| holders == 0).count(), "free and held are all blocks");
        assert_eq!(free.len(), self.pool.free(), "the count of free blocks");
    }
}

#[cfg(test)]
mod tests;
