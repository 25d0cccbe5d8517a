//! Bringing a prompt's blocks back from the lower tiers, before the request is admitted.
//!
//! A restore walks the request's chain from its start and holds each block that is on the device, so that nobody takes it again; the
//! next block is copied from host memory, or read by the disk's thread while the request is `Restoring` and everybody else goes on.
//! When it comes to a block that is nowhere, to its deadline, or to a running request that needs the room, it lets go: what it brought
//! back is cached, and admission finds it like any other block. Nothing depends on a restore's success.

use std::collections::HashSet;
use std::time::{Duration, Instant};

use super::Schedule;
use crate::backend::BlockId;
use crate::kv::Kv;
use crate::kv::disk::DISK_READS_MAX;
use crate::kv::hash::BlockHash;
use crate::kv::tier::{DiskPlace, Lower};
use crate::sequence::{Key, Sequence, State};

/// A request whose blocks are coming back.
#[derive(Debug)]
pub struct Restore {
    pub key: Key,
    /// The blocks at the start of the request's chain, held.
    pub held: Vec<BlockId>,
    pub deadline: Instant,
    host_blocks: u32,
    disk_blocks: u32,
}

/// All restores, and what they share.
#[derive(Debug)]
pub struct Restores {
    pub open: Vec<Restore>,
    /// Blocks asked of the disk and not answered.
    reading: HashSet<BlockHash>,
    /// What the disk is to be asked for.
    pub asked: Vec<(DiskPlace, BlockHash)>,
    /// Longest time from a restore's beginning to its end.
    wait_max: Duration,
    /// Copies from host memory that a step may make, and those left of it.
    loads_max: usize,
    loads_left: usize,
}

/// How far a restore came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Advance {
    Done,
    /// This step's copies are used up.
    NextStep,
    /// The disk is at it.
    Disk,
}

impl Restores {
    pub fn new(wait_max: Duration, loads_max: usize) -> Self {
        let (open, reading, asked) = (Vec::new(), HashSet::new(), Vec::new());
        Self { open, reading, asked, wait_max, loads_max: loads_max.max(1), loads_left: 0 }
    }

    pub fn next_deadline(&self) -> Option<Instant> {
        self.open.iter().map(|restore| restore.deadline).min()
    }
}

impl Schedule {
    /// Goes on with the open restores, after one step. Says whether one of them could go on without waiting for the disk.
    pub(super) fn advance_restores(&mut self) {
        self.restores.loads_left = self.restores.loads_max;
        self.restores_runnable = false;
        let mut i = 0;
        while i < self.restores.open.len() {
            match self.advance(i) {
                Advance::Done => self.close_restore(i),
                Advance::NextStep => {
                    self.restores_runnable = true;
                    i += 1;
                }
                Advance::Disk => i += 1,
            }
        }
    }

    /// Begins to bring back what `key`, which waits and was not restored yet, finds below the device. `true`: it no longer waits.
    pub(super) fn restore(&mut self, key: Key) -> bool {
        let sequence = self.table.get_mut(key);
        sequence.restored = true;
        if self.kv.tiers().is_none() {
            return false;
        }
        let chain = sequence.chain(self.kv.block_tokens());
        let known = self.kv.prefix().find_chain(chain).count();
        let below = chain.get(known).is_some_and(|hash| self.kv.tiers().is_some_and(|tiers| tiers.find(hash).is_some()));
        if !below {
            return false;
        }
        let turn = sequence.turn.take().expect("it waits");
        sequence.become_state(State::Restoring);
        self.waiting.remove(turn);
        let deadline = self.now + self.restores.wait_max;
        let restore = Restore { key, held: Vec::new(), deadline, host_blocks: 0, disk_blocks: 0 };
        self.restores.open.push(restore);
        let at = self.restores.open.len() - 1;
        match self.advance(at) {
            Advance::Done => self.close_restore(at),
            Advance::NextStep => self.restores_runnable = true,
            Advance::Disk => {}
        }
        true
    }

    fn advance(&mut self, at: usize) -> Advance {
        let Self { table, kv, restores, promised, .. } = self;
        let Restores { open, reading, asked, loads_left, .. } = restores;
        let restore = &mut open[at];
        let chain = table.get(restore.key).chain(kv.block_tokens());
        while let Some(hash) = chain.get(restore.held.len()) {
            if kv.hold(hash, &mut restore.held) {
                continue;
            }
            if kv.free() <= *promised {
                return Advance::Done;
            }
            match kv.tiers().and_then(|tiers| tiers.find(hash)) {
                None => return Advance::Done,
                Some(Lower::Host(_)) if *loads_left == 0 => return Advance::NextStep,
                Some(Lower::Host(_)) => {
                    if !kv.load(hash, &mut restore.held) {
                        return Advance::Done;
                    }
                    *loads_left -= 1;
                    restore.host_blocks += 1;
                }
                Some(Lower::Disk(_)) => {
                    ask(kv, &chain[restore.held.len()..], reading, asked);
                    return Advance::Disk;
                }
            }
        }
        Advance::Done
    }

