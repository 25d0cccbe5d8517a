//! One supervised process: started so that it outlives the agent, or adopted from an earlier one; its end seen by pidfd.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};

use rustix::process::{Pid, PidfdFlags, Signal, WaitId, WaitIdOptions, pidfd_open, pidfd_send_signal, waitid};
use tokio::io::unix::AsyncFd;

use crate::run::exit::Exit;

/// Environment variable that marks an engine and all its descendants with the life they belong to.
pub const LIFE_ENV: &str = "TRACKSIDE_LIFE";

/// What to start.
pub struct Launch<'a> {
    pub command: &'a [String],
    pub env: &'a BTreeMap<String, String>,
    /// Value of [`LIFE_ENV`].
    pub life: &'a str,
    pub log: File,
}

/// A running process, named beyond doubt: a pid is used again, a pid with its start time is not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProcessId {
    pub pid: u32,
    /// Field 22 of `/proc/<pid>/stat`, in clock ticks since boot.
    pub start_ticks: u64,
}

/// A process whose end is awaited.
pub struct Process {
    pub id: ProcessId,
    pidfd: AsyncFd<OwnedFd>,
}

impl Process {
    /// Starts it in a process group of its own, with its output in a file: nothing of it depends on the agent.
    pub fn spawn(launch: Launch<'_>) -> io::Result<Self> {
        let Launch { command, env, life, log } = launch;
        let (program, args) = command.split_first().ok_or_else(|| io::Error::other("the command is empty"))?;
        let child = Command::new(program)
            .args(args)
            .envs(env)
            .env(LIFE_ENV, life)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .process_group(0)
            .spawn()?;
        // Until it is waited for, its pid is not used again. Dropping a `Child` neither waits nor kills.
        let pid = child.id();
        let pidfd = open(pid)?;
        let start_ticks = start_ticks(Path::new("/proc"), pid)?;
        Ok(Self { id: ProcessId { pid, start_ticks }, pidfd: awaited(pidfd)? })
    }

    /// Takes over a process that an earlier agent started; `None` if it is gone.
    pub fn adopt(id: ProcessId) -> io::Result<Option<Self>> {
        // The descriptor comes first: what it names cannot change after the start time was compared.
        let pidfd = match open(id.pid) {
            Ok(pidfd) => pidfd,
            Err(error) if error.raw_os_error() == Some(libc::ESRCH) => return Ok(None),
            Err(error) => return Err(error),
        };
        match stat(Path::new("/proc"), id.pid) {
            Ok(stat) if stat.start_ticks == id.start_ticks && !stat.is_dead() => Ok(Some(Self { id, pidfd: awaited(pidfd)? })),
            _ => Ok(None),
        }
    }

    /// Waits for the end. How it ended is known only where it is a child of this process.
    pub async fn ended(&self) -> Exit {
        // An error can only mean that the runtime is going away, and then nobody waits for the answer.
        let _ready = self.pidfd.readable().await;
        self.status().unwrap_or(Exit::Unknown)
    }

    fn status(&self) -> Option<Exit> {
        let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG;
        let status = waitid(WaitId::PidFd(self.pidfd.get_ref().as_fd()), options).ok()??;
        if let Some(code) = status.exit_status() {
            return Some(Exit::Code(code));
        }
        status.terminating_signal().map(|signal| Exit::Signal { signal, core: status.dumped() })
    }

    /// SIGTERM to this one process; it knows best how to end its workers.
    pub fn terminate(&self) -> io::Result<()> {
        Ok(pidfd_send_signal(self.pidfd.get_ref(), Signal::TERM)?)
    }
}

impl Drop for Process {
    /// One that has ended and was never asked how must not stay a zombie; one that runs is not touched.
    fn drop(&mut self) {
        let _status = self.status();
    }
}

#[expect(
    deprecated,
    reason = "its replacement is unsafe for the sake of types that may close or change their descriptor; an OwnedFd does neither"
)]
fn awaited(pidfd: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    AsyncFd::with_interest(pidfd, tokio::io::Interest::READABLE)
}

/// A descriptor of the process, closed on exec.
pub fn open(pid: u32) -> io::Result<OwnedFd> {
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw).ok_or_else(|| io::Error::other("pid 0"))?;
    Ok(pidfd_open(pid, PidfdFlags::empty())?)
}

/// The fields of `/proc/<pid>/stat` that tell processes and their families apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stat {
    pub state: u8,
    pub parent: u32,
    pub group: u32,
    pub session: u32,
    pub start_ticks: u64,
}

impl Stat {
    /// Parses the line. The command's name, in parentheses, may itself hold spaces and parentheses: what follows the last one counts.
    pub fn parse(line: &str) -> Option<Self> {
        let (_, rest) = line.rsplit_once(')')?;
        let fields: Vec<&str> = rest.split_ascii_whitespace().collect();
        // Numbering of proc_pid_stat(5) starts at 1; the state is field 3 and the first one here.
        let number = |field: usize| fields.get(field - 3).and_then(|text| text.parse::<i64>().ok());
        Some(Self {
            state: *fields.first()?.as_bytes().first()?,
            parent: u32::try_from(number(4)?).ok()?,
            group: u32::try_from(number(5)?).ok()?,
            session: u32::try_from(number(6)?).ok()?,
            start_ticks: fields.get(22 - 3)?.parse().ok()?,
        })
    }

    /// Dead and not yet waited for.
    pub fn is_dead(&self) -> bool {
        matches!(self.state, b'Z' | b'X')
    }
}

pub fn stat(proc: &Path, pid: u32) -> io::Result<Stat> {
    let bytes = fs::read(proc.join(pid.to_string()).join("stat"))?;
    Stat::parse(&String::from_utf8_lossy(&bytes)).ok_or_else(|| io::Error::other("/proc/<pid>/stat is not understood"))
}

fn start_ticks(proc: &Path, pid: u32) -> io::Result<u64> {
    stat(proc, pid).map(|stat| stat.start_ticks)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_name_with_parentheses_and_spaces_does_not_shift_the_fields() {
        let line = "4242 (a) b (c)) S 17 4242 4200 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 3 0 987654 1000 20 1\n";
        let stat = Stat::parse(line).expect("a stat line");
        assert_eq!(stat, Stat { state: b'S', parent: 17, group: 4242, session: 4200, start_ticks: 987_654 });
        assert_eq!(Stat::parse("4242 (short) S 1"), None);
        assert_eq!(Stat::parse(""), None);
    }
}
