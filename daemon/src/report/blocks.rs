//! What an engine's KV cache holds, as a set and as a log: the set answers a scheduler that comes new, the log one that keeps up.
//!
//! The log is bounded and kept once for all schedulers; each stream has a [`Reader`], a place in it. A reader that falls out of the
//! log at its old end gets the set again. So a slow scheduler costs the agent nothing and others nothing.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use domain::{BlockKey, EngineName, Incarnation};
use tokio::sync::watch;

use crate::attach::event::Tier;
use crate::attach::rehash::Change;

/// Keys in the log of one engine, at most: 2 MB. A cleared cache counts as one.
pub const LOG_KEYS_MAX: usize = 256 << 10;
/// Keys of one entry of the log, at most.
const ENTRY_KEYS_MAX: usize = 4096;

/// The partition of the scheduler's index that an engine's keys belong to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Partition {
    pub incarnation: Incarnation,
    /// Base model by the name its engine serves it under.
    pub model: Arc<str>,
    pub block_tokens: u32,
}

#[derive(Debug, Default)]
struct Inner {
    /// Moves whenever the set starts anew.
    epoch: u64,
    partition: Option<Partition>,
    /// How many of the engine's blocks have this key, per tier.
    held: HashMap<BlockKey, [u32; Tier::ALL.len()]>,
    log: VecDeque<Change>,
    log_keys: usize,
    /// Number of the oldest entry of the log.
    oldest: u64,
}

/// The blocks of one engine.
#[derive(Debug)]
pub struct BlockLog {
    pub engine: EngineName,
    log_keys_max: usize,
    inner: Mutex<Inner>,
    changed: Arc<watch::Sender<u64>>,
}

/// One stream's place in one engine's log.
#[derive(Debug, Default)]
pub struct Reader {
    epoch: u64,
    next: u64,
    sequence: u64,
    /// What is left of the snapshot being sent.
    snapshot: Option<Vec<(Tier, Vec<BlockKey>)>>,
    begun: bool,
}

/// One message of a Blocks stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    pub partition: Partition,
    pub sequence: u64,
    pub snapshot_begin: bool,
    pub snapshot_end: bool,
    pub events: Vec<Change>,
}

/// What a reader gets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Read {
    Message(Message),
    /// Nothing new.
    UpToDate,
    /// A snapshot is due, and more credit is needed for its next chunk.
    NeedsCredit,
}

impl Reader {
    /// Whether chunks of a snapshot are still to come.
    pub fn in_snapshot(&self) -> bool {
        self.snapshot.is_some()
    }

    /// Sends the whole set again, as the scheduler asked.
    pub fn resync(&mut self) {
        let sequence = self.sequence;
        *self = Self { sequence, ..Self::default() };
    }
}

impl BlockLog {
    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wake(&self) {
        self.changed.send_modify(|count| *count += 1);
    }

    /// Starts the set anew for an engine's life.
    pub fn begin(&self, partition: Partition) {
        let mut inner = self.inner();
        let epoch = inner.epoch + 1;
        *inner = Inner { epoch, partition: Some(partition), ..Inner::default() };
        drop(inner);
        self.wake();
    }

    /// The engine is gone, and its blocks with it.
    pub fn clear(&self) {
        let mut inner = self.inner();
        let (epoch, partition) = (inner.epoch + 1, inner.partition.take());
        *inner = Inner { epoch, partition, ..Inner::default() };
        drop(inner);
        self.wake();
    }

    pub fn apply(&self, changes: Vec<Change>) {
        let mut inner = self.inner();
        let mut any = false;
        for change in changes {
            any |= inner.apply(change, self.log_keys_max);
        }
        drop(inner);
        if any {
            self.wake();
        }
    }

    /// Distinct keys held in any tier.
    pub fn len(&self) -> usize {
        self.inner().held.len()
    }

    pub fn is_empty(&self) -> bool {
        self.inner().held.is_empty()
    }

