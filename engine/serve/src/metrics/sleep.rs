//! Whether the engine sleeps, by vLLM's words.

use engine::observe::Stats;
use prometheus::{IntGauge, IntGaugeVec};

use super::Maker;

/// `vllm:engine_sleep_state`, by level.
pub struct Sleep([IntGauge; 3]);

impl Sleep {
    pub fn new(make: &Maker<'_>) -> Self {
        let opts = make.opts("engine_sleep_state", "1 at the state that the engine is in.");
        let states = make.held(IntGaugeVec::new(opts, &["sleep_state"]));
        let gauges = ["awake", "weights_offloaded", "discard_all"].map(|state| states.with_label_values(&[state]));
        gauges[0].set(1);
        Self(gauges)
    }

    pub fn read(&self, stats: &Stats) {
        for (level, gauge) in (0..).zip(&self.0) {
            gauge.set((stats.sleep_level == level).into());
        }
    }
}
