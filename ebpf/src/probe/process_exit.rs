//! User side of `process_exit`: which watched processes ended, when, and with which exit code or signal.
//!
//! Why a probe for what `wait(2)` tells? Because only the parent can wait, and only once. An agent that was restarted finds its engines running and is not
//! their parent; a pidfd then says that one ended, never how. The same holds for an engine's own workers, whose death it may not survive long enough to
//! report. The kernel tells this probe both, in the words that the parent would have heard.

use std::fmt;
use std::fs;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
use std::time::Duration;

use aya::maps::{HashMap, MapData, MapError, PerCpuArray, RingBuf};
use aya::programs::RawTracePoint;
use aya::{Ebpf, EbpfError, EbpfLoader};
use ebpf_abi::process_exit::{Loss, RING_BYTES, Record, WATCHED_MAX};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, pidfd_open};

use crate::btf::Btf;
use crate::kernel::{host_pids, rights};
use crate::{Absent, Probe};

/// The probe's line in the table.
pub(super) const PROBE: Probe =
    Probe { name: "process_exit", tells: "how watched processes end: exit code or signal", object: OBJECT };

static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("CARGO_MANIFEST_DIR"), "/programs/process_exit.bpf.o"));

/// The object's programs and the tracepoint of each.
const HOOKS: [(&str, &str); 2] = [("process_fork", "sched_process_fork"), ("process_exit", "sched_process_exit")];

/// The object's constants, and the field whose place each one is.
const FIELDS: [(&str, &str, &str); 7] = [
    ("TASK_TGID", "task_struct", "tgid"),
    ("TASK_GROUP_LEADER", "task_struct", "group_leader"),
    ("TASK_EXIT_CODE", "task_struct", "exit_code"),
    ("TASK_SIGNAL", "task_struct", "signal"),
    ("SIGNAL_LIVE", "signal_struct", "live"),
    ("SIGNAL_FLAGS", "signal_struct", "flags"),
    ("SIGNAL_GROUP_EXIT_CODE", "signal_struct", "group_exit_code"),
];

/// Of `bpf(2)`: insert only if the key is new.
const BPF_NOEXIST: u64 = 1;

/// How often `unwatch` looks again for processes that were started while it looked.
const UNWATCH_PASSES_MAX: usize = 4;

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ExitStatus {
    /// It exited with this code, 0 to 255.
    Code(i32),
    /// A signal ended it.
    Signal {
        /// The signal's number: 9 is `SIGKILL`, which the kernel's out-of-memory killer uses too.
        number: i32,
        /// Whether a core was written.
        core_dumped: bool,
    },
}

impl ExitStatus {
    /// Reads the status that `wait(2)` gives, of a process that ended.
    pub fn from_wait_status(status: u32) -> Self {
        match status & 0x7f {
            0 => Self::Code((status >> 8 & 0xff) as i32),
            number => Self::Signal { number: number as i32, core_dumped: status & 0x80 != 0 },
        }
    }
}

impl fmt::Display for ExitStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Code(code) => write!(f, "exit code {code}"),
            Self::Signal { number, core_dumped: false } => write!(f, "signal {number}"),
            Self::Signal { number, core_dumped: true } => write!(f, "signal {number} (core dumped)"),
        }
    }
}

/// A watched process, or one that it started, ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProcessExit {
    /// The process that ended.
    pub pid: u32,
    /// The watched process that it descends from; `pid` itself when that is the one that was watched.
    pub root: u32,
    /// How it ended.
    pub status: ExitStatus,
    /// When, in nanoseconds of `CLOCK_MONOTONIC`, the clock of `std::time::Instant`.
    pub at_ns: u64,
}

/// Why a process is not watched.
#[derive(Debug, thiserror::Error)]
pub enum WatchError {
    /// It ended before it could be watched, or never was: there is nothing to come.
    #[error("process {pid} is gone")]
    Gone {
        /// The process.
        pid: u32,
    },
    /// As many processes are watched as the probe was attached for.
    #[error("process {pid} is not watched: the map of watched processes is full")]
    Full {
        /// The process.
        pid: u32,
    },
    /// The kernel refused.
    #[error("process {pid} is not watched")]
    Refused {
        /// The process.
        pid: u32,
        /// What the kernel said.
        source: std::io::Error,
    },
}

/// The sizes that a probe is attached with.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Most processes watched at once, descendants included; kept within 1 and [`Limits::WATCHED_MAX`].
    pub watched: u32,
    /// Bytes of the ring between kernel and user space; rounded up to whole pages and a power of two. An exit takes 32.
    pub ring_bytes: u32,
}

