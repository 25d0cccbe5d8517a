//! How long blocks stay on the device: of a sample of them, when they were taken, found again by later prompts, and given up for others.
//! vLLM 0.33's `--kv-cache-metrics` (`v1/core/kv_cache_metrics.py`).

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use crate::backend::BlockId;

/// Of one block's finds, the last that are remembered.
const FINDS_MAX: usize = 4;
/// A sample is one in so many: parts per million.
const MILLION: u32 = 1_000_000;

/// A block that was given up with what it held.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Eviction {
    /// Since it was taken.
    pub lifetime: Duration,
    /// Since it was last taken or found.
    pub idle: Duration,
    /// From one find to the next.
    pub gaps: Vec<Duration>,
}

#[derive(Debug)]
pub struct Residency {
    sample_ppm: u32,
    /// State of a Xorshift generator.
    random: u64,
    /// By block, where it is one of the sample.
    stays: Vec<Option<Stay>>,
    /// Since they were last asked for.
    evictions: Vec<Eviction>,
    /// The time of this step.
    now: Instant,
}

#[derive(Debug)]
struct Stay {
    taken: Instant,
    touched: Instant,
    finds: VecDeque<Instant>,
}

impl Residency {
    /// Follows `sample_ppm` of a million of all stays on `blocks` blocks.
    pub fn new(blocks: usize, sample_ppm: u32, now: Instant) -> Self {
        let stays = std::iter::repeat_with(|| None).take(blocks).collect();
        Self { sample_ppm, random: 0x9e37_79b9_7f4a_7c15, stays, evictions: Vec::new(), now }
    }

    pub fn tick(&mut self, now: Instant) {
        self.now = now;
    }

    pub fn taken(&mut self, block: BlockId) {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        let followed = self.random % u64::from(MILLION) < u64::from(self.sample_ppm);
        self.stays[block.0 as usize] =
            followed.then(|| Stay { taken: self.now, touched: self.now, finds: VecDeque::with_capacity(FINDS_MAX) });
    }

    pub fn found(&mut self, block: BlockId) {
        if let Some(stay) = &mut self.stays[block.0 as usize] {
            stay.touched = self.now;
            if stay.finds.len() == FINDS_MAX {
                stay.finds.pop_front();
            }
            stay.finds.push_back(self.now);
        }
    }

    pub fn evicted(&mut self, block: BlockId) {
        let Some(Stay { taken, touched, finds }) = self.stays[block.0 as usize].take() else { return };
        let since = |then: Instant| self.now.saturating_duration_since(then);
        let gaps = finds.iter().zip(finds.iter().skip(1)).map(|(one, next)| next.saturating_duration_since(*one)).collect();
        self.evictions.push(Eviction { lifetime: since(taken), idle: since(touched), gaps });
    }

    /// Nothing is known of any block any more.
    pub fn clear(&mut self) {
        self.stays.fill_with(|| None);
    }

    /// What was given up since the last call.
    pub fn drain(&mut self, evictions: &mut Vec<Eviction>) {
        evictions.append(&mut self.evictions);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stay_is_told_when_it_ends() {
        let start = Instant::now();
        let at = |s: u64| start + Duration::from_secs(s);
        let mut residency = Residency::new(2, MILLION, start);
        residency.taken(BlockId(0));
        residency.taken(BlockId(1));
        for s in [2, 3, 5, 9, 14] {
            residency.tick(at(s));
            residency.found(BlockId(0));
        }
        residency.tick(at(20));
        residency.evicted(BlockId(0));
        residency.evicted(BlockId(0));
        residency.clear();
        residency.evicted(BlockId(1));
        let mut evictions = Vec::new();
        residency.drain(&mut evictions);
        residency.drain(&mut evictions);
        let seconds = Duration::from_secs;
        // The first find is forgotten by the fifth.
        let gaps = vec![seconds(2), seconds(4), seconds(5)];
        assert_eq!(evictions, [Eviction { lifetime: seconds(20), idle: seconds(6), gaps }]);
    }

    #[test]
    fn a_sample_is_as_large_as_it_is_told() {
        let mut residency = Residency::new(1, 100_000, Instant::now());
        for _ in 0..10_000 {
            residency.taken(BlockId(0));
            residency.evicted(BlockId(0));
        }
        let followed = residency.evictions.len();
        assert!((800..1200).contains(&followed), "{followed} of 10,000 at one in ten");
    }
}
