//! The probe `process_exit` in this kernel: real processes end, and the probe says how.
//!
//! Where it cannot be attached (no rights, no BTF, a container) each test prints why and holds the probe to it: the reason must be one that an independent
//! look at this machine confirms. `tests/ebpf/run.sh` sets `TRACKSIDE_EBPF_OBJECTS`, a folder with the objects to try instead of the embedded ones.

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::os::fd::AsFd as _;
use std::os::unix::fs::MetadataExt as _;
use std::os::unix::process::ExitStatusExt as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Once;
use std::time::{Duration, Instant};

use ebpf::{Absent, ExitStatus, Limits, Losses, ProcessExit, ProcessExitProbe, WatchError, kernel};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::thread::{CapabilitySet, CapabilitySets, capabilities, set_capabilities};

/// Longest wait for an event that must come; only a failing test waits so long.
const PATIENCE: Duration = Duration::from_secs(60);

/// The attached probe, or `None` where this machine cannot have it and an independent look says so too.
fn attach(limits: Limits) -> Option<ProcessExitProbe> {
    let outcome = match std::env::var_os("TRACKSIDE_EBPF_OBJECTS") {
        Some(folder) => {
            let object = fs::read(Path::new(&folder).join("process_exit.bpf.o")).expect("the lane built the object");
            ProcessExitProbe::attach_object(&object, limits)
        }
        None => ProcessExitProbe::attach_with(limits),
    };
    let absent = match outcome {
        Ok(probe) => return Some(probe),
        Err(absent) => absent,
    };
    static SAID: Once = Once::new();
    // Past the test harness, which would keep it to itself in a test that passes.
    SAID.call_once(|| {
        let line = format!("no probe here: {absent}; {}\n", absent.action());
        std::io::stderr().write_all(line.as_bytes()).expect("there is a standard error");
    });
    let confirmed = match &absent {
        Absent::Rights { missing } => !missing.is_empty() && missing.iter().any(|name| !has_right(name)),
        Absent::PidNamespace { .. } => fs::metadata("/proc/self/ns/pid").is_ok_and(|namespace| namespace.ino() != 0xeffffffc),
        Absent::Btf { path, .. } => fs::read(path).map_or(true, |bytes| bytes.first_chunk() != Some(&0xeb9f_u16.to_ne_bytes())),
        // With the rights, in the host's namespaces and with BTF, only a kernel that forbids or lacks BPF is left. Root on such a kernel is rare enough to look at.
        _ => !has_right("CAP_SYS_ADMIN"),
    };
    assert!(confirmed, "the probe is absent for a reason that this machine does not show: {absent:?}");
    None
}

/// Reads the effective set as the kernel prints it, not through the code under test.
fn has_right(name: &str) -> bool {
    let bit = match name {
        "CAP_SYS_ADMIN" => 21,
        "CAP_PERFMON" => 38,
        "CAP_BPF" => 39,
        name => panic!("{name} is not a right that the probe needs"),
    };
    let status = fs::read_to_string("/proc/thread-self/status").expect("proc is mounted");
    let effective = status.lines().find_map(|line| line.strip_prefix("CapEff:")).expect("every process has one");
    u64::from_str_radix(effective.trim(), 16).expect("hexadecimal") >> bit & 1 == 1
}

/// A shell that waits for a line on its input, so that it can be watched first, and then does `script`.
fn shell(script: &str) -> Child {
    Command::new("sh")
        .args(["-c", &format!("read -r line; {script}")])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("sh starts")
}

/// Lets a shell go on, and waits for it as its parent.
fn finish(mut shell: Child) -> std::process::ExitStatus {
    drop(shell.stdin.take()); // `read` sees the end of its input.
    shell.wait().expect("it is our child")
}