impl Limits {
    /// Most that [`Limits::watched`] can be.
    pub const WATCHED_MAX: u32 = WATCHED_MAX;
}

impl Default for Limits {
    fn default() -> Self {
        Self { watched: WATCHED_MAX, ring_bytes: RING_BYTES }
    }
}

/// What the probe did not see or could not tell, each counted since it was attached.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Losses {
    /// Exits that found the ring full.
    pub ring_full: u64,
    /// Processes that found the map of watched ones full: their exits will not be seen.
    pub map_full: u64,
    /// Exits and forks whose details could not be read from kernel memory.
    pub unread: u64,
}

/// What the probe costs, as the kernel counts it while `kernel.bpf_stats_enabled` is on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cost {
    /// Times a program ran.
    pub runs: u64,
    /// Time in them, together.
    pub run_time_ns: u64,
}

/// The attached probe. Dropping it detaches it.
pub struct ProcessExitProbe {
    /// Holds the programs and their links: they live as long as it does.
    object: Ebpf,
    watched: HashMap<MapData, u32, u32>,
    records: RingBuf<MapData>,
    losses: PerCpuArray<MapData, u64>,
    /// Descendants found by [`Self::watch`] for which the map had no room.
    unfollowed: u64,
}

impl ProcessExitProbe {
    /// Attaches the probe for at most `max_pids` processes at once, descendants included. See [`Self::attach_with`].
    pub fn attach(max_pids: usize) -> Result<Self, Absent> {
        Self::attach_with(Limits { watched: u32::try_from(max_pids).unwrap_or(u32::MAX), ..Limits::default() })
    }

    /// Attaches the probe: from here on the kernel runs it at each fork and exit, and no process is watched yet.
    ///
    /// Takes some tens of milliseconds, most of it for reading the kernel's type information.
    pub fn attach_with(limits: Limits) -> Result<Self, Absent> {
        Self::attach_object(OBJECT, limits)
    }

    /// As [`Self::attach_with`], with another build of the kernel side than the embedded one: how a rebuilt object is tried before it is committed.
    pub fn attach_object(object: &[u8], limits: Limits) -> Result<Self, Absent> {
        // What is known to be missing is said so, before the kernel says only "operation not permitted".
        rights()?;
        host_pids()?;
        let offsets = offsets()?;
        let mut object =
            load(object, limits, &offsets).map_err(|error| Absent::refused("load the object `process_exit`", &error))?;
        for (program, tracepoint) in HOOKS {
            attach_hook(&mut object, program, tracepoint)
                .map_err(|error| Absent::refused("attach the program of a scheduler tracepoint", &error))?;
        }
        let maps = take_maps(&mut object).map_err(|error| Absent::refused("map the object's ring", &error))?;
        let (watched, records, losses) = maps;
        give_memory_back();
        Ok(Self { object, watched, records, losses, unfollowed: 0 })
    }

    /// Watches a process, what it has started (as far as it is still among its descendants), and whatever any of them starts from now on. Gives the
    /// number of processes newly watched. Watching twice is watching once.
    ///
    /// A process that ended before is [`WatchError::Gone`]; one that is watched is reported, however short it lives.
    pub fn watch(&mut self, pid: u32) -> Result<usize, WatchError> {
        let mut parents = Vec::new();
        if self.insert(pid, pid)? {
            parents.push(pid);
        }
        let mut watched = parents.len();
        // A child that is in the map already was put there at its birth, or by an earlier `watch`, and so were its own.
        while let Some(parent) = parents.pop() {
            for child in children(parent) {
                match self.insert(child, pid) {
                    Ok(true) => {
                        watched += 1;
                        parents.push(child);
                    }
                    Ok(false) | Err(WatchError::Gone { .. }) => {}
                    Err(WatchError::Full { .. } | WatchError::Refused { .. }) => self.unfollowed += 1,
                }
            }
        }
        Ok(watched)
    }

    /// Forgets a watched process and its descendants. Exits that happened before may still be drained.
    pub fn unwatch(&mut self, pid: u32) {
        for _ in 0..UNWATCH_PASSES_MAX {
            // The kernel's iteration starts over when its place is removed under it; no more keys than the map holds are taken.
            let family: Vec<u32> = self
                .watched
                .iter()
                .take(WATCHED_MAX as usize)
                .filter_map(Result::ok)
                .filter_map(|(member, root)| (root == pid).then_some(member))
                .collect();
            if family.is_empty() {
                return;
            }
            for member in family {
                let _ = self.watched.remove(&member); // It ended meanwhile.
            }
        }
    }

