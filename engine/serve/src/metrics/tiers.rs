//! The tiers of the KV cache: where cached prompt tokens came from, what lies where, and what was given up.

use engine::observe::{AdmittedReport, Stats};
use prometheus::{IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts};

use super::Maker;

pub struct Tiers {
    /// `vllm:prompt_tokens_cached_by_source_total`.
    device: IntCounter,
    host: IntCounter,
    disk: IntCounter,
    p2p: IntCounter,
    external_queries: IntCounter,
    external_hits: IntCounter,
    host_blocks: IntGauge,
    disk_blocks: IntGauge,
    disk_failed: IntGauge,
    /// Counted by the engine; the scrape adds what is new.
    moved: [IntCounter; 4],
    given_up: [IntCounter; 4],
}

impl Tiers {
    pub fn new(make: &Maker<'_>) -> Self {
        let [device, host, disk, p2p, _unspecified] = make.counters(
            "prompt_tokens_cached_by_source",
            "Prompt tokens that were not computed, by the tier that held them.",
            "source",
            ["device", "host", "disk", "p2p", "external_unspecified"],
        );
        let own = |name: &str, help: &str, label: &str| {
            make.held(IntCounterVec::new(Opts::new(format!("trackside_{name}_total"), help), &[label]))
        };
        let moves = own("kv_tier_blocks_moved", "KV blocks copied between tiers.", "move");
        let given_up = own("kv_tier_given_up", "What the lower tiers could not do; the prompt was computed instead.", "reason");
        let blocks = Opts::new("trackside_kv_tier_blocks", "KV blocks that a lower tier holds.");
        let blocks = make.held(IntGaugeVec::new(blocks, &["tier"]));
        let failed = "1 after the disk tier failed and was switched off.";
        Self {
            device,
            host,
            disk,
            p2p,
            external_queries: make.counter("external_prefix_cache_queries", "Prompt tokens looked up below the device."),
            external_hits: make.counter("external_prefix_cache_hits", "Prompt tokens that came back from below the device."),
            host_blocks: blocks.with_label_values(&["host"]),
            disk_blocks: blocks.with_label_values(&["disk"]),
            disk_failed: make.held(IntGauge::new("trackside_kv_disk_failed", failed)),
            moved: ["device_to_host", "host_to_device", "host_to_disk", "disk_to_device"]
                .map(|value| moves.with_label_values(&[value])),
            given_up: ["disk_queue_full", "disk_damaged", "late", "revoked"].map(|value| given_up.with_label_values(&[value])),
        }
    }

    pub fn admitted(&self, report: &AdmittedReport) {
        let AdmittedReport { prompt_tokens, cached_tokens, host_tokens, disk_tokens, remote_tokens, .. } = *report;
        let device = cached_tokens.saturating_sub(host_tokens + disk_tokens);
        self.device.inc_by(device.into());
        self.host.inc_by(host_tokens.into());
        self.disk.inc_by(disk_tokens.into());
        self.p2p.inc_by(remote_tokens.into());
        self.external_queries.inc_by(prompt_tokens.saturating_sub(device).into());
        self.external_hits.inc_by((host_tokens + disk_tokens + remote_tokens).into());
    }

    pub fn read(&self, stats: &Stats) {
        let counts = stats.tiers;
        self.host_blocks.set(stats.host_blocks as i64);
        self.disk_blocks.set(stats.disk_blocks as i64);
        self.disk_failed.set(stats.disk_failed.into());
        let raise = |counter: &IntCounter, count: u64| counter.inc_by(count.saturating_sub(counter.get()));
        let moved = [counts.host_saved, counts.host_loaded, counts.disk_written, counts.disk_read];
        self.moved.iter().zip(moved).for_each(|(counter, count)| raise(counter, count));
        let given_up = [counts.disk_dropped, counts.disk_lost, counts.restores_late, counts.restores_revoked];
        self.given_up.iter().zip(given_up).for_each(|(counter, count)| raise(counter, count));
    }
}
