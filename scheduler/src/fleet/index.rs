//! The KV index: which engines hold which blocks, exactly as their event logs say.
//!
//! One [`Partition`] per (base model, block size). A block has any number of holders and none is aged out: what a lookup finds is what a
//! naive replay of the logs would find (`tests/index.rs` compares the two). An engine occupies a [`Seat`]; when it dies or its log is
//! lost the seat is vacated in constant time, because holders whose seat is vacant are not found, and their entries are swept out
//! later, a shard at a time. A held block costs about 30 bytes, and 8 more for each further holder.

use std::collections::HashMap;
use std::collections::hash_map::{Entry, RandomState};
use std::hash::{BuildHasher, Hasher};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use domain::BlockKey;

/// Partitions of one fleet; a model of one block size takes one.
pub const PARTITIONS_MAX: usize = 256;
/// Blocks held in one partition, counted once per key.
pub const BLOCKS_MAX: u64 = 1 << 27;
/// Keys written before waiting lookups get their turn.
const QUANTUM_KEYS: usize = 256;
/// Sweeping goes shard by shard, so that no lookup waits for a pass over all keys. A power of two.
const SHARDS: usize = 64;

/// Where a block lies, as a bit: an engine may hold one block on several tiers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tier(u8);

impl Tier {
    pub const GPU: Self = Self(1);
    pub const CPU: Self = Self(2);
    pub const DISK: Self = Self(4);
    /// Any medium that has no name here yet: a block there is still a block.
    pub const OTHER: Self = Self(8);

    /// By vLLM's media names; an empty name is "gpu", as llm-d's router reads it.
    pub fn named(medium: &str) -> Self {
        match medium {
            "gpu" | "GPU" | "" => Self::GPU,
            "cpu" | "CPU" => Self::CPU,
            "disk" | "DISK" => Self::DISK,
            _ => Self::OTHER,
        }
    }
}

/// One life of one engine's log in a partition. Never used twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Seat(u32);

/// Leading blocks of a prompt that the engine in this seat holds without a hole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Match {
    pub seat: Seat,
    pub blocks: u32,
}

#[derive(Clone, Copy, Debug)]
struct Holder {
    seat: Seat,
    tiers: u8,
}

/// Nearly every block has one holder, so one lies in place. Sorted by seat.
enum Holders {
    One(Holder),
    Many(Box<[Holder]>),
}

const _: () = assert!(size_of::<Holders>() == 16, "an entry of the index grew");

impl Holders {
    fn as_slice(&self) -> &[Holder] {
        match self {
            Self::One(holder) => std::slice::from_ref(holder),
            Self::Many(holders) => holders,
        }
    }

    fn as_mut_slice(&mut self) -> &mut [Holder] {
        match self {
            Self::One(holder) => std::slice::from_mut(holder),
            Self::Many(holders) => holders,
        }
    }

    /// `None` when nobody is left.
    fn from_vec(holders: Vec<Holder>) -> Option<Self> {
        match holders[..] {
            [] => None,
            [holder] => Some(Self::One(holder)),
            _ => Some(Self::Many(holders.into_boxed_slice())),
        }
    }
}

/// Keys are hashes already, but a hostile node may choose them: one multiplication by a secret keeps it from filling one bucket.
#[derive(Clone)]
struct KeyHash(u64);

struct KeyHasher(u64);

impl BuildHasher for KeyHash {
    type Hasher = KeyHasher;

    fn build_hasher(&self) -> KeyHasher {
        KeyHasher(self.0)
    }
}

impl Hasher for KeyHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.write_u64(u64::from(*byte));
        }
    }

    fn write_u64(&mut self, key: u64) {
        let product = u128::from(key ^ self.0) * u128::from(self.0 | 1);
        self.0 = (product as u64) ^ ((product >> 64) as u64);
    }
}

type Shard = HashMap<BlockKey, Holders, KeyHash>;

struct Inner {
    shards: Vec<Shard>,
    /// Occupied seats with the number of keys each holds.
    occupied: HashMap<Seat, u64>,
    next_seat: u32,
    keys: u64,
    /// Shards still to be swept, counted from the end; zero when no entry has a vacant seat.
    sweep_left: usize,
}

