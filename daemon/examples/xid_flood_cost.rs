//! What a flood of XIDs costs: 100,000 equal lines, record by record, as `/dev/kmsg` gives them; CPU time of this thread and growth of memory.
//!
//! `cargo run --release -p daemon --example xid_flood_cost`. The kernel's own read(2) of each record is not in it.
#![forbid(unsafe_code)]

use std::fs;
use std::sync::Arc;

use daemon::collect::kmsg::{Listener, Record, Splitter, Totals};
use daemon::xid::{Ledger, Parsed, Severities, Source};

const LINES: u64 = 100_000;

#[derive(Default)]
struct Book {
    ledger: Ledger,
    severities: Severities,
}

impl Listener for Book {
    fn line(&mut self, record: Record<'_>, parsed: Parsed<'_>) {
        if let Parsed::Xid(seen) = parsed {
            self.ledger.see(Source::KernelLog, &seen, record.at, &self.severities);
        }
    }
}

/// Time this thread has run, in ns: the first field of schedstat.
fn cpu_ns() -> u64 {
    first_number("/proc/thread-self/schedstat", 0)
}

fn resident_pages() -> u64 {
    first_number("/proc/self/statm", 1)
}

fn first_number(path: &str, field: usize) -> u64 {
    let text = fs::read_to_string(path).unwrap_or_default();
    text.split_ascii_whitespace().nth(field).and_then(|number| number.parse().ok()).unwrap_or_default()
}

fn main() {
    let mut book = Book::default();
    let mut splitter = Splitter::new(Arc::new(Totals::default()), 0);
    let mut feed = |from: u64, lines: u64, book: &mut Book| {
        for n in from..from + lines {
            let at = 5_000_000 + n * 20;
            let line =
                format!("4,{n},{at},-;NVRM: Xid (PCI:0000:ba:00): 95, pid=4711, name=python3, Uncontained: LTC TAG (0x2,0x0)\n");
            splitter.take(line.as_bytes(), book);
        }
    };
    feed(0, 1000, &mut book);
    let (cpu, pages) = (cpu_ns(), resident_pages());
    feed(1000, LINES, &mut book);
    let (cpu, pages) = (cpu_ns() - cpu, resident_pages().saturating_sub(pages));
    println!("{LINES} lines: {:.1} ms of CPU, {} ns a line, {pages} pages more of memory", cpu as f64 / 1e6, cpu / LINES);
}
