//! The KV cache: which blocks exist, who holds them, which of them are known by their content.
//!
//! ```text
//!            take                      cache (settled, full)
//!   free ───────────▶ held, unknown ─────────────────────────▶ held, known ──┐
//!    ▲                     │ release                     release │ ▲ hit     │ hit: one more holder
//!    └─────────────────────┴────────── take: Removed ◀── free, known ◀───────┘ release: one less
//! ```
//! A known block is never written again: it is full, and only settled blocks become known.

pub mod event;
pub mod hash;
pub mod lease;
pub mod pool;
pub mod prefix;

use std::sync::Arc;
use std::time::Instant;

use domain::ExtraKeys;

use crate::backend::BlockId;
use event::{BlockList, KvBatch, KvEvent, Stored};
use hash::BlockHash;
use lease::{LeaseId, Leases};
use pool::Pool;
use prefix::{Content, Prefix};

#[derive(Debug)]
pub struct Kv {
    pool: Pool,
    prefix: Prefix,
    leases: Leases,
    block_tokens: usize,
    /// Whether anybody wants events.
    tells_events: bool,
    events: Vec<KvEvent>,
    /// Event batches taken so far.
    batches: u64,
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
        Self { pool, prefix, leases: Leases::default(), block_tokens, tells_events, events: Vec::new(), batches: 0 }
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
        self.batches
    }

    /// Fills `table` with `blocks` blocks whose first are the known ones of `chain`, and says how many those are. Takes all or, where
    /// that many are not free, nothing.
    pub fn take(&mut self, chain: &[BlockHash], blocks: usize, table: &mut Vec<BlockId>) -> Option<usize> {
        assert!(table.is_empty() && chain.len() <= blocks, "a table is filled once");
        // Even if all of the chain is known and held, the rest must be free: most requests that do not fit end here.
        if self.pool.free() < blocks - chain.len() {
            return None;
        }
        table.reserve(blocks);
        table.extend(self.prefix.find_chain(chain));
        let hits = table.len();
        let free_hits = table.iter().filter(|&&block| self.pool.holders(block) == 0).count();
        if self.pool.free() - free_hits < blocks - hits {
            table.clear();
            return None;
        }
        table.iter().for_each(|&block| self.pool.hold(block));
        for _ in hits..blocks {
            let taken = self.grow(table);
            assert!(taken, "as many were free");
        }
        Some(hits)
    }

    /// Appends one block to `table`; `false` where none is free.
    pub fn grow(&mut self, table: &mut Vec<BlockId>) -> bool {
        let Some(block) = self.pool.take() else { return false };
        if let Some(hash) = self.prefix.remove(block) {
            match self.events.last_mut() {
                Some(KvEvent::Removed(hashes)) => hashes.push(hash),
                _ => self.tell(|| KvEvent::Removed(vec![hash])),
            }
        }
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
                self.prefix.insert(block, Content { hash, parent, index: index as u32, extra: Arc::clone(extra) }, tokens);
                self.tell_stored(full);
                None
            }
        }
    }

    fn tell_stored(&mut self, full: &Full<'_>) {
        let Full { index, hash, parent, tokens, extra } = *full;
        if let Some(KvEvent::Stored(stored)) = self.events.last_mut()
            && stored.hashes.last().copied() == parent
            && Arc::ptr_eq(&stored.extra, extra)
        {
            stored.hashes.push(hash);
            stored.tokens.extend_from_slice(tokens);
            return;
        }
        let block_tokens = self.block_tokens;
        self.tell(|| {
            let (hashes, tokens, extra) = (vec![hash], tokens.to_vec(), Arc::clone(extra));
            KvEvent::Stored(Stored { hashes, parent, tokens, block_tokens, extra, first_block: index })
        });
    }

    fn tell(&mut self, event: impl FnOnce() -> KvEvent) {
        if self.tells_events {
            self.events.push(event());
        }
    }

    /// Lets go of a sequence's blocks, last block first.
    pub fn release(&mut self, blocks: &[BlockId]) {
        for &block in blocks.iter().rev() {
            let known = self.prefix.hash_of(block).is_some();
            self.pool.release(block, known);
        }
    }

    /// Makes these blocks, and all that are known behind them, unknown: what they hold cannot be trusted.
    pub fn forget(&mut self, blocks: &[BlockId]) {
        let hashes = self.prefix.remove_trees(blocks.iter().copied());
        if !hashes.is_empty() {
            self.tell(|| KvEvent::Removed(hashes));
        }
    }

    /// Makes all blocks unknown, unless one is held; says whether it was done. vLLM refuses alike.
    pub fn reset(&mut self) -> bool {
        let idle = self.used() == 0;
        if idle {
            self.prefix.clear();
            self.tell(|| KvEvent::Cleared);
        }
        idle
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

    /// Ends the leases whose end has come.
    pub fn expire_leases(&mut self, now: Instant) {
        while let Some(id) = self.leases.due(now) {
            self.release_lease(id);
        }
    }

    /// The events since the last call, numbered; `None` where there are none.
    pub fn take_events(&mut self) -> Option<KvBatch> {
        if self.events.is_empty() {
            return None;
        }
        let batch = KvBatch { sequence: self.batches, events: std::mem::take(&mut self.events) };
        self.batches += 1;
        Some(batch)
    }

    /// All known blocks. Events that were not [taken](Self::take_events) are part of the list, so they must be none.
    pub fn list(&self) -> BlockList {
        assert!(self.events.is_empty(), "a list holds at a sequence");
        BlockList { sequence: self.batches, block_tokens: self.block_tokens, blocks: self.prefix.list() }
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
