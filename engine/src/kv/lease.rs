//! Leases: blocks kept for somebody outside the engine, until he lets go or a time has passed.

use std::collections::BTreeMap;
use std::time::Instant;

use super::Kv;
use super::hash::BlockHash;
use crate::backend::BlockId;

/// Number of a lease, unique in one life of the engine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct LeaseId(pub u64);

/// The open leases. They own one reference to each of their blocks; [`Kv`] takes and returns it.
#[derive(Debug, Default)]
pub struct Leases {
    open: BTreeMap<LeaseId, Lease>,
    next_id: u64,
    blocks: usize,
}

#[derive(Debug)]
struct Lease {
    blocks: Vec<BlockId>,
    expires: Instant,
}

impl Leases {
    pub fn open(&mut self, blocks: Vec<BlockId>, expires: Instant) -> LeaseId {
        let id = LeaseId(self.next_id);
        self.next_id += 1;
        self.blocks += blocks.len();
        self.open.insert(id, Lease { blocks, expires });
        id
    }

    /// Moves the end of an open lease; says whether there is one.
    pub fn renew(&mut self, id: LeaseId, expires: Instant) -> bool {
        match self.open.get_mut(&id) {
            Some(lease) => {
                lease.expires = expires;
                true
            }
            None => false,
        }
    }

    /// Ends a lease and hands its blocks back; none when it has ended before.
    pub fn close(&mut self, id: LeaseId) -> Vec<BlockId> {
        let blocks = self.open.remove(&id).map(|lease| lease.blocks).unwrap_or_default();
        self.blocks -= blocks.len();
        blocks
    }

    /// A lease whose end has come.
    pub fn due(&self, now: Instant) -> Option<LeaseId> {
        self.open.iter().find(|(_, lease)| lease.expires <= now).map(|(&id, _)| id)
    }

    pub fn first(&self) -> Option<LeaseId> {
        self.open.keys().next().copied()
    }

    /// The earliest end.
    pub fn next_end(&self) -> Option<Instant> {
        self.open.values().map(|lease| lease.expires).min()
    }

    pub fn len(&self) -> usize {
        self.open.len()
    }

    pub fn is_empty(&self) -> bool {
        self.open.is_empty()
    }

    /// Blocks of all leases; a block that two leases keep counts twice.
    pub fn blocks(&self) -> usize {
        self.blocks
    }

    pub(crate) fn held(&self) -> impl Iterator<Item = BlockId> {
        self.open.values().flat_map(|lease| lease.blocks.iter().copied())
    }
}

impl Kv {
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
}