    /// The disk's answer for a block: where on the device it is to be copied, if anybody waits for it.
    pub fn disk_read(&mut self, hash: &BlockHash) -> Option<BlockId> {
        self.restores.reading.remove(hash);
        let Self { table, kv, restores, promised, .. } = self;
        let block_tokens = kv.block_tokens();
        for restore in &mut restores.open {
            let chain = table.get(restore.key).chain(block_tokens);
            // Others may have brought the blocks before this one.
            while chain.get(restore.held.len()).is_some_and(|next| next != hash && kv.hold(next, &mut restore.held)) {}
            if chain.get(restore.held.len()) == Some(hash) && kv.prefix().find(hash).is_none() && kv.free() > *promised {
                let block = kv.take_read(hash, &mut restore.held)?;
                restore.disk_blocks += 1;
                if let Some(tiers) = kv.tiers_mut() {
                    tiers.counts.disk_read += 1;
                }
                return Some(block);
            }
        }
        None
    }

    /// The disk will not answer for this block, or for any where `hash` is `None`.
    pub fn disk_failed(&mut self, hash: Option<&BlockHash>) {
        match hash {
            Some(hash) => {
                self.restores.reading.remove(hash);
                self.kv.lose(hash);
            }
            None => {
                self.restores.reading.clear();
                self.kv.lose_disk();
            }
        }
    }

    /// Ends the restores whose deadline has come; their requests go on with what is there.
    pub fn expire_restores(&mut self) {
        while let Some(at) = self.restores.open.iter().position(|restore| restore.deadline <= self.now) {
            self.close_restore(at);
            if let Some(tiers) = self.kv.tiers_mut() {
                tiers.counts.restores_late += 1;
            }
        }
    }

    /// Ends the restore that began last, for a running request that needs the room.
    pub(super) fn revoke_restore(&mut self) -> bool {
        let Some(last) = self.restores.open.len().checked_sub(1) else { return false };
        self.close_restore(last);
        if let Some(tiers) = self.kv.tiers_mut() {
            tiers.counts.restores_revoked += 1;
        }
        true
    }

    /// The request of a restore waits again, first of its priority.
    fn close_restore(&mut self, at: usize) {
        let Restore { key, held, host_blocks, disk_blocks, .. } = self.restores.open.remove(at);
        let block_tokens = self.kv.block_tokens() as u32;
        let sequence = self.table.get_mut(key);
        sequence.become_state(State::Waiting);
        (sequence.host_tokens, sequence.disk_tokens) = (host_blocks * block_tokens, disk_blocks * block_tokens);
        if let Some(tiers) = self.kv.tiers_mut() {
            tiers.touch(&sequence.hashes[..held.len()]);
        }
        self.kv.release(&held);
        self.wait_first(key);
    }

    /// Ends the restore of a request that has ended.
    pub fn drop_restore(&mut self, key: Key) {
        let at = self.restores.open.iter().position(|restore| restore.key == key).expect("it is being restored");
        let restore = self.restores.open.remove(at);
        self.kv.release(&restore.held);
    }
}

/// Asks the disk for the blocks at the start of `chain` that are nowhere else.
fn ask(kv: &Kv, chain: &[BlockHash], reading: &mut HashSet<BlockHash>, asked: &mut Vec<(DiskPlace, BlockHash)>) {
    let on_disk = |hash: &BlockHash| match kv.tiers()?.find(hash)? {
        Lower::Disk(place) if kv.prefix().find(hash).is_none() => Some((place, *hash)),
        Lower::Disk(_) | Lower::Host(_) => None,
    };
    for (place, hash) in chain.iter().map_while(on_disk) {
        if reading.len() >= DISK_READS_MAX {
            break;
        }
        if reading.insert(hash) {
            asked.push((place, hash));
        }
    }
}

impl Sequence {
    /// Hashes of the full blocks that may be taken from a cache: at least one token is left to compute, what is sampled comes from it.
    pub(super) fn chain(&self, block_tokens: usize) -> &[BlockHash] {
        let blocks = if self.scores() { 0 } else { (self.tokens.len() - 1) / block_tokens };
        &self.hashes[..blocks.min(self.hashes.len())]
    }
}
