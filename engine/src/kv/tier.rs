//! The lower tiers: blocks that left the device's pool, kept in host memory and behind it on a disk, and found by their hash.
//!
//! ```text
//!   device ──evicted: Save──▶ host ──evicted: Spill──▶ disk ──evicted──▶ gone
//!      ▲────── Load ───────────┘                        │
//!      └────── read by the disk's own thread ───────────┘
//! ```
//! A block that comes back stays where it was, so that leaving the device again costs no second copy. Here stands only which block lies
//! where; [`Move`]s say what is to be copied before the next batch is launched, in their order. Every tier forgets by last use, the end
//! of a chain before its beginning: blocks leave the device in that order, and a hit touches its chain from the end.

use std::collections::HashSet;

use domain::AdapterKey;

use super::event::{CachedBlock, Medium};
use super::hash::BlockHash;
use super::log::EventLog;
use super::pool::Pool;
use super::prefix::{Content, Prefix};
use crate::backend::BlockId;

/// A block's place in host memory, in blocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HostSlot(pub u32);

/// A block's place on the disk, in blocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct DiskPlace(pub u32);

/// A copy to be made before the next batch is launched. Moves are made in their order: a slot may be used twice.
#[derive(Debug)]
pub enum Move {
    Save { block: BlockId, slot: HostSlot },
    Load { slot: HostSlot, block: BlockId },
    Spill { slot: HostSlot, place: DiskPlace, content: Content, tokens: Vec<u32> },
}

/// Where below the device a block is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lower {
    Host(HostSlot),
    Disk(DiskPlace),
}

/// What the tiers did, since the engine's start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TierCounts {
    pub host_saved: u64,
    pub host_loaded: u64,
    pub disk_written: u64,
    pub disk_read: u64,
    /// Blocks that the disk could not take: its queue was full.
    pub disk_dropped: u64,
    /// Blocks whose bytes on the disk were not what had been written there.
    pub disk_lost: u64,
    /// Restores that their deadline ended.
    pub restores_late: u64,
    /// Restores that gave way to a running request.
    pub restores_revoked: u64,
}

#[derive(Debug)]
pub struct Tiers {
    host: Shelf,
    disk: Option<Shelf>,
    /// Writes that the disk takes before it is asked again.
    disk_room: usize,
    /// Of a list that is being made: what was on a disk that has failed since.
    listed: Vec<CachedBlock>,
    moves: Vec<Move>,
    pub counts: TierCounts,
}

impl Tiers {
    /// `disk_blocks` 0: there is no disk.
    pub fn new(host_blocks: usize, disk_blocks: usize, block_tokens: usize) -> Self {
        assert!(host_blocks > 0, "blocks reach the disk through host memory");
        let disk = (disk_blocks > 0).then(|| Shelf::new(disk_blocks, block_tokens));
        let counts = TierCounts::default();
        Self { host: Shelf::new(host_blocks, block_tokens), disk, disk_room: 0, moves: Vec::new(), listed: Vec::new(), counts }
    }

    pub fn host(&self) -> &Shelf {
        &self.host
    }

    pub fn disk(&self) -> Option<&Shelf> {
        self.disk.as_ref()
    }

    pub fn set_disk_room(&mut self, writes: usize) {
        self.disk_room = writes;
    }

    /// The moves recorded since the last call.
    pub fn take_moves(&mut self, moves: &mut Vec<Move>) {
        assert!(moves.is_empty(), "moves are made before more are taken");
        std::mem::swap(&mut self.moves, moves);
    }

    pub fn find(&self, hash: &BlockHash) -> Option<Lower> {
        let on_disk = || self.disk.as_ref()?.find(hash).map(|place| Lower::Disk(DiskPlace(place.0)));
        self.host.find(hash).map(|slot| Lower::Host(HostSlot(slot.0))).or_else(on_disk)
    }

    /// Marks a chain as used, its first block last: it will be forgotten after those behind it.
    pub fn touch(&mut self, chain: &[BlockHash]) {
        for hash in chain.iter().rev() {
            self.host.touch(hash);
            if let Some(disk) = &mut self.disk {
                disk.touch(hash);
            }
        }
    }

    /// Keeps a block that leaves the device, before it is written to.
    pub fn keep(&mut self, block: BlockId, content: &Content, tokens: &[u32], log: &mut EventLog) {
        if self.host.touch(&content.hash) {
            return;
        }
        let slot = self.host.take();
        if let Some(old) = self.host.content.remove(slot) {
            self.spill(slot, old, log);
        }
        log.stored(content, tokens, Medium::Host);
        self.host.put(slot, content.clone(), tokens);
        self.moves.push(Move::Save { block, slot: HostSlot(slot.0) });
        self.counts.host_saved += 1;
    }

    /// Passes a block that leaves host memory on to the disk.
    fn spill(&mut self, slot: BlockId, content: Content, log: &mut EventLog) {
        let hash = content.hash;
        if let Some(disk) = &mut self.disk
            && !disk.touch(&hash)
        {
            if self.disk_room == 0 {
                self.counts.disk_dropped += 1;
            } else {
                self.disk_room -= 1;
                let tokens = self.host.content.tokens(slot).to_vec();
                let place = disk.take();
                if let Some(old) = disk.content.remove(place) {
                    log.removed(old.hash, Medium::Disk);
                }
                log.stored(&content, &tokens, Medium::Disk);
                disk.put(place, content.clone(), &tokens);
                self.moves.push(Move::Spill { slot: HostSlot(slot.0), place: DiskPlace(place.0), content, tokens });
                self.counts.disk_written += 1;
            }
        }
        log.removed(hash, Medium::Host);
    }

