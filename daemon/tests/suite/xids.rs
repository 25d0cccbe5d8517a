//! XIDs: the kernel log as it was reported from the field, and what it adds up to.

use std::fmt::Write;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use daemon::collect::kmsg::{Listener, Record, Splitter, Totals};
use daemon::xid::ledger::BURST_GAP;
use daemon::xid::line::pci_address;
use daemon::xid::{Class, Ledger, Parsed, Severities, Sighting, Source, parse};

/// Feeds a ledger as the agent does.
#[derive(Default)]
struct Book {
    ledger: Ledger,
    news: u32,
    severities: Severities,
}

impl Listener for Book {
    fn line(&mut self, record: Record<'_>, parsed: Parsed<'_>) {
        match parsed {
            Parsed::Xid(seen) => {
                self.news += u32::from(self.ledger.see(Source::KernelLog, &seen, record.at, &self.severities));
            }
            Parsed::Unparsed => self.ledger.unparsed += 1,
            Parsed::Other => {}
        }
    }
}

impl Book {
    fn told(&self) -> String {
        let mut text = String::new();
        let place = |gpu: nvml::PciAddress| format!("{:04x}:{:02x}:{:02x}", gpu.domain, gpu.bus, gpu.device);
        for (gpu, code, count) in self.ledger.counts() {
            writeln!(text, "{} {code} x{count}", place(gpu)).unwrap();
        }
        writeln!(text, "unparsed {}", self.ledger.unparsed).unwrap();
        let mut gpus: Vec<nvml::PciAddress> = self.ledger.counts().map(|(gpu, ..)| gpu).collect();
        gpus.dedup();
        for gpu in gpus {
            let incident = self.ledger.incident(gpu).expect("an incident");
            let Some(cause) = incident.cause else { continue };
            let inferred = if incident.inferred { " (inferred)" } else { "" };
            let recovery = incident.recovery.map(|action| format!(" recovery {action}")).unwrap_or_default();
            writeln!(text, "{} cause {cause}{inferred} {}{recovery}", place(gpu), incident.class).unwrap();
        }
        text
    }
}

fn check(case: &str, chunk: usize) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/xid");
    let log = std::fs::read(folder.join(format!("{case}.kmsg"))).unwrap();
    let expected = std::fs::read_to_string(folder.join(format!("{case}.expected"))).unwrap();
    let mut book = Book::default();
    let mut splitter = Splitter::new(Arc::new(Totals::default()), 0);
    log.chunks(chunk).for_each(|part| splitter.take(part, &mut book));
    assert_eq!(book.told(), expected, "{case}, {chunk} bytes at a time");
}

#[test]
fn logs_from_the_field_add_up_to_their_incidents_however_they_are_cut() {
    for case in ["f2", "f3"] {
        for chunk in [1, 7, 4096] {
            check(case, chunk);
        }
    }
}

#[test]
fn a_flood_of_equal_lines_is_one_piece_of_news() {
    let mut book = Book::default();
    let totals = Arc::new(Totals::default());
    let mut splitter = Splitter::new(totals.clone(), 0);
    for n in 0..100_000 {
        // 100,000 lines in two seconds.
        let at = 5_000_000 + n * 20;
        let line =
            format!("4,{n},{at},-;NVRM: Xid (PCI:0000:ba:00): 95, pid=4711, name=python3, Uncontained: LTC TAG (0x2,0x0)\n");
        splitter.take(line.as_bytes(), &mut book);
    }
    assert_eq!(book.ledger.counts().collect::<Vec<_>>(), [(pci_address("0000:ba:00").unwrap(), 95, 100_000)]);
    assert_eq!((book.news, book.ledger.incidents), (1, 1));
}

