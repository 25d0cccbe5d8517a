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
mod forget;
pub mod hash;
pub mod lease;
mod listing;
mod log;
mod lower;
pub mod pool;
pub mod prefix;
pub mod residency;
pub mod tier;

use std::sync::Arc;
use std::time::Instant;

use domain::ExtraKeys;

use crate::backend::BlockId;
use event::{KvBatch, Medium};
use hash::BlockHash;
use lease::Leases;
use log::EventLog;
use pool::Pool;
use prefix::{Content, Prefix};
use residency::Residency;
use tier::Tiers;

#[derive(Debug)]
pub struct Kv {
    pool: Pool,
    prefix: Prefix,
    leases: Leases,
    block_tokens: usize,
    log: EventLog,
    /// What lies below the device; `None` where nothing does.
    tiers: Option<Tiers>,
    /// Where the list that is being made holds.
    list_sequence: u64,
    /// `None`: nobody asks how long blocks stay.
    residency: Option<Residency>,
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
        Self { pool, prefix, leases: Leases::default(), block_tokens, log, tiers: None, list_sequence: 0, residency: None }
    }

    /// Keeps `host_blocks` blocks that leave the device, and behind those `disk_blocks`.
    pub fn with_tiers(self, host_blocks: usize, disk_blocks: usize) -> Self {
        let tiers = (host_blocks > 0).then(|| Tiers::new(host_blocks, disk_blocks, self.block_tokens));
        Self { tiers, ..self }
    }

    /// Follows how long `sample_ppm` of a million of the blocks stay.
    pub fn with_residency(self, sample_ppm: u32, now: Instant) -> Self {
        let residency = (sample_ppm > 0).then(|| Residency::new(self.pool.total(), sample_ppm, now));
        Self { residency, ..self }
    }

    pub fn residency_mut(&mut self) -> Option<&mut Residency> {
        self.residency.as_mut()
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
        if let Some(residency) = &mut self.residency {
            table.iter().for_each(|&block| residency.found(block));
        }
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
            self.residency.iter_mut().for_each(|residency| residency.evicted(block));
        }
        self.residency.iter_mut().for_each(|residency| residency.taken(block));
        table.push(block);
        true
    }

    /// Adds the block known by `hash` to `table`, with one more holder; `false` where it is not on the device.
    pub fn hold(&mut self, hash: &BlockHash, table: &mut Vec<BlockId>) -> bool {
        let Some(block) = self.prefix.find(hash) else { return false };
        self.pool.hold(block);
        self.residency.iter_mut().for_each(|residency| residency.found(block));
        table.push(block);
        true
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

    /// The events since the last call, numbered; `None` where there are none.
    pub fn take_events(&mut self) -> Option<KvBatch> {
        self.log.take()
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