/// All blocks of one (base model, block size).
pub struct Partition {
    inner: RwLock<Inner>,
}

impl Default for Partition {
    fn default() -> Self {
        let hash = KeyHash(RandomState::new().hash_one(0u64) | 1);
        let shards = (0..SHARDS).map(|_| Shard::with_hasher(hash.clone())).collect();
        Self { inner: RwLock::new(Inner { shards, occupied: HashMap::new(), next_seat: 0, keys: 0, sweep_left: 0 }) }
    }
}

impl Partition {
    fn read(&self) -> RwLockReadGuard<'_, Inner> {
        self.inner.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Inner> {
        self.inner.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// A seat of its own, holding nothing.
    pub fn occupy(&self) -> Seat {
        let mut inner = self.write();
        let seat = Seat(inner.next_seat);
        inner.next_seat += 1;
        inner.occupied.insert(seat, 0);
        seat
    }

    /// Forgets all that the seat held, at once and for good.
    pub fn vacate(&self, seat: Seat) {
        let mut inner = self.write();
        if inner.occupied.remove(&seat).is_some_and(|held| held > 0) {
            inner.sweep_left = SHARDS;
        }
    }

    /// Adds blocks to what the seat holds. Returns how many were dropped: those beyond [`BLOCKS_MAX`], all of them if the seat is vacant.
    pub fn store(&self, seat: Seat, keys: &[BlockKey], tier: Tier) -> usize {
        let mut dropped = 0;
        for quantum in keys.chunks(QUANTUM_KEYS) {
            let mut inner = self.write();
            dropped += inner.store(seat, quantum, tier);
            inner.sweep();
        }
        dropped
    }

    /// Takes blocks away on one tier; what the seat does not hold is no error, as in a replay.
    pub fn remove(&self, seat: Seat, keys: &[BlockKey], tier: Tier) {
        for quantum in keys.chunks(QUANTUM_KEYS) {
            let mut inner = self.write();
            inner.remove(seat, quantum, tier);
            inner.sweep();
        }
    }

    /// Sweeps one shard; false when there is nothing to sweep. Writes do the same in passing.
    pub fn sweep(&self) -> bool {
        if self.read().sweep_left == 0 {
            return false;
        }
        self.write().sweep();
        true
    }

    /// The leading blocks of a chain that each engine holds, by seat. `keys` are asked for only as far as somebody holds them.
    pub fn lookup(&self, keys: impl IntoIterator<Item = BlockKey>) -> Vec<Match> {
        let inner = self.read();
        let mut matches = Vec::new();
        let mut active: Vec<Seat> = Vec::new();
        let mut depth = 0;
        for key in keys {
            let holders = inner.shards[shard(key)].get(&key).map_or(&[][..], Holders::as_slice);
            if depth == 0 {
                active.extend(holders.iter().map(|holder| holder.seat).filter(|seat| inner.occupied.contains_key(seat)));
            } else {
                let mut rest = holders.iter().peekable();
                active.retain(|&seat| {
                    while rest.next_if(|holder| holder.seat < seat).is_some() {}
                    let holds = rest.peek().is_some_and(|holder| holder.seat == seat);
                    if !holds {
                        matches.push(Match { seat, blocks: depth });
                    }
                    holds
                });
            }
            if active.is_empty() {
                break;
            }
            depth += 1;
        }
        matches.extend(active.into_iter().map(|seat| Match { seat, blocks: depth }));
        matches.sort_unstable_by_key(|found| found.seat);
        matches
    }

    /// Blocks the seat holds on any tier; zero for a vacant one.
    pub fn held(&self, seat: Seat) -> u64 {
        self.read().occupied.get(&seat).copied().unwrap_or(0)
    }

    /// Sum of [`Self::held`] over all seats.
    pub fn held_by_all(&self) -> u64 {
        self.read().occupied.values().sum()
    }

    fn is_deserted(&self) -> bool {
        self.read().occupied.is_empty()
    }
}

fn shard(key: BlockKey) -> usize {
    (key.0 >> 32) as usize % SHARDS
}

impl Inner {
    fn store(&mut self, seat: Seat, keys: &[BlockKey], tier: Tier) -> usize {
        let Some(held) = self.occupied.get_mut(&seat) else { return keys.len() };
        let mut dropped = 0;
        for &key in keys {
            match self.shards[shard(key)].entry(key) {
                Entry::Vacant(_) if self.keys >= BLOCKS_MAX => dropped += 1,
                Entry::Vacant(entry) => {
                    entry.insert(Holders::One(Holder { seat, tiers: tier.0 }));
                    self.keys += 1;
                    *held += 1;
                }
                Entry::Occupied(mut entry) => {
                    let holders = entry.get_mut();
                    match holders.as_slice().binary_search_by_key(&seat, |holder| holder.seat) {
                        Ok(at) => holders.as_mut_slice()[at].tiers |= tier.0,
                        Err(at) => {
                            let mut all = holders.as_slice().to_vec();
                            all.insert(at, Holder { seat, tiers: tier.0 });
                            *holders = Holders::Many(all.into_boxed_slice());
                            *held += 1;
                        }
                    }
                }
            }
        }
        dropped
    }

