//! All processes that descend from one engine, found and ended, even those that left its group or lost their parent.
//!
//! Five marks, because each alone has a hole: the cgroup (not everywhere), the life in the environment (a program that writes its
//! title may overwrite it), the process group and the session of the main process (a child may leave both), parenthood (lost when a
//! parent dies), and what an earlier look at the living tree remembered. Processes are looked for when an engine ends, never on a timer.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Signal, WaitId, WaitIdOptions, pidfd_send_signal, waitid};

use crate::run::cgroup::Cgroup;
use crate::run::process::{LIFE_ENV, ProcessId, open, stat};

/// Most processes of one engine that are remembered.
const REMEMBERED_MAX: usize = 4096;
/// Rounds in which the first children are brought into the cgroup; each child outside may start one more meanwhile.
const ENCLOSE_ROUNDS_MAX: usize = 8;
/// Between two looks for processes that appeared while others were being ended.
const LOOK_AGAIN: Duration = Duration::from_millis(50);

/// What marks the processes of one life.
#[derive(Clone, Debug)]
pub struct Tree {
    pub life: String,
    pub main: Option<ProcessId>,
    pub cgroup: Option<Cgroup>,
    remembered: BTreeMap<u32, u64>,
}

impl Tree {
    pub fn new(life: String, main: Option<ProcessId>, cgroup: Option<Cgroup>) -> Self {
        Self { life, main, cgroup, remembered: BTreeMap::new() }
    }

    /// Puts the main process into the cgroup, and whoever it started before it was in; its later children are born there.
    pub fn enclose(&self) -> io::Result<()> {
        let (Some(cgroup), Some(main)) = (&self.cgroup, self.main) else { return Ok(()) };
        cgroup.add(main.pid)?;
        for _ in 0..ENCLOSE_ROUNDS_MAX {
            let mut descendants = BTreeMap::new();
            descend(main.pid, &mut descendants);
            let inside = cgroup.members();
            let outside: Vec<u32> = descendants.into_keys().filter(|pid| !inside.contains(pid)).collect();
            if outside.is_empty() {
                break;
            }
            // One that has ended meanwhile need not come along.
            outside.into_iter().for_each(|pid| drop(cgroup.add(pid)));
        }
        Ok(())
    }

    /// Walks down from the main process and keeps who is there, for the time when parenthood is lost. Costs reads in the size of
    /// the tree.
    pub fn remember(&mut self) {
        let Some(main) = self.main else { return };
        let mut found = BTreeMap::new();
        descend(main.pid, &mut found);
        self.remembered = found;
    }

    /// Who lives, by pid. The calling process is never among them.
    pub fn members(&self) -> BTreeMap<u32, u64> {
        let mut members = BTreeMap::new();
        let mut add = |pid: u32| {
            if let Ok(stat) = stat(Path::new("/proc"), pid)
                && !stat.is_dead()
            {
                members.insert(pid, stat.start_ticks);
            }
        };
        self.cgroup.iter().flat_map(Cgroup::members).for_each(&mut add);
        let remembered = self.remembered.iter().filter(|(pid, start)| starts_at(**pid, **start));
        remembered.for_each(|(pid, _)| add(*pid));
        let mark = format!("{LIFE_ENV}={}", self.life);
        // A group keeps its number from being used again as long as it has members; an unrelated process that got the main
        // process's pid afterwards shows another start time, and then the number says nothing any more.
        let group = self.main.filter(|main| match stat(Path::new("/proc"), main.pid) {
            Ok(stat) => stat.start_ticks == main.start_ticks,
            Err(_) => true,
        });
        for pid in all_pids() {
            let by_group = group.is_some_and(|main| {
                stat(Path::new("/proc"), pid).is_ok_and(|stat| {
                    (stat.group == main.pid || stat.session == main.pid) && stat.start_ticks >= main.start_ticks
                })
            });
            if by_group || has_mark(pid, mark.as_bytes()) {
                add(pid);
            }
        }
        for pid in members.keys().copied().collect::<Vec<_>>() {
            descend(pid, &mut members);
        }
        members.remove(&std::process::id());
        members
    }