    /// Number of processes watched now.
    pub fn watched(&self) -> usize {
        self.watched.keys().take(WATCHED_MAX as usize).filter(Result::is_ok).count()
    }

    /// Appends the exits seen since the last call, oldest first, and leaves nothing behind: the kernel makes the ring readable again only for what comes
    /// after a reader has caught up. It ends, because each further turn takes a further process's death.
    pub fn drain(&mut self, out: &mut Vec<ProcessExit>) {
        while let Some(bytes) = self.records.next() {
            let record = Record::from_bytes(&bytes).expect("both sides compile one definition of the record");
            let Record { at_ns, tgid, root, wait_status, reserved: _ } = record;
            out.push(ProcessExit { pid: tgid, root, status: ExitStatus::from_wait_status(wait_status), at_ns });
        }
    }

    /// What was lost, by cause.
    pub fn losses(&self) -> Losses {
        let count = |loss: Loss| self.losses.get(&(loss as u32), 0).map(|of_cpus| of_cpus.iter().sum()).unwrap_or(0);
        Losses { ring_full: count(Loss::RingFull), map_full: count(Loss::MapFull) + self.unfollowed, unread: count(Loss::Unread) }
    }

    /// Everything lost, together: 0 unless a size was too small or the kernel is not what its type information says.
    pub fn dropped(&self) -> u64 {
        let Losses { ring_full, map_full, unread } = self.losses();
        ring_full + map_full + unread
    }

    /// The cost of both programs together; `None` while the kernel does not count (`sysctl kernel.bpf_stats_enabled=1` makes it).
    pub fn cost(&self) -> Option<Cost> {
        self.costs()
            .map(|(_, cost)| cost)
            .reduce(|a, b| Cost { runs: a.runs + b.runs, run_time_ns: a.run_time_ns + b.run_time_ns })
            .filter(|cost| cost.runs > 0)
    }

    /// The cost of each program, under its name.
    pub fn costs(&self) -> impl Iterator<Item = (&'static str, Cost)> {
        HOOKS.iter().map(|(name, _)| (*name, self.program_cost(name).unwrap_or_default()))
    }

    /// The kernel shows a program's counters in its descriptor's fdinfo, one `name:\tvalue` a line.
    fn program_cost(&self, name: &str) -> Option<Cost> {
        let descriptor = self.object.program(name)?.fd().ok()?.as_fd().as_raw_fd();
        let info = fs::read_to_string(format!("/proc/self/fdinfo/{descriptor}")).ok()?;
        let value = |key: &str| info.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':')?.trim().parse().ok());
        Some(Cost { runs: value("run_cnt")?, run_time_ns: value("run_time_ns")? })
    }

    /// Puts a process into the map; `false` when it is there already.
    fn insert(&mut self, pid: u32, root: u32) -> Result<bool, WatchError> {
        // Held until the end, so that nobody else gets the number in between.
        let alive = open(pid)?;
        match self.watched.insert(pid, root, BPF_NOEXIST) {
            Ok(()) => {}
            Err(MapError::SyscallError(error)) => match Errno::from_io_error(&error.io_error) {
                Some(Errno::EXIST) => return Ok(false),
                Some(Errno::TOOBIG) => return Err(WatchError::Full { pid }),
                _ => return Err(WatchError::Refused { pid, source: error.io_error }),
            },
            Err(error) => return Err(WatchError::Refused { pid, source: std::io::Error::other(error) }),
        }
        // If it ended, either the probe took it from the map and its record is in the ring, or it had ended before it was put there.
        if alive.ended() && self.watched.remove(&pid).is_ok() {
            return Err(WatchError::Gone { pid });
        }
        Ok(true)
    }
}

impl AsFd for ProcessExitProbe {
    /// The ring's descriptor: readable when there is something to drain.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.records.as_fd()
    }
}

impl AsRawFd for ProcessExitProbe {
    fn as_raw_fd(&self) -> RawFd {
        self.records.as_raw_fd()
    }
}

impl fmt::Debug for ProcessExitProbe {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ProcessExitProbe")
            .field("watched", &self.watched())
            .field("losses", &self.losses())
            .finish_non_exhaustive()
    }
}

