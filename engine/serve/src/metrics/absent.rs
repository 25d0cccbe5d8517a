//! Metrics of vLLM for what this engine does not have. They stand at 0 and say so, because dashboards divide by them.

use prometheus::IntCounter;

use super::Maker;

/// Held so that they stay registered, and are named in one place.
pub struct Absent {
    _mm_queries: IntCounter,
    _mm_hits: IntCounter,
}

impl Absent {
    pub fn new(make: &Maker<'_>) -> Self {
        Self {
            _mm_queries: make.counter("mm_cache_queries", "Always 0: this engine has no multimodal cache."),
            _mm_hits: make.counter("mm_cache_hits", "Always 0: this engine has no multimodal cache."),
        }
    }
}
