//! Whether the engine sleeps, by vLLM's words, and how long it takes to.

use std::time::Instant;

use engine::observe::Stats;
use prometheus::{Histogram, HistogramOpts, HistogramVec, IntGauge, IntGaugeVec};

use super::Maker;

/// vLLM's buckets for operations on memory.
const SECONDS: [f64; 9] = [0.01, 0.1, 1.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0];

/// `vllm:sleep_mode_operation*`: registered where the engine can be sent to sleep.
pub struct Operations {
    pub sleep: Operation,
    pub wake: Operation,
}

/// One kind of operation.
#[derive(Clone)]
pub struct Operation {
    in_flight: IntGauge,
    seconds: Histogram,
}

/// One that is awaited, until it is dropped.
pub struct Operating {
    operation: Operation,
    began: Instant,
}

impl Operations {
    pub fn new(make: &Maker<'_>) -> Self {
        let opts = make.bare("sleep_mode_operations_in_flight", "Sleeps and awakenings that are awaited.");
        let in_flight = make.held(IntGaugeVec::new(opts, &["operation"]));
        let opts = make.bare("sleep_mode_operation_duration_seconds", "How long a sleep or an awakening took.");
        let opts = HistogramOpts { common_opts: opts, buckets: SECONDS.to_vec() };
        let seconds = make.held(HistogramVec::new(opts, &["operation"]));
        let operation = |name: &str| Operation {
            in_flight: in_flight.with_label_values(&[name]),
            seconds: seconds.with_label_values(&[name]),
        };
        Self { sleep: operation("sleep"), wake: operation("wake") }
    }
}

impl Operation {
    pub fn begin(&self) -> Operating {
        self.in_flight.inc();
        Operating { operation: self.clone(), began: Instant::now() }
    }
}

impl Drop for Operating {
    fn drop(&mut self) {
        self.operation.in_flight.dec();
        self.operation.seconds.observe(self.began.elapsed().as_secs_f64());
    }
}

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
