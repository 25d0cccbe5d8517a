//! How verdicts over a GPU rise and fall with what the kernel log says, by the clock.

use std::time::{Duration, Instant};

use daemon::collect::nvml::{GpuSample, Identity, Snapshot, Stack};
use daemon::health::hold::{Levels, Memory};
use daemon::health::rules::{Counters, View};
use daemon::run::memory::Before;
use daemon::xid::{Ledger, Parsed, Severities, Source, parse};
use domain::gpu::Verdict;
use nvml::PciAddress;

const PCI: PciAddress = PciAddress { domain: 0, bus: 0x18, device: 0 };
/// An operator's word.
const RELEASE: &str = "release";

fn identity(index: u32, uuid: &str) -> Identity {
    let (model, serial, vbios) = (String::new(), String::new(), String::new());
    Identity { index, uuid: uuid.into(), pci: PCI, model, serial, vbios, minor: None, mig: Vec::new() }
}

/// Seconds since boot, what happens (nothing, a line without its head, or [`RELEASE`]), and the verdict from then on.
fn check(story: &[(u64, &str, Verdict)]) {
    let gpu = GpuSample::new(identity(0, "GPU-0"));
    let (mut ledger, mut memory, severities) = (Ledger::default(), Memory::default(), Severities::default());
    for &(seconds, what, expected) in story {
        let now = Duration::from_secs(seconds);
        match what {
            "" => {}
            RELEASE => {
                memory.release(now);
                ledger.close(PCI);
            }
            line => match parse(&format!("NVRM: Xid (PCI:0000:18:00): {line}")) {
                Parsed::Xid(seen) => drop(ledger.see(Source::KernelLog, &seen, now, &severities)),
                other => panic!("{line} is {other:?}"),
            },
        }
        let (before, settled) = (Counters::default(), Duration::ZERO);
        let view = View {
            gpu: &gpu,
            stack: &Stack::Answers,
            incident: ledger.incident(PCI),
            before,
            settled,
            began: Duration::ZERO,
            now,
        };
        let judged = memory.judge(&view, &Levels::new());
        assert_eq!(judged.verdict, expected, "{seconds} s, {what}: {:?}", judged.reasons);
    }
}

#[test]
fn what_needs_no_repair_ends_by_itself() {
    use Verdict::{Degraded, Ok};
    // A burst is over after 180 s, and what it raised holds for 600 s more.
    check(&[(100, "74, pid=1, NVLink", Degraded), (279, "", Degraded), (281, "", Degraded), (880, "", Ok), (5000, "", Ok)]);
    check(&[(100, "9999, unheard of", Degraded), (279, "", Degraded), (880, "", Ok)]);
}

#[test]
fn what_comes_after_a_repair_is_judged_by_itself() {
    use Verdict::{Ok, Quarantined};
    let reset = "95, pid=1, Uncontained: LTC TAG (0x2,0x0)";
    let asked = "154, GPU recovery action changed from 0x0 (None) to 0x1 (GPU Reset Required)";
    let taken_back = "154, GPU recovery action changed from 0x1 (GPU Reset Required) to 0x0 (None)";
    // An application's own fault, seconds later, is no sign of the old one.
    check(&[(100, reset, Quarantined), (110, RELEASE, Ok), (120, "13, pid=1, Graphics Exception", Ok)]);
    check(&[(100, reset, Quarantined), (101, asked, Quarantined), (110, RELEASE, Ok), (120, "", Ok)]);
    // The same one is.
    check(&[(100, reset, Quarantined), (101, asked, Quarantined), (110, taken_back, Ok), (120, reset, Quarantined)]);
    check(&[(100, reset, Quarantined), (110, RELEASE, Ok), (120, reset, Quarantined)]);
}

#[test]
fn memory_is_an_engines_own_where_no_other_runs_on_its_gpus() {
    let sample = |index, uuid| std::sync::Arc::new(GpuSample::new(identity(index, uuid)));
    let snapshot = Snapshot {
        stack: Stack::Answers,
        at: Instant::now(),
        driver_version: String::new(),
        gpus: vec![sample(0, "GPU-a"), sample(1, "GPU-b")],
        poll: Duration::ZERO,
        polls: 1,
    };
    let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
    for (own, other, alone) in [
        (&["0"][..], &["1"][..], true),
        (&["0"], &["0"], false),
        (&["0"], &["GPU-a"], false),
        (&["GPU-b"], &["01"], false),
        // Who names none sees all.
        (&["0"], &[], false),
    ] {
        let others = names(other);
        assert_eq!(Before::is_alone(&snapshot, &names(own), [&others[..]].into_iter()), alone, "{own:?} beside {other:?}");
    }
}
