//! Leases: blocks kept for somebody outside the engine, until he lets go or a time has passed.

use std::collections::BTreeMap;
use std::time::Instant;

use crate::backend::BlockId;

/// Number of a lease, unique in one life of the engine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct LeaseId(pub u64);

/// The open leases. They own one reference to each of their blocks; [`Kv`](super::Kv) takes and returns it.
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
