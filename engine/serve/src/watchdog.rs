//! Notices an engine that has work and makes no step: a device that hangs, a deadlock. Health that another thread answers proves nothing.

use std::time::{Duration, Instant};

use domain::{Fault, FaultKind};
use engine::handle::Handle;
use engine::observe::Stats;

/// Returns when there was work and no step for `timeout`. The state is in the log then; the engine's thread cannot be ended, only its
/// process can.
pub async fn watch(handle: &Handle, timeout: Duration) -> Fault {
    let mut ticks = tokio::time::interval(timeout / 8);
    let (mut steps, mut since) = (handle.stats().steps, Instant::now());
    loop {
        ticks.tick().await;
        let stats = handle.stats();
        if stats.steps != steps || !has_work(&stats) {
            (steps, since) = (stats.steps, Instant::now());
        } else if since.elapsed() >= timeout {
            tracing::error!(?stats, "the engine is stuck");
            let (running, waiting, seconds) = (stats.running, stats.waiting, timeout.as_secs_f64());
            let what = format!(
                "the engine made no step for {seconds} s after step {steps}, with {running} requests running and {waiting} waiting"
            );
            return Fault::new(FaultKind::Device, what, "see the log for its state, and check the device's health");
        }
    }
}

/// Whether a step is due.
fn has_work(stats: &Stats) -> bool {
    let awake = !stats.paused && stats.sleep_level == 0;
    awake && (stats.running > 0 || stats.waiting > stats.waiting_remote)
}