    fn remove(&mut self, seat: Seat, keys: &[BlockKey], tier: Tier) {
        let Some(held) = self.occupied.get_mut(&seat) else { return };
        for &key in keys {
            let Entry::Occupied(mut entry) = self.shards[shard(key)].entry(key) else { continue };
            let holders = entry.get_mut();
            let Ok(at) = holders.as_slice().binary_search_by_key(&seat, |holder| holder.seat) else { continue };
            let holder = &mut holders.as_mut_slice()[at];
            // A block leaves once: the second report of one removal must not be counted again.
            holder.tiers &= !tier.0;
            if holder.tiers != 0 {
                continue;
            }
            *held -= 1;
            let mut rest = holders.as_slice().to_vec();
            rest.remove(at);
            match Holders::from_vec(rest) {
                Some(rest) => *holders = rest,
                None => {
                    entry.remove();
                    self.keys -= 1;
                }
            }
        }
    }

    fn sweep(&mut self) {
        let Some(left) = self.sweep_left.checked_sub(1) else { return };
        self.sweep_left = left;
        let occupied = &self.occupied;
        let shard = &mut self.shards[left];
        let before = shard.len();
        shard.retain(|_, holders| {
            if holders.as_slice().iter().all(|holder| occupied.contains_key(&holder.seat)) {
                return true;
            }
            let rest = holders.as_slice().iter().filter(|holder| occupied.contains_key(&holder.seat)).copied().collect();
            Holders::from_vec(rest).map(|rest| *holders = rest).is_some()
        });
        self.keys -= (before - shard.len()) as u64;
        if shard.capacity() > 4 * shard.len() + 64 {
            shard.shrink_to_fit();
        }
    }
}

/// What two blocks must share to be comparable.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PartitionKey {
    pub base: Arc<str>,
    pub block_tokens: usize,
}

/// All partitions.
#[derive(Default)]
pub struct Index {
    partitions: RwLock<HashMap<PartitionKey, Arc<Partition>>>,
}

/// [`PARTITIONS_MAX`] partitions are in use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the index has {PARTITIONS_MAX} partitions in use, one for each model and block size, and takes no further one")]
pub struct TooManyPartitions;

impl Index {
    /// The partition of a key, made when it is new.
    pub fn partition(&self, key: &PartitionKey) -> Result<Arc<Partition>, TooManyPartitions> {
        if let Some(partition) = self.partitions.read().unwrap_or_else(PoisonError::into_inner).get(key) {
            return Ok(partition.clone());
        }
        let mut partitions = self.partitions.write().unwrap_or_else(PoisonError::into_inner);
        if partitions.len() >= PARTITIONS_MAX {
            partitions.retain(|_, partition| !partition.is_deserted() || Arc::strong_count(partition) > 1);
        }
        if partitions.len() >= PARTITIONS_MAX && !partitions.contains_key(key) {
            return Err(TooManyPartitions);
        }
        Ok(partitions.entry(key.clone()).or_default().clone())
    }

    /// Every partition, for metrics and for sweeping.
    pub fn partitions(&self) -> Vec<(PartitionKey, Arc<Partition>)> {
        let partitions = self.partitions.read().unwrap_or_else(PoisonError::into_inner);
        partitions.iter().map(|(key, partition)| (key.clone(), partition.clone())).collect()
    }
}