/// Drains until `count` exits are there.
fn drain(probe: &mut ProcessExitProbe, count: usize) -> Vec<ProcessExit> {
    let begun = Instant::now();
    let mut exits = Vec::new();
    loop {
        probe.drain(&mut exits);
        if exits.len() >= count {
            return exits;
        }
        let left =
            PATIENCE.checked_sub(begun.elapsed()).unwrap_or_else(|| panic!("{} of {count} exits came: {exits:?}", exits.len()));
        let mut ring = [PollFd::new(probe, PollFlags::IN)];
        poll(&mut ring, Some(&Timespec::try_from(left).expect("a minute is a time"))).expect("a ring can be polled");
    }
}

/// Runs a script as a watched process and compares what the probe says with what its parent hears.
fn check(script: &str, expected: ExitStatus) {
    let Some(mut probe) = attach(Limits::default()) else { return };
    let shell = shell(script);
    let pid = shell.id();
    assert_eq!(probe.watch(pid).expect("it waits for its input"), 1);
    let before_ns = now_ns();
    let heard = finish(shell);
    let after_ns = now_ns();
    let exits = drain(&mut probe, 1);
    let [ProcessExit { pid: seen, root, status, at_ns }] = exits[..] else { panic!("one process, one exit: {exits:?}") };
    assert_eq!((seen, root, status), (pid, pid, expected), "{script}");
    assert!((before_ns..=after_ns).contains(&at_ns), "{before_ns} <= {at_ns} <= {after_ns}");
    // The parent's word is the reference; whether a core is written is this machine's setting.
    match status {
        ExitStatus::Code(code) => assert_eq!(heard.code(), Some(code)),
        ExitStatus::Signal { number, core_dumped } => {
            assert_eq!((heard.signal(), heard.core_dumped()), (Some(number), core_dumped))
        }
    }
    assert_eq!((probe.dropped(), probe.watched()), (0, 0), "its end took it off the map");
}

fn now_ns() -> u64 {
    let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the call writes one timespec, to a place that is one.
    assert_eq!(unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &raw mut now) }, 0);
    now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64
}

fn signal(number: i32) -> ExitStatus {
    ExitStatus::Signal { number, core_dumped: false }
}

#[test]
fn exit_codes() {
    check("exit 0", ExitStatus::Code(0));
    check("exit 3", ExitStatus::Code(3));
    check("exit 255", ExitStatus::Code(255));
}

#[test]
fn signals() {
    check("kill -KILL $$", signal(9));
    check("kill -TERM $$", signal(15));
    check("ulimit -c 0; kill -SEGV $$", signal(11));
}

/// What [`an_end_with_many_threads_is_one_exit_with_the_groups_status`] ends: this test binary, started again, in a thread that is not its first.
#[test]
fn victim() {
    let Ok(ending) = std::env::var("TRACKSIDE_VICTIM") else { return };
    std::io::stdin().read_line(&mut String::new()).expect("the parent holds the other end");
    let _others: Vec<_> = match ending.as_str() {
        "first thread first" => Vec::new(),
        _ => (0..8).map(|_| std::thread::spawn(std::thread::park)).collect(),
    };
    match ending.as_str() {
        "exit" => std::process::exit(21),
        "abort" => std::process::abort(),
        // The kernel ends all other threads, the first one too, whose number this one takes over.
        "exec" => panic!("{}", std::os::unix::process::CommandExt::exec(Command::new("sh").args(["-c", "exit 13"]))),
        "first thread first" => end_thread_by_thread(),
        other => panic!("{other} is no ending"),
    }
}

/// The first thread ends with 7 and stays behind as a zombie; then this one, the last, ends with 9. No `exit_group`, so which of the two is the process's status
/// is the kernel's choice, and was not always the same.
fn end_thread_by_thread() -> ! {
    extern "C" fn end_this_thread(_signal: libc::c_int) {
        // SAFETY: the call ends the calling thread; nothing is shared with it that it would have to give back.
        unsafe { libc::syscall(libc::SYS_exit, 7) };
    }
    let first = std::process::id() as libc::pid_t;
    let handler: extern "C" fn(libc::c_int) = end_this_thread;
    // SAFETY: the handler calls nothing but the system, and the signal goes to a thread of this process.
    unsafe {
        libc::signal(libc::SIGUSR1, handler as libc::sighandler_t);
        libc::syscall(libc::SYS_tgkill, first, first, libc::SIGUSR1);
    }
    let stat = format!("/proc/self/task/{first}/stat");
    while !fs::read_to_string(&stat).is_ok_and(|stat| stat.contains(") Z ")) {
        std::thread::yield_now();
    }
    // SAFETY: as above; it is the last thread, and the process ends with it.
    unsafe { libc::syscall(libc::SYS_exit, 9) };
    unreachable!("the thread has ended")
}

