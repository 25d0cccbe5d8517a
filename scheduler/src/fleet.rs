//! All that is known of the fleet: nodes and engines ([`table`]), what requests read of them ([`roster`]), who holds which blocks
//! ([`index`], written through each engine's [`log`]).

pub mod engine;
pub mod index;
pub mod log;
pub mod roster;
pub mod table;

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use arc_swap::{ArcSwap, Guard};
use domain::node::NodeIdentity;
use domain::{EngineId, NodeId, ReplicaId};

use index::Index;
use log::Log;
use roster::Roster;
use table::{Changes, Refused, Session, Table};

pub struct Fleet {
    pub replica: ReplicaId,
    table: Mutex<Table>,
    roster: ArcSwap<Roster>,
    pub index: Index,
    next_stream: AtomicU64,
}

/// How much of the fleet is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Learned {
    /// Nodes with a stream.
    pub connected: usize,
    /// Of these, nodes whose engines and blocks are all known.
    pub learned: usize,
    pub engines: usize,
    pub blocks: u64,
}

impl Learned {
    pub fn is_all(&self) -> bool {
        self.connected > 0 && self.learned == self.connected
    }
}

impl Fleet {
    pub fn new(replica: ReplicaId) -> Self {
        Self {
            table: Mutex::new(Table::new(replica.clone())),
            replica,
            roster: ArcSwap::default(),
            index: Index::default(),
            next_stream: AtomicU64::new(1),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A number for a new stream, higher than all before.
    pub fn next_stream(&self) -> u64 {
        self.next_stream.fetch_add(1, Ordering::Relaxed)
    }

    /// See [`Table::connect`].
    pub fn connect(&self, identity: NodeIdentity, session: Session, now: Instant) -> Result<(), Refused> {
        self.lock().connect(identity, session, now)
    }

    /// See [`Table::report`]. When it returns, no later decision routes by what was known before.
    pub fn report(&self, node: &NodeId, session: Session, changes: Changes, now: Instant) -> Result<(), Refused> {
        let mut table = self.lock();
        if table.report(node, session, changes, now)? {
            // Under the table's lock, so that a later roster is never replaced by an earlier one.
            self.roster.store(Arc::new(table.roster()));
        }
        Ok(())
    }

    /// See [`Table::heard`].
    pub fn heard(&self, node: &NodeId, session: Session, now: Instant) -> Result<(), Refused> {
        self.lock().heard(node, session, now)
    }

    /// See [`Table::disconnect`].
    pub fn disconnect(&self, node: &NodeId, session: Session, leaving: bool) {
        self.lock().disconnect(node, session, leaving);
    }

    /// See [`Table::age`].
    pub fn age(&self, now: Instant) {
        let mut table = self.lock();
        if table.age(now) {
            self.roster.store(Arc::new(table.roster()));
        }
    }

    /// See [`Table::log`].
    pub fn log(&self, id: &EngineId) -> Option<Arc<Log>> {
        self.lock().log(id)
    }

    pub fn roster(&self) -> Guard<Arc<Roster>> {
        self.roster.load()
    }

    /// Whether a State stream of the node was ever seen.
    pub fn knows(&self, node: &NodeId) -> bool {
        self.lock().knows(node)
    }

    /// Reads the table under its lock: for status pages, not for requests.
    pub fn with_nodes<R>(&self, read: impl FnOnce(&mut dyn Iterator<Item = &table::Node>) -> R) -> R {
        read(&mut self.lock().nodes())
    }

    pub fn learned(&self, now: Instant) -> Learned {
        let table = self.lock();
        let mut seen = Learned { connected: 0, learned: 0, engines: 0, blocks: 0 };
        for node in table.nodes().filter(|node| node.session.is_some()) {
            seen.connected += 1;
            seen.learned += usize::from(node.learned(now));
            seen.engines += node.engines.len();
            seen.blocks += node.engines.values().map(|engine| engine.log.blocks()).sum::<u64>();
        }
        seen
    }
}