    /// What a lower block holds, for the device.
    pub fn content(&self, lower: Lower) -> Option<(&Content, &[u32])> {
        match lower {
            Lower::Host(slot) => self.host.get(BlockId(slot.0)),
            Lower::Disk(place) => self.disk.as_ref()?.get(BlockId(place.0)),
        }
    }

    /// A block comes back from host memory.
    pub fn load(&mut self, slot: HostSlot, block: BlockId) {
        self.moves.push(Move::Load { slot, block });
        self.counts.host_loaded += 1;
    }

    /// A block that an earlier life of the engine left on the disk. `false`: its place is taken, or it could not be told of.
    pub fn found(&mut self, place: DiskPlace, content: Content, tokens: &[u32], log: &mut EventLog) -> bool {
        let Some(disk) = &mut self.disk else { return false };
        let parent_known = content.parent.is_none_or(|parent| disk.find(&parent).is_some());
        let vacant = (place.0 as usize) < disk.len_max() && disk.get(BlockId(place.0)).is_none();
        if !parent_known || !vacant || disk.find(&content.hash).is_some() {
            return false;
        }
        log.stored(&content, tokens, Medium::Disk);
        disk.pool.hold(BlockId(place.0));
        disk.put(BlockId(place.0), content, tokens);
        true
    }

    /// A block on the disk is not what it should be.
    pub fn lose(&mut self, hash: &BlockHash, log: &mut EventLog) {
        let Some(disk) = &mut self.disk else { return };
        let Some(place) = disk.find(hash) else { return };
        disk.content.remove(place);
        self.counts.disk_lost += 1;
        log.removed(*hash, Medium::Disk);
    }

    /// The disk failed: what it held is gone, and nothing goes there any more.
    pub fn lose_disk(&mut self, log: &mut EventLog) {
        let Some(mut disk) = self.disk.take() else { return };
        self.listed.append(&mut disk.content.end_list());
        log.removed_all(disk.content.hashes(), Medium::Disk);
        self.moves.retain(|copy| !matches!(copy, Move::Spill { .. }));
    }

    /// Forgets blocks whose hashes are in `gone`, and all behind them.
    pub fn forget(&mut self, gone: &mut HashSet<BlockHash>, log: &mut EventLog) {
        log.removed_all(self.host.content.remove_behind(gone), Medium::Host);
        if let Some(disk) = &mut self.disk {
            log.removed_all(disk.content.remove_behind(gone), Medium::Disk);
        }
    }

    /// Hashes of the blocks that were computed with an adapter.
    pub fn of_adapter(&self, key: &AdapterKey) -> impl Iterator<Item = BlockHash> {
        self.disk.iter().chain([&self.host]).flat_map(move |shelf| shelf.content.of_adapter(key))
    }

    /// Forgets everything.
    pub fn clear(&mut self) {
        self.host.content.clear();
        if let Some(disk) = &mut self.disk {
            disk.content.clear();
        }
    }

    pub fn begin_list(&mut self) {
        self.host.content.begin_list(Medium::Host);
        if let Some(disk) = &mut self.disk {
            disk.content.begin_list(Medium::Disk);
        }
    }

    pub fn go_on_list(&mut self, places_max: usize) -> bool {
        let disk = self.disk.as_mut().is_none_or(|disk| disk.content.go_on_list(places_max));
        self.host.content.go_on_list(places_max) && disk
    }

    pub fn end_list(&mut self, blocks: &mut Vec<CachedBlock>) {
        blocks.append(&mut self.listed);
        blocks.append(&mut self.host.content.end_list());
        if let Some(disk) = &mut self.disk {
            blocks.append(&mut disk.content.end_list());
        }
    }
}

/// One tier: places for blocks, in the order of their last use, and what they hold. Nobody holds a block here.
#[derive(Debug)]
pub struct Shelf {
    pool: Pool,
    content: Prefix,
}

impl Shelf {
    fn new(blocks: usize, block_tokens: usize) -> Self {
        Self { pool: Pool::new(blocks), content: Prefix::new(blocks, block_tokens) }
    }

    /// Blocks it holds.
    pub fn len(&self) -> usize {
        self.content.len()
    }

    pub fn is_empty(&self) -> bool {
        self.content.is_empty()
    }

    /// Blocks it has places for.
    pub fn len_max(&self) -> usize {
        self.pool.total()
    }

    fn find(&self, hash: &BlockHash) -> Option<BlockId> {
        self.content.find(hash)
    }

    fn get(&self, place: BlockId) -> Option<(&Content, &[u32])> {
        Some((self.content.get(place)?, self.content.tokens(place)))
    }

    /// Moves a block to the end of those that will be forgotten; says whether it is here.
    fn touch(&mut self, hash: &BlockHash) -> bool {
        let Some(place) = self.content.find(hash) else { return false };
        self.pool.hold(place);
        self.pool.release(place, true);
        true
    }

    /// The place that was not used for longest; what it holds is still there.
    fn take(&mut self) -> BlockId {
        self.pool.take().expect("nobody holds a place")
    }

    fn put(&mut self, place: BlockId, content: Content, tokens: &[u32]) {
        self.content.insert(place, content, tokens);
        self.pool.release(place, true);
    }
}
