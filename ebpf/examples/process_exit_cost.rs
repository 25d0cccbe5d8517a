//! What the probe `process_exit` costs here, and how soon it tells: `tests/ebpf/cost.sh` runs it (as root) and prints a table.
//!
//! The kernel counts runs and nanoseconds of each program while its statistics are on; their own reading of the clock is in the figure (about 70 ns in a
//! virtual machine). Each number is the median of the rounds, with the quartiles.

use std::fs;
use std::io::Read as _;
use std::os::fd::AsFd as _;
use std::process::{Command, Stdio};
use std::time::Instant;

use ebpf::{Cost, ProcessExitProbe};
use rustix::event::{PollFd, PollFlags, poll};

const ROUNDS: usize = 11;
const PROCESSES: usize = 300;

fn main() {
    let before_kib = resident_kib();
    let begun = Instant::now();
    let mut probe = match ProcessExitProbe::attach(1024) {
        Ok(probe) => probe,
        Err(absent) => {
            println!("skipped: {absent}; {}", absent.action());
            std::process::exit(77);
        }
    };
    let attach_us = begun.elapsed().as_micros();
    let resident_kib = resident_kib() - before_kib;
    let statistics = aya::sys::enable_stats(aya::sys::Stats::RunTime).expect("whoever may attach may count");

    println!("| what | median | quartiles |\n|---|---|---|");
    row("fork of an unwatched process, ns", rounds(&mut probe, |probe| program_ns(probe, "process_fork", false)));
    row("exit of an unwatched process, ns", rounds(&mut probe, |probe| program_ns(probe, "process_exit", false)));
    row("fork by a watched process, ns", rounds(&mut probe, |probe| program_ns(probe, "process_fork", true)));
    row("exit of a watched process, ns", rounds(&mut probe, |probe| program_ns(probe, "process_exit", true)));
    drop(statistics);
    row("SIGKILL sent until the exit is drained, µs", (0..ROUNDS * 10).map(|_| told_us(&mut probe)).collect());
    println!("| attach, µs | {attach_us} | once |");
    println!("| resident memory after attaching, KiB | {} | once |", resident_kib);
    assert_eq!(probe.dropped(), 0, "a run that lost something measures something else");
}

fn rounds(probe: &mut ProcessExitProbe, round: impl Fn(&mut ProcessExitProbe) -> f64) -> Vec<f64> {
    (0..ROUNDS).map(|_| round(probe)).collect()
}

/// Nanoseconds per run of a program while a shell starts `PROCESSES` subshells, one after another, and waits for each.
fn program_ns(probe: &mut ProcessExitProbe, program: &str, watched: bool) -> f64 {
    let mut shell = Command::new("sh")
        .args(["-c", &format!("read -r line; i=0; while [ $i -lt {PROCESSES} ]; do (:); i=$((i+1)); done")])
        .stdin(Stdio::piped())
        .spawn()
        .expect("sh starts");
    if watched {
        probe.watch(shell.id()).expect("it waits for its input");
    }
    let before = cost(probe, program);
    drop(shell.stdin.take());
    shell.wait().expect("our child");
    let after = cost(probe, program);
    probe.drain(&mut Vec::new());
    (after.run_time_ns - before.run_time_ns) as f64 / (after.runs - before.runs) as f64
}

fn cost(probe: &ProcessExitProbe, program: &str) -> Cost {
    probe.costs().find(|(name, _)| *name == program).expect("the probe has this program").1
}

fn told_us(probe: &mut ProcessExitProbe) -> f64 {
    let mut victim = Command::new("sh")
        .args(["-c", "echo; read -r line"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("sh starts");
    victim.stdout.as_mut().expect("piped").read_exact(&mut [0]).expect("it has started");
    probe.watch(victim.id()).expect("it waits for its input");
    let begun = Instant::now();
    victim.kill().expect("our child");
    poll(&mut [PollFd::new(&probe.as_fd(), PollFlags::IN)], None).expect("a ring can be polled");
    let mut exits = Vec::new();
    probe.drain(&mut exits);
    let told = begun.elapsed();
    victim.wait().expect("our child");
    assert_eq!(exits.len(), 1);
    told.as_nanos() as f64 / 1000.0
}

fn resident_kib() -> u64 {
    let status = fs::read_to_string("/proc/self/status").expect("proc is mounted");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("a process has memory");
    line.trim().trim_end_matches(" kB").parse().expect("a number of KiB")
}

fn row(what: &str, mut values: Vec<f64>) {
    values.sort_by(f64::total_cmp);
    let at = |quarter: usize| values[(values.len() - 1) * quarter / 4];
    println!("| {what} | {:.0} | {:.0} to {:.0} |", at(2), at(1), at(3));
}
