//! Memory, from `/proc/meminfo`; names as node_exporter's.

use domain::node::HostFacts;

use super::{Collector, Host, Missing};
use crate::node::metric::Family;

/// Rows that are kept: what dashboards of inference nodes look at.
const ROWS: [(&str, &str); 9] = [
    ("MemTotal", "node_memory_MemTotal_bytes"),
    ("MemFree", "node_memory_MemFree_bytes"),
    ("MemAvailable", "node_memory_MemAvailable_bytes"),
    ("Cached", "node_memory_Cached_bytes"),
    ("Shmem", "node_memory_Shmem_bytes"),
    ("SwapTotal", "node_memory_SwapTotal_bytes"),
    ("SwapFree", "node_memory_SwapFree_bytes"),
    ("HugePages_Total", "node_memory_HugePages_Total"),
    ("HugePages_Free", "node_memory_HugePages_Free"),
];

#[derive(Debug)]
pub struct Memory;

impl Collector for Memory {
    fn name(&self) -> &'static str {
        "memory"
    }

    fn collect(&mut self, host: &Host, facts: &mut HostFacts) -> Result<Vec<Family>, Missing> {
        let text = host.read("proc/meminfo")?;
        let mut families = Vec::with_capacity(ROWS.len());
        for line in text.lines() {
            let Some((key, value)) = line.split_once(':') else { continue };
            let Some((_, name)) = ROWS.iter().find(|(row, _)| *row == key) else { continue };
            let mut words = value.split_ascii_whitespace();
            let number: u64 = words
                .next()
                .and_then(|word| word.parse().ok())
                .ok_or_else(|| Missing::Failed(format!("/proc/meminfo: {key} is no number")))?;
            let value = if words.next() == Some("kB") { number.saturating_mul(1024) } else { number };
            match key {
                "MemTotal" => facts.memory_total_bytes = Some(value),
                "MemAvailable" => facts.memory_available_bytes = Some(value),
                _ => {}
            }
            families.push(Family::gauge(name, "As in /proc/meminfo.").with([], value as f64));
        }
        if facts.memory_total_bytes.is_none() {
            return Err(Missing::Failed("/proc/meminfo has no MemTotal".into()));
        }
        Ok(families)
    }
}
