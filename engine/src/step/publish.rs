//! What a step shows the world: admissions, statistics, events, the report.

use std::time::Instant;

use super::Engine;
use crate::observe::AdmittedReport;
use crate::request::{FinishReason, Output};

impl Engine {
    /// Tells requests that they were admitted, and counts it.
    pub(super) fn greet(&mut self, now: Instant) {
        for &key in &self.plan.admitted {
            let sequence = self.schedule.table.get_mut(key);
            let (prompt_tokens, cached_tokens) = (sequence.progress.prompt, sequence.cached_tokens);
            sequence.admitted = Some(now);
            self.departed.requests += 1;
            self.departed.prompt_tokens += prompt_tokens as usize;
            self.stats.prompt_tokens += u64::from(prompt_tokens);
            self.report.admitted.push(AdmittedReport {
                request: sequence.id,
                prompt_tokens,
                cached_tokens,
                host_tokens: sequence.host_tokens,
                disk_tokens: sequence.disk_tokens,
                remote_tokens: sequence.remote_tokens,
                queue: now.saturating_duration_since(sequence.arrived),
            });
            if !sequence.sink.put(Output::Admitted { cached_tokens }) {
                self.ended.push(key);
            }
        }
        if !self.ended.is_empty() {
            while let Some(key) = self.ended.pop() {
                self.end(key, FinishReason::Aborted, now);
            }
            self.schedule.sweep();
        }
        self.stats.prefix_query_tokens += self.plan.query_tokens;
        self.stats.prefix_hit_tokens += self.plan.hit_tokens;
        self.stats.lower_query_tokens += self.plan.lower_query_tokens;
        self.stats.lower_hit_tokens += self.plan.lower_hit_tokens;
        self.stats.preemptions += u64::from(self.plan.preempted);
        self.report.preempted = self.plan.preempted;
    }

    /// Shows the world what this step did.
    pub(super) fn publish(&mut self) {
        self.publish_events();
        if let Some(residency) = self.schedule.kv.residency_mut() {
            residency.drain(&mut self.report.evictions);
        }
        let (schedule, kv) = (&self.schedule, &self.schedule.kv);
        self.stats.steps += 1;
        self.report.step = self.stats.steps;
        self.stats.running = schedule.running.len();
        self.stats.waiting = schedule.table.len() - schedule.running.len();
        self.stats.waiting_remote = self.stats.waiting - schedule.waiting.len();
        (self.stats.used_blocks, self.stats.free_blocks, self.stats.cached_blocks) = (kv.used(), kv.free(), kv.known());
        self.stats.leases = kv.leases().len();
        (self.stats.paused, self.stats.sleep_level) = (self.pause.is_paused(), self.pause.sleep_level());
        if let Some(tiers) = kv.tiers() {
            self.stats.host_blocks = tiers.host().len();
            self.stats.disk_blocks = tiers.disk().map_or(0, |disk| disk.len());
            self.stats.tiers = tiers.counts;
        }
        self.stats.kv_event_batches = kv.batches();
        self.door.publish(&self.stats, std::mem::take(&mut self.departed));
        self.replies.drain(..).for_each(|reply| reply());
        if let Some(observer) = &mut self.ports.observer {
            observer.step(&self.report);
        }
    }

    pub(super) fn publish_events(&mut self) {
        if let Some(batch) = self.schedule.kv.take_events()
            && let Some(sink) = &mut self.ports.kv_events
        {
            sink.put(batch);
        }
    }
}
