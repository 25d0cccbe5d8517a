//! What metrics were called until 2025; dashboards of that time still ask for these names.

use prometheus::{Histogram, IntCounter};

use super::{Maker, buckets};

pub struct Old {
    prefix_queries: IntCounter,
    prefix_hits: IntCounter,
    pub time_per_output_token: Histogram,
}

impl Old {
    pub fn new(make: &Maker<'_>) -> Self {
        Self {
            prefix_queries: make.counter("gpu_prefix_cache_queries", "The old name of prefix_cache_queries."),
            prefix_hits: make.counter("gpu_prefix_cache_hits", "The old name of prefix_cache_hits."),
            time_per_output_token: make.histogram(
                "time_per_output_token_seconds",
                "The old name of inter_token_latency_seconds.",
                buckets::PER_TOKEN,
            ),
        }
    }

    pub fn looked_up(&self, queries: u32, hits: u32) {
        self.prefix_queries.inc_by(queries.into());
        self.prefix_hits.inc_by(hits.into());
    }
}
