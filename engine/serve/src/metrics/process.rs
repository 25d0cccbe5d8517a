//! `process_*`: what the engine itself costs, under the names that every Prometheus client library uses.

use prometheus::core::{AtomicF64, GenericCounter};
use prometheus::{Gauge, IntGauge, Opts};

use super::Maker;

/// `USER_HZ`, the unit of `/proc/self/stat`: 100 on every Linux that Rust knows.
const TICKS_PER_S: f64 = 100.0;
const PAGE_BYTES: i64 = 4096;

pub struct Process {
    cpu_s: GenericCounter<AtomicF64>,
    resident_bytes: IntGauge,
    threads: IntGauge,
    start_s: Gauge,
}

impl Process {
    pub fn new(make: &Maker<'_>) -> Self {
        let opts = |name: &str, help: &str| Opts::new(format!("process_{name}"), help);
        Self {
            cpu_s: make.held(GenericCounter::with_opts(opts("cpu_seconds_total", "User and system CPU time, in seconds."))),
            resident_bytes: make.held(IntGauge::with_opts(opts("resident_memory_bytes", "Resident memory."))),
            threads: make.held(IntGauge::with_opts(opts("threads", "Threads."))),
            start_s: make
                .held(Gauge::with_opts(opts("start_time_seconds", "Start of the process since the Unix epoch, in seconds."))),
        }
    }

    /// Reads `/proc/self/stat`; where there is none, the values stay as they are.
    pub fn read(&self) {
        let Some(seen) = std::fs::read_to_string("/proc/self/stat").ok().as_deref().and_then(Stat::parse) else { return };
        self.cpu_s.inc_by((seen.cpu_s - self.cpu_s.get()).max(0.0));
        self.resident_bytes.set(seen.resident_bytes);
        self.threads.set(seen.threads);
        let boot_s = std::fs::read_to_string("/proc/stat").ok().and_then(|text| boot_time(&text));
        boot_s.into_iter().for_each(|boot_s| self.start_s.set(boot_s + seen.start_after_boot_s));
    }
}

#[derive(Debug, PartialEq)]
struct Stat {
    cpu_s: f64,
    threads: i64,
    start_after_boot_s: f64,
    resident_bytes: i64,
}

impl Stat {
    /// Fields by proc_pid_stat(5). The second, the command in parentheses, may hold anything.
    fn parse(text: &str) -> Option<Self> {
        let fields: Vec<i64> =
            text.rsplit_once(')')?.1.split_ascii_whitespace().map(|field| field.parse().unwrap_or(0)).collect();
        // The first of these is field 3.
        let field = |number: usize| fields.get(number - 3).copied();
        let seconds = |ticks: i64| ticks as f64 / TICKS_PER_S;
        Some(Self {
            cpu_s: seconds(field(14)? + field(15)?),
            threads: field(20)?,
            start_after_boot_s: seconds(field(22)?),
            resident_bytes: field(24)? * PAGE_BYTES,
        })
    }
}

fn boot_time(stat: &str) -> Option<f64> {
    stat.lines().find_map(|line| line.strip_prefix("btime "))?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_found_whatever_the_command_is_called() {
        let text = "77 (a) b ) c) S 1 77 77 0 -1 4194560 1 2 3 4 250 50 7 8 20 0 9 0 4321 99999 12 18446744073709551615 1 1\n";
        let expected = Stat { cpu_s: 3.0, threads: 9, start_after_boot_s: 43.21, resident_bytes: 12 * 4096 };
        assert_eq!(Stat::parse(text), Some(expected));
        assert_eq!(Stat::parse("77 (a) S 1"), None);
        assert_eq!(boot_time("cpu 1 2\nbtime 1700000000\nprocesses 1\n"), Some(1.7e9));
    }
}
