//! What the node agent costs: CPU time over 60 s with one idle engine and a scrape a second.

use std::time::Duration;

use tests::http::{Http, until};
use tokio::time::{Instant, interval};

use crate::fleet::Fleet;
use crate::report::{Figure, Machine};

const WINDOWS: usize = 6;
const WINDOW_S: u64 = 10;

pub fn run() -> Figure {
    let machine = Machine::look();
    let fleet = Fleet::start("");
    let mut node = fleet.node;
    let admin = node.address("/admin");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let (samples, rss) = runtime.block_on(async {
        let http = Http::default();
        until("readiness", || async { http.get(&format!("http://{admin}/readyz")).await.ok().filter(|a| a.status.is_success()) })
            .await;
        let mut ticks = interval(Duration::from_secs(1));
        let mut samples = Vec::new();
        for _ in 0..WINDOWS {
            let (begun, cpu) = (Instant::now(), cpu_s(node.pid()));
            for _ in 0..WINDOW_S {
                ticks.tick().await;
                http.get(&format!("http://{admin}/metrics")).await.expect("a scrape");
            }
            samples.push((cpu_s(node.pid()) - cpu) / begun.elapsed().as_secs_f64() * 100.0);
        }
        (samples, rss_mb(node.pid()))
    });
    Figure {
        name: "agent: CPU with one idle engine and 1 s scrapes",
        samples,
        unit: "% of a core",
        bar: "≤ 0.5".into(),
        beside: vec![("RSS, MB".into(), rss)],
        machine,
    }
}

/// CPU time of a process and its reaped children so far; clock ticks are 10 ms on Linux.
fn cpu_s(pid: u32) -> f64 {
    let schedstat = std::fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().filter_map(|task| {
        let text = std::fs::read_to_string(task.ok()?.path().join("schedstat")).ok()?;
        text.split_whitespace().next()?.parse::<f64>().ok()
    });
    schedstat.sum::<f64>() / 1e9
}

fn rss_mb(pid: u32) -> f64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap_or_default();
    line.split_whitespace().next().and_then(|kb| kb.parse::<f64>().ok()).unwrap_or(f64::NAN) / 1024.0
}