fn offsets() -> Result<[u32; FIELDS.len()], Absent> {
    let btf = Btf::of_kernel()?;
    let mut offsets = [0; FIELDS.len()];
    for (offset, (_, structure, field)) in offsets.iter_mut().zip(FIELDS) {
        *offset = btf.offset_bytes(structure, field)?;
    }
    Ok(offsets)
}

fn load(object: &[u8], limits: Limits, offsets: &[u32; FIELDS.len()]) -> Result<Ebpf, EbpfError> {
    let Limits { watched, ring_bytes } = limits;
    let mut loader = EbpfLoader::new();
    loader.btf(None); // For relocations, of which these programs have none.
    loader.map_max_entries("WATCHED", watched.clamp(1, WATCHED_MAX)).map_max_entries("RECORDS", ring_bytes.max(1));
    for ((constant, _, _), offset) in FIELDS.iter().zip(offsets) {
        loader.override_global(constant, offset, true);
    }
    loader.load(object)
}

fn attach_hook(object: &mut Ebpf, program: &str, tracepoint: &str) -> Result<(), EbpfError> {
    let program = object.program_mut(program).expect("the object has the programs of HOOKS");
    let program: &mut RawTracePoint = program.try_into()?;
    program.load()?;
    program.attach(tracepoint)?;
    Ok(())
}

/// The loader reads the kernel's type information whole, some 15 MB of small pieces, and glibc keeps what is freed; an agent of 40 MB gives them back.
#[cfg(target_env = "gnu")]
fn give_memory_back() {
    #[expect(unsafe_code, reason = "the one call of this crate that is not in a safe binding")]
    // SAFETY: it touches only memory that the allocator holds free, under the allocator's own lock.
    unsafe {
        libc::malloc_trim(0)
    };
}

#[cfg(not(target_env = "gnu"))]
fn give_memory_back() {}

type Maps = (HashMap<MapData, u32, u32>, RingBuf<MapData>, PerCpuArray<MapData, u64>);

fn take_maps(object: &mut Ebpf) -> Result<Maps, MapError> {
    let mut take = |name| object.take_map(name).expect("the object has the maps of its kernel side");
    Ok((take("WATCHED").try_into()?, take("RECORDS").try_into()?, take("LOSSES").try_into()?))
}

/// A hold on a process that outlives its number.
struct Process(rustix::fd::OwnedFd);

fn open(pid: u32) -> Result<Process, WatchError> {
    let gone = || WatchError::Gone { pid };
    let number = i32::try_from(pid).ok().and_then(Pid::from_raw).ok_or_else(gone)?;
    match pidfd_open(number, PidfdFlags::empty()) {
        Ok(descriptor) => Ok(Process(descriptor)),
        Err(Errno::SRCH) => Err(gone()),
        Err(error) => Err(WatchError::Refused { pid, source: error.into() }),
    }
}

impl Process {
    fn ended(&self) -> bool {
        let mut descriptors = [PollFd::new(&self.0, PollFlags::IN)];
        let at_once = Timespec::try_from(Duration::ZERO).expect("zero is a time");
        poll(&mut descriptors, Some(&at_once)).is_ok_and(|ready| ready > 0)
    }
}

/// The processes that any thread of a process started and that are still its children. Empty where the kernel does not list them (CONFIG_PROC_CHILDREN) or
/// the process is gone.
fn children(pid: u32) -> Vec<u32> {
    let Ok(threads) = fs::read_dir(format!("/proc/{pid}/task")) else { return Vec::new() };
    threads
        .filter_map(|thread| fs::read_to_string(thread.ok()?.path().join("children")).ok())
        .flat_map(|list| list.split_ascii_whitespace().filter_map(|pid| pid.parse().ok()).collect::<Vec<_>>())
        .collect()
}

const _: () = {
    const fn goes_between_threads<T: Send>() {}
    goes_between_threads::<ProcessExitProbe>();
};

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::process::ExitStatusExt as _;

    #[test]
    fn a_status_says_what_the_standard_library_says() {
        for raw in 0..=u32::from(u16::MAX) {
            let peer = std::process::ExitStatus::from_raw(raw as i32);
            let expected = match (peer.code(), peer.signal()) {
                (Some(code), None) => ExitStatus::Code(code),
                (None, Some(number)) => ExitStatus::Signal { number, core_dumped: peer.core_dumped() },
                _ => continue, // Stopped or continued: not an end.
            };
            assert_eq!(ExitStatus::from_wait_status(raw), expected, "{raw:#06x}");
        }
    }
}