    /// The next message for a reader, with at most `live_keys` keys of the log or `snapshot_keys` of the set.
    /// `overran` is set when the reader had fallen out of the log.
    pub fn read(&self, reader: &mut Reader, live_keys: usize, snapshot_keys: usize, overran: &mut bool) -> Read {
        let inner = self.inner();
        let Some(partition) = inner.partition.clone() else { return Read::UpToDate };
        let fell_out = reader.epoch == inner.epoch && reader.next < inner.oldest;
        *overran = fell_out;
        if reader.epoch != inner.epoch || fell_out {
            reader.epoch = inner.epoch;
            reader.next = inner.oldest + inner.log.len() as u64;
            reader.snapshot = Some(inner.snapshot());
            reader.begun = false;
        }
        let mut message =
            Message { partition, sequence: reader.sequence, snapshot_begin: false, snapshot_end: false, events: Vec::new() };
        if let Some(left) = &mut reader.snapshot {
            if snapshot_keys == 0 {
                return Read::NeedsCredit;
            }
            message.snapshot_begin = !reader.begun;
            reader.begun = true;
            let mut room = snapshot_keys;
            while room > 0
                && let Some((tier, keys)) = left.last_mut()
            {
                let chunk = keys.split_off(keys.len().saturating_sub(room));
                room -= chunk.len();
                message.events.push(Change::Stored { keys: chunk, tier: *tier });
                if keys.is_empty() {
                    left.pop();
                }
            }
            if left.is_empty() {
                reader.snapshot = None;
                message.snapshot_end = true;
            }
        } else {
            let mut room = live_keys;
            for change in inner.log.iter().skip((reader.next - inner.oldest) as usize) {
                let keys = change.keys();
                if keys > room && !message.events.is_empty() {
                    break;
                }
                room = room.saturating_sub(keys);
                message.events.push(change.clone());
                reader.next += 1;
            }
            if message.events.is_empty() {
                return Read::UpToDate;
            }
        }
        reader.sequence += 1;
        Read::Message(message)
    }
}

impl Inner {
    fn snapshot(&self) -> Vec<(Tier, Vec<BlockKey>)> {
        let of = |tier: Tier| {
            let keys = self.held.iter().filter(|(_, counts)| counts[tier as usize] > 0).map(|(key, _)| *key);
            (tier, keys.collect::<Vec<_>>())
        };
        Tier::ALL.into_iter().map(of).filter(|(_, keys)| !keys.is_empty()).collect()
    }

    /// Whether the set changed.
    fn apply(&mut self, change: Change, log_keys_max: usize) -> bool {
        let change = match change {
            Change::Stored { mut keys, tier } => {
                keys.retain(|key| {
                    let count = &mut self.held.entry(*key).or_default()[tier as usize];
                    *count += 1;
                    *count == 1
                });
                Change::Stored { keys, tier }
            }
            Change::Removed { mut keys, tier } => {
                keys.retain(|key| {
                    let Some(counts) = self.held.get_mut(key) else { return false };
                    let count = &mut counts[tier as usize];
                    let gone = *count == 1;
                    *count = count.saturating_sub(1);
                    if counts.iter().all(|count| *count == 0) {
                        self.held.remove(key);
                    }
                    gone
                });
                Change::Removed { keys, tier }
            }
            Change::Cleared => {
                self.held.clear();
                Change::Cleared
            }
        };
        if change.keys() == 0 {
            return false;
        }
        self.log_keys += change.keys();
        match change {
            // No entry is longer than a message may be.
            Change::Stored { keys, tier } => {
                let parts = keys.chunks(ENTRY_KEYS_MAX).map(|part| Change::Stored { keys: part.to_vec(), tier });
                self.log.extend(parts);
            }
            Change::Removed { keys, tier } => {
                let parts = keys.chunks(ENTRY_KEYS_MAX).map(|part| Change::Removed { keys: part.to_vec(), tier });
                self.log.extend(parts);
            }
            Change::Cleared => self.log.push_back(Change::Cleared),
        }
        while self.log_keys > log_keys_max
            && let Some(oldest) = self.log.pop_front()
        {
            self.log_keys -= oldest.keys();
            self.oldest += 1;
        }
        true
    }
}

impl Change {
    /// What it takes of a bound on keys.
    fn keys(&self) -> usize {
        match self {
            Self::Stored { keys, .. } | Self::Removed { keys, .. } => keys.len(),
            Self::Cleared => 1,
        }
    }
}

/// The block logs of all engines of the node.
#[derive(Clone, Debug)]
pub struct Blocks {
    logs: BTreeMap<EngineName, Arc<BlockLog>>,
    changed: Arc<watch::Sender<u64>>,
}

impl Blocks {
    pub fn new(engines: impl IntoIterator<Item = EngineName>) -> Self {
        Self::with_log_keys_max(engines, LOG_KEYS_MAX)
    }

    /// With another bound on each engine's log.
    pub fn with_log_keys_max(engines: impl IntoIterator<Item = EngineName>, log_keys_max: usize) -> Self {
        let changed = Arc::new(watch::Sender::new(0));
        let log = |engine: EngineName| {
            let changed = changed.clone();
            (engine.clone(), Arc::new(BlockLog { engine, log_keys_max, inner: Mutex::default(), changed }))
        };
        Self { logs: engines.into_iter().map(log).collect(), changed: changed.clone() }
    }

    pub fn logs(&self) -> impl Iterator<Item = &Arc<BlockLog>> {
        self.logs.values()
    }

    pub fn get(&self, engine: &EngineName) -> Option<&Arc<BlockLog>> {
        self.logs.get(engine)
    }

    /// Notified of every change of any engine's blocks.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }
}