#[test]
fn an_end_with_many_threads_is_one_exit_with_the_groups_status() {
    let endings = [
        ("exit", vec![ExitStatus::Code(21)]),
        ("abort", vec![signal(6)]),
        ("exec", vec![ExitStatus::Code(13)]),
        ("first thread first", vec![ExitStatus::Code(7), ExitStatus::Code(9)]),
    ];
    for (ending, possible) in endings {
        let Some(mut probe) = attach(Limits::default()) else { return };
        let itself = std::env::current_exe().expect("the test runs from a file");
        // No core: it would be large, and whether there is one is the machine's setting.
        let victim = Command::new("sh")
            .args(["-c", "ulimit -c 0; exec \"$0\" --exact victim --nocapture"])
            .arg(itself)
            .env("TRACKSIDE_VICTIM", ending)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("sh starts");
        let pid = victim.id();
        probe.watch(pid).expect("it waits for its input");
        let heard = finish(victim);
        let exits = drain(&mut probe, 1);
        let heard = ExitStatus::from_wait_status(heard.into_raw() as u32);
        assert_eq!(exits.iter().map(|exit| (exit.pid, exit.status)).collect::<Vec<_>>(), [(pid, heard)], "{ending}");
        assert!(possible.contains(&heard), "{ending}: {heard}");
        assert_eq!(probe.dropped(), 0);
    }
}

#[test]
fn unwatched_processes_are_not_seen() {
    let Some(mut probe) = attach(Limits::default()) else { return };
    let (watched, forgotten, stranger) = (shell("exit 1"), shell("exit 2"), shell("exit 3"));
    let pid = watched.id();
    probe.watch(pid).expect("alive");
    probe.watch(forgotten.id()).expect("alive");
    probe.unwatch(forgotten.id());
    finish(stranger);
    finish(forgotten);
    // The last to end, so all that could be seen before it is in the ring when it is.
    finish(watched);
    let exits = drain(&mut probe, 1);
    assert_eq!(exits.iter().map(|exit| (exit.pid, exit.status)).collect::<Vec<_>>(), [(pid, ExitStatus::Code(1))]);
}

#[test]
fn what_a_watched_process_starts_is_watched_too() {
    let Some(mut probe) = attach(Limits::default()) else { return };
    // Three generations: the shell, a subshell that fails, and in it one that a signal ends. `:` keeps a shell from replacing itself by its last command.
    let family = shell("(sh -c 'kill -KILL $$; :'; exit 7); exit 5");
    let root = family.id();
    probe.watch(root).expect("alive");
    finish(family);
    let exits = drain(&mut probe, 3);
    assert!(exits.iter().all(|exit| exit.root == root), "{exits:?}");
    assert_eq!(exits.iter().map(|exit| exit.status).collect::<Vec<_>>(), [signal(9), ExitStatus::Code(7), ExitStatus::Code(5)]);
    assert_eq!(probe.watched(), 0);
}

