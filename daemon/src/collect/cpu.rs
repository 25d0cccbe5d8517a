//! CPU time by mode, from `/proc/stat`; names as node_exporter's.

use domain::node::HostFacts;

use super::{Collector, Host, Missing};
use crate::node::metric::Family;

/// Columns of a cpu line, proc_stat(5), as far as node_exporter counts them.
const MODES: [&str; 8] = ["user", "nice", "system", "idle", "iowait", "irq", "softirq", "steal"];
const IDLE: [usize; 2] = [3, 4];

#[derive(Debug, Default)]
pub struct Cpu {
    /// Ticks of all CPUs at the last round: busy and total.
    last: Option<(u64, u64)>,
}

impl Collector for Cpu {
    fn name(&self) -> &'static str {
        "cpu"
    }

    fn collect(&mut self, host: &Host, facts: &mut HostFacts) -> Result<Vec<Family>, Missing> {
        let text = host.read("proc/stat")?;
        let ticks_per_second = procfs::ticks_per_second() as f64;
        let mut family = Family::counter("node_cpu_seconds_total", "Seconds the CPUs spent in each mode.");
        let (mut busy, mut total, mut cpus) = (0, 0, 0);
        for line in text.lines().filter_map(|line| line.strip_prefix("cpu")) {
            let mut fields = line.split(' ');
            let cpu = fields.next().unwrap_or_default();
            if cpu.is_empty() {
                // The sum of all; the CPUs follow one by one.
                continue;
            }
            let ticks = fields.filter(|field| !field.is_empty()).map(str::parse).collect::<Result<Vec<u64>, _>>();
            let ticks = ticks.map_err(|error| Missing::Failed(format!("/proc/stat: cpu{cpu}: {error}")))?;
            if ticks.len() < 4 {
                return Err(Missing::Failed(format!("/proc/stat: cpu{cpu} has {} columns", ticks.len())));
            }
            cpus += 1;
            for (i, (mode, ticks)) in MODES.iter().zip(&ticks).enumerate() {
                family.push([("cpu", cpu), ("mode", mode)], *ticks as f64 / ticks_per_second);
                total += ticks;
                busy += if IDLE.contains(&i) { 0 } else { *ticks };
            }
        }
        if cpus == 0 {
            return Err(Missing::Failed("/proc/stat has no cpu lines".into()));
        }
        facts.cpus = Some(cpus);
        if let Some((busy_before, total_before)) = self.last.replace((busy, total)) {
            // A CPU taken offline takes its ticks with it; then this round says nothing.
            if let (Some(busy), Some(total @ 1..)) = (busy.checked_sub(busy_before), total.checked_sub(total_before)) {
                facts.cpu_busy = Some(busy as f64 / total as f64);
            }
        }
        Ok(vec![family])
    }
}
