//! `vllm:kv_block_*`: how long blocks of the KV cache stay. Registered where they are followed (`--kv-cache-metrics`).

use engine::kv::residency::Eviction;
use prometheus::Histogram;

use super::{Maker, buckets};

pub struct Residency {
    lifetime: Histogram,
    idle: Histogram,
    gap: Histogram,
}

impl Residency {
    pub fn new(make: &Maker<'_>) -> Self {
        let histogram = |name, help| make.histogram(name, help, buckets::RESIDENCY);
        Self {
            lifetime: histogram("kv_block_lifetime_seconds", "From a KV block's allocation to its eviction; sampled."),
            idle: histogram("kv_block_idle_before_evict_seconds", "From a KV block's last use to its eviction; sampled."),
            gap: histogram("kv_block_reuse_gap_seconds", "Between two finds of a KV block, of its last four; sampled."),
        }
    }

    pub fn evicted(&self, eviction: &Eviction) {
        self.lifetime.observe(eviction.lifetime.as_secs_f64());
        self.idle.observe(eviction.idle.as_secs_f64());
        eviction.gaps.iter().for_each(|gap| self.gap.observe(gap.as_secs_f64()));
    }
}