#[test]
fn an_engine_found_running_is_watched_with_its_workers() {
    let Some(mut probe) = attach(Limits::default()) else { return };
    // The worker waits for the end of the engine's input, which a shell would not give to a background job under its own number.
    let mut engine = Command::new("sh")
        .args(["-c", "exec 3<&0; sh -c 'echo ready; read -r line <&3; exit 4' & wait $!; exit 6"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("sh starts");
    let mut ready = String::new();
    BufReader::new(engine.stdout.take().expect("piped")).read_line(&mut ready).expect("the worker says that it runs");
    assert_eq!(ready, "ready\n");
    let root = engine.id();
    assert_eq!(probe.watch(root).expect("alive"), 2);
    assert_eq!(probe.watch(root).expect("alive"), 0, "watching twice is watching once");
    finish(engine);
    let exits = drain(&mut probe, 2);
    assert!(exits.iter().all(|exit| exit.root == root), "{exits:?}");
    assert_eq!(exits.iter().map(|exit| exit.status).collect::<Vec<_>>(), [ExitStatus::Code(4), ExitStatus::Code(6)]);
}

#[test]
fn a_process_that_is_gone_is_said_to_be() {
    let Some(mut probe) = attach(Limits::default()) else { return };
    let mut child = Command::new("true").spawn().expect("true starts");
    let pid = child.id();
    // Ended and not yet waited for: its number is still its own.
    rustix::process::waitid(
        rustix::process::WaitId::Pid(rustix::process::Pid::from_child(&child)),
        rustix::process::WaitIdOptions::EXITED | rustix::process::WaitIdOptions::NOWAIT,
    )
    .expect("our child");
    assert!(matches!(probe.watch(pid), Err(WatchError::Gone { pid: gone }) if gone == pid));
    child.wait().expect("our child");
    assert!(matches!(probe.watch(0), Err(WatchError::Gone { pid: 0 })));
    assert!(matches!(probe.watch(u32::MAX), Err(WatchError::Gone { .. })));
    assert_eq!(probe.watched(), 0);
}

#[test]
fn many_processes_are_each_seen_once() {
    const PROCESSES: usize = 300;
    let Some(mut probe) = attach(Limits::default()) else { return };
    let shells: Vec<Child> = (0..PROCESSES).map(|index| shell(&format!("exit {}", index % 256))).collect();
    let expected: BTreeMap<u32, ExitStatus> =
        shells.iter().enumerate().map(|(index, shell)| (shell.id(), ExitStatus::Code(index as i32 % 256))).collect();
    for pid in expected.keys() {
        assert_eq!(probe.watch(*pid).expect("alive"), 1);
    }
    assert_eq!(probe.watched(), PROCESSES);
    shells.into_iter().map(finish).for_each(drop);
    let exits = drain(&mut probe, PROCESSES);
    assert_eq!(exits.len(), PROCESSES);
    assert_eq!(exits.iter().map(|exit| (exit.pid, exit.status)).collect::<BTreeMap<_, _>>(), expected);
    assert_eq!(probe.losses(), Losses::default());
}

#[test]
fn what_finds_the_ring_full_is_counted() {
    // The smallest ring there is: a page of 4,096 bytes has room for 127 records of 32 bytes, because a full ring could not be told from an empty one.
    const PROCESSES: usize = 200;
    let Some(mut probe) = attach(Limits { ring_bytes: 4096, ..Limits::default() }) else { return };
    for _ in 0..PROCESSES {
        let shell = shell("exit 1");
        probe.watch(shell.id()).expect("alive");
        finish(shell);
    }
    let mut exits = Vec::new();
    probe.drain(&mut exits);
    let Losses { ring_full, map_full, unread } = probe.losses();
    assert!(ring_full > 0, "the test must fill the ring: {} exits", exits.len());
    assert_eq!((exits.len() as u64 + ring_full, map_full, unread), (PROCESSES as u64, 0, 0), "seen or counted");
    assert_eq!(probe.dropped(), ring_full);
    // The ring works again once it was drained.
    let shell = shell("exit 9");
    probe.watch(shell.id()).expect("alive");
    finish(shell);
    assert_eq!(drain(&mut probe, 1)[0].status, ExitStatus::Code(9));
}

#[test]
fn what_finds_the_map_full_is_refused_or_counted() {
    let Some(mut probe) = attach(Limits { watched: 1, ..Limits::default() }) else { return };
    let (watched, refused) = (shell("(exit 2); exit 1"), shell("exit 3"));
    probe.watch(watched.id()).expect("there is room for one");
    assert!(matches!(probe.watch(refused.id()), Err(WatchError::Full { pid }) if pid == refused.id()));
    finish(refused);
    finish(watched);
    assert_eq!(drain(&mut probe, 1)[0].status, ExitStatus::Code(1));
    assert_eq!(probe.losses(), Losses { map_full: 1, ..Losses::default() }, "the subshell had no room");
}

#[test]
fn without_rights_the_probe_is_absent_and_says_which() {
    for (kept, missing) in [
        (CapabilitySet::empty(), vec!["CAP_BPF", "CAP_PERFMON"]),
        (CapabilitySet::BPF, vec!["CAP_PERFMON"]),
        (CapabilitySet::PERFMON, vec!["CAP_BPF"]),
    ] {
        // Capabilities are a thread's: this one gives them up and ends.
        std::thread::spawn(move || {
            let CapabilitySets { effective, permitted, inheritable } = capabilities(None).expect("own capabilities");
            if !effective.contains(kept) {
                return; // An unprivileged run has only the first case.
            }
            set_capabilities(None, CapabilitySets { effective: kept, permitted, inheritable })
                .expect("giving up is always allowed");
            let absent = ProcessExitProbe::attach(16).expect_err("no rights, no probe");
            assert_eq!(absent, Absent::Rights { missing: missing.clone() });
            for name in missing {
                assert!(absent.to_string().contains(name) && absent.action().contains(name), "{absent}; {}", absent.action());
            }
            let kernel = kernel();
            assert_eq!(kernel.rights, Err(absent.clone()));
            assert_eq!(kernel.raw_tracepoints, Err(absent.clone()), "what cannot be asked is not claimed");
            assert_eq!(kernel.ring_buffers, Err(absent));
        })
        .join()
        .expect("the thread's assertions hold");
    }
}

#[test]
fn the_rights_that_the_documentation_names_are_enough() {
    std::thread::spawn(|| {
        let CapabilitySets { effective, permitted, inheritable } = capabilities(None).expect("own capabilities");
        let kept = CapabilitySet::BPF | CapabilitySet::PERFMON;
        if !effective.contains(kept) {
            assert!(attach(Limits::default()).is_none());
            return;
        }
        set_capabilities(None, CapabilitySets { effective: kept, permitted, inheritable }).expect("giving up is always allowed");
        assert!(!has_right("CAP_SYS_ADMIN"));
        check("exit 3", ExitStatus::Code(3));
    })
    .join()
    .expect("the thread's assertions hold");
}

#[test]
fn rights_are_kept_from_started_programs() {
    std::thread::spawn(|| {
        let ambient_of_child = || {
            let output = Command::new("sh").args(["-c", "cat /proc/self/status"]).output().expect("sh starts");
            let status = String::from_utf8(output.stdout).expect("text");
            let ambient =
                status.lines().find_map(|line| line.strip_prefix("CapAmb:")).expect("every process has one").trim().to_owned();
            u64::from_str_radix(&ambient, 16).expect("hexadecimal")
        };
        let CapabilitySets { effective, permitted, inheritable } = capabilities(None).expect("own capabilities");
        if effective.contains(CapabilitySet::BPF) {
            // As systemd's AmbientCapabilities=CAP_BPF does.
            set_capabilities(None, CapabilitySets { effective, permitted, inheritable: inheritable | CapabilitySet::BPF })
                .expect("permitted");
            rustix::thread::configure_capability_in_ambient_set(CapabilitySet::BPF, true).expect("permitted and inheritable");
            assert_eq!(ambient_of_child(), CapabilitySet::BPF.bits(), "without care a child has it");
        }
        ebpf::keep_rights_from_children().expect("giving up is always allowed");
        assert_eq!(ambient_of_child(), 0);
        assert_eq!(capabilities(None).expect("own capabilities").effective, effective, "the thread keeps its own");
    })
    .join()
    .expect("the thread's assertions hold");
}

#[test]
fn the_kernel_has_what_the_attached_probe_uses() {
    let Some(probe) = attach(Limits::default()) else { return };
    let kernel = kernel();
    for (name, fact) in kernel.facts() {
        assert_eq!(fact, &Ok(()), "{name} on {}", kernel.release);
    }
    assert!(probe.as_fd().try_clone_to_owned().is_ok());
}