    /// Ends all of them with SIGKILL and waits until they are gone; what is left after `patience` is returned by pid. Blocks.
    pub fn clear(&self, patience: Duration) -> Vec<u32> {
        let until = Instant::now() + patience;
        loop {
            let members = self.members();
            if members.is_empty() {
                if let Some(cgroup) = &self.cgroup {
                    cgroup.remove();
                }
                return Vec::new();
            }
            let now = Instant::now();
            if now >= until {
                return members.into_keys().collect();
            }
            if let Some(Err(error)) = self.cgroup.as_ref().map(Cgroup::kill) {
                tracing::warn!(life = self.life, %error, "cgroup.kill failed; its processes are killed one by one");
            }
            let killed: Vec<(u32, OwnedFd)> = members.iter().filter_map(|(pid, start)| kill(*pid, *start)).collect();
            self.wait(&killed, (until - now).min(Duration::from_secs(1)));
            if killed.is_empty() {
                std::thread::sleep(LOOK_AGAIN);
            }
        }
    }

    /// Waits until all are gone or the time is over.
    fn wait(&self, killed: &[(u32, OwnedFd)], patience: Duration) {
        let until = Instant::now() + patience;
        for (pid, pidfd) in killed {
            let left = until.saturating_duration_since(Instant::now());
            let timeout = Timespec { tv_sec: left.as_secs() as i64, tv_nsec: i64::from(left.subsec_nanos()) };
            let gone = matches!(poll(&mut [PollFd::new(pidfd, PollFlags::IN)], Some(&timeout)), Ok(1..));
            if gone && self.main.is_none_or(|main| main.pid != *pid) {
                // An orphan that fell to us (an agent that is pid 1) must not stay a zombie; for all others this is ECHILD. The main
                // process is waited for by who started it, for its status.
                let _reaped = waitid(WaitId::PidFd(pidfd.as_fd()), WaitIdOptions::EXITED | WaitIdOptions::NOHANG);
            }
        }
    }
}

fn all_pids() -> impl Iterator<Item = u32> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok())
}

fn starts_at(pid: u32, start_ticks: u64) -> bool {
    stat(Path::new("/proc"), pid).is_ok_and(|stat| stat.start_ticks == start_ticks)
}

fn has_mark(pid: u32, mark: &[u8]) -> bool {
    // Unreadable for processes of other users, which are not ours then.
    fs::read(format!("/proc/{pid}/environ")).is_ok_and(|environ| environ.split(|byte| *byte == 0).any(|entry| entry == mark))
}

/// Adds `pid`'s living descendants.
fn descend(pid: u32, found: &mut BTreeMap<u32, u64>) {
    let mut open = BTreeSet::from([pid]);
    while let Some(parent) = open.pop_first() {
        let tasks = fs::read_dir(format!("/proc/{parent}/task")).into_iter().flatten().flatten();
        for task in tasks {
            let children = fs::read_to_string(task.path().join("children")).unwrap_or_default();
            for child in children.split_ascii_whitespace().filter_map(|text| text.parse().ok()) {
                if found.len() < REMEMBERED_MAX
                    && !found.contains_key(&child)
                    && let Ok(stat) = stat(Path::new("/proc"), child)
                    && !stat.is_dead()
                {
                    found.insert(child, stat.start_ticks);
                    open.insert(child);
                }
            }
        }
    }
}

fn kill(pid: u32, start_ticks: u64) -> Option<(u32, OwnedFd)> {
    let pidfd = open(pid).ok()?;
    // Compared after the descriptor was opened: from here on it cannot mean another process.
    if !starts_at(pid, start_ticks) {
        return None;
    }
    pidfd_send_signal(&pidfd, Signal::KILL).ok()?;
    Some((pid, pidfd))
}