#[test]
fn records_taken_in_by_an_earlier_agent_are_not_counted_again_and_gaps_are() {
    let mut book = Book::default();
    let totals = Arc::new(Totals::default());
    let mut splitter = Splitter::new(totals.clone(), 12);
    for sequence in [10, 11, 12, 20] {
        let line = format!("4,{sequence},1000000,-;NVRM: Xid (PCI:0000:01:00): 31, x\n");
        splitter.take(line.as_bytes(), &mut book);
    }
    assert_eq!(book.ledger.counts().map(|(.., count)| count).collect::<Vec<_>>(), [2]);
    assert_eq!(totals.lost.load(std::sync::atomic::Ordering::Relaxed), 7, "13 to 19");
}

fn seen(code: u32) -> Sighting<'static> {
    let gpu = pci_address("0000:18:00").unwrap();
    Sighting { gpu, code, gpu_instance: None, fatal: None, caused_by: None, recovery: None, text: "" }
}

#[test]
fn an_xid_heard_from_both_sides_is_counted_once() {
    use Source::{KernelLog, Nvml};
    type Heard = &'static [(Source, u64)];
    let cases: [(&str, Heard, u64); 6] = [
        ("line, event", &[(KernelLog, 0), (Nvml, 300)], 1),
        ("event, line", &[(Nvml, 0), (KernelLog, 300)], 1),
        ("three lines, NVML keeps the last", &[(KernelLog, 0), (KernelLog, 1), (KernelLog, 2), (Nvml, 5)], 3),
        ("events alone", &[(Nvml, 0), (Nvml, 100)], 2),
        ("too far apart to be the same", &[(KernelLog, 0), (Nvml, 2500)], 2),
        ("two of each", &[(KernelLog, 0), (Nvml, 10), (KernelLog, 20), (Nvml, 30)], 2),
    ];
    for (what, heard, expected) in cases {
        let mut ledger = Ledger::default();
        for (source, ms) in heard {
            ledger.see(*source, &seen(79), Duration::from_millis(*ms), &Severities::default());
        }
        assert_eq!(ledger.counts().map(|(.., count)| count).sum::<u64>(), expected, "{what}");
    }
}

#[test]
fn a_burst_ends_after_three_quiet_minutes() {
    let mut ledger = Ledger::default();
    for at in [Duration::ZERO, BURST_GAP - Duration::from_secs(1), BURST_GAP * 2] {
        ledger.see(Source::KernelLog, &seen(13), at, &Severities::default());
    }
    assert_eq!(ledger.incidents, 2);
}

#[test]
fn what_the_operator_says_of_an_xid_outranks_the_table() {
    let severities = Severities::new([(109, Class::Note), (149, Class::Note)].into());
    assert_eq!(Severities::default().class(109), Class::Reset);
    assert_eq!(severities.class(109), Class::Note);
    assert_eq!(severities.class_of(&Sighting { fatal: Some(true), ..seen(149) }), Class::Note);
    assert_eq!(severities.class(9999), Class::Unexpected);
}

#[test]
fn no_line_breaks_the_parser() {
    use proptest::prelude::*;
    let hostile =
        ["NVRM: Xid (PCI:", "NVRM: Xid (PCI:::): 1", "Xid (PCI:0000:01:00): 99999999999", "Xid (PCI:01:00): 13", "Xid \u{fffd}"];
    for line in hostile {
        parse(line);
    }
    assert!(
        matches!(parse("Xid (PCI:01:00): 13"), Parsed::Xid(seen) if seen.gpu.domain == 0),
        "old drivers leave the domain out"
    );
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fuzz/corpus/kmsg");
    for seed in std::fs::read_dir(corpus).unwrap() {
        let mut splitter = Splitter::new(Arc::new(Totals::default()), 0);
        let mut book = Book::default();
        splitter.take(&std::fs::read(seed.unwrap().path()).unwrap(), &mut book);
        assert!(book.ledger.counts().next().is_some(), "a seed that says nothing is no seed");
    }
    proptest!(|(tail in "\\PC{0,80}")| {
        parse(&format!("NVRM: Xid (PCI:0000:01:00): {tail}"));
        parse(&format!("NVRM: Xid (PCI:{tail}"));
        daemon::collect::kmsg::record(&tail);
    });
}
