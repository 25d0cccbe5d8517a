//! What the agent itself costs: CPU time and resident memory of its process, from `/proc/self`.

use domain::node::HostFacts;

use super::{Collector, Host, Missing};
use crate::node::metric::Family;

#[derive(Debug)]
pub struct Agent;

impl Collector for Agent {
    fn name(&self) -> &'static str {
        "agent"
    }

    fn collect(&mut self, host: &Host, _facts: &mut HostFacts) -> Result<Vec<Family>, Missing> {
        let stat = host.read("proc/self/stat")?;
        let broken = || Missing::Failed("/proc/self/stat is not as proc_pid_stat(5) says".into());
        let (_, rest) = stat.rsplit_once(')').ok_or_else(broken)?;
        let fields: Vec<&str> = rest.split_ascii_whitespace().collect();
        // Fields 14, 15 and 24; the state is field 3 and the first one here.
        let number = |field: usize| fields.get(field - 3).and_then(|text| text.parse::<u64>().ok()).ok_or_else(broken);
        let seconds = (number(14)? + number(15)?) as f64 / procfs::ticks_per_second() as f64;
        let resident = number(24)? as f64 * procfs::page_size() as f64;
        Ok(vec![
            Family::counter("trackside_node_cpu_seconds_total", "CPU time of the agent's process.").with([], seconds),
            Family::gauge("trackside_node_resident_memory_bytes", "Resident memory of the agent's process.").with([], resident),
        ])
    }
}
