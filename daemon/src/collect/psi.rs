//! Pressure stall information, from `/proc/pressure`; names as node_exporter's. Absent on kernels without CONFIG_PSI or with `psi=0`.

use domain::node::HostFacts;

use super::{Collector, Host, Missing};
use crate::node::metric::Family;

#[derive(Debug)]
pub struct Psi;

/// One line: `some avg10=0.00 avg60=0.00 avg300=0.00 total=0`.
struct Line {
    /// Share of the last 10 s, 0.0 ..= 1.0.
    avg10: f64,
    total_seconds: f64,
}

impl Collector for Psi {
    fn name(&self) -> &'static str {
        "psi"
    }

    fn collect(&mut self, host: &Host, facts: &mut HostFacts) -> Result<Vec<Family>, Missing> {
        let mut families = Vec::new();
        let mut read = |resource: &str, waiting, stalled: Option<&'static str>| -> Result<Option<f64>, Missing> {
            let path = format!("proc/pressure/{resource}");
            let Some(text) = host.read_opt(&path)? else { return Ok(None) };
            let broken = |kind: &str| Missing::Failed(format!("/{path}: no line {kind:?} as the kernel writes it"));
            let some = line(&text, "some").ok_or_else(|| broken("some"))?;
            families.push(Family::counter(waiting, "Seconds in which some task waited.").with([], some.total_seconds));
            if let Some(stalled) = stalled {
                let full = line(&text, "full").ok_or_else(|| broken("full"))?;
                families.push(Family::counter(stalled, "Seconds in which all tasks waited.").with([], full.total_seconds));
            }
            Ok(Some(some.avg10))
        };
        // "full" of the CPU means nothing for the whole system; the kernel writes zeros there.
        facts.cpu_pressure = read("cpu", "node_pressure_cpu_waiting_seconds_total", None)?;
        facts.memory_pressure =
            read("memory", "node_pressure_memory_waiting_seconds_total", Some("node_pressure_memory_stalled_seconds_total"))?;
        facts.io_pressure = read("io", "node_pressure_io_waiting_seconds_total", Some("node_pressure_io_stalled_seconds_total"))?;
        if families.is_empty() {
            return Err(Missing::Absent("/proc/pressure is not there: the kernel has no PSI, or psi=0".into()));
        }
        Ok(families)
    }
}

fn line(text: &str, kind: &str) -> Option<Line> {
    let line = text.lines().find_map(|line| line.strip_prefix(kind)?.strip_prefix(' '))?;
    let field = |name: &str| line.split(' ').find_map(|field| field.strip_prefix(name)?.strip_prefix('=')?.parse::<f64>().ok());
    Some(Line { avg10: field("avg10")? / 100.0, total_seconds: field("total")? / 1e6 })
}
