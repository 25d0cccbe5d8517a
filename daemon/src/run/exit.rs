//! How a process ended, in words and in the few classes that metrics count.

use std::fmt;

/// How a process ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Exit {
    Code(i32),
    Signal {
        signal: i32,
        core: bool,
    },
    /// It is gone; only its parent or a kernel probe could have seen how.
    Unknown,
}

impl Exit {
    /// Reads a status as wait(2) gives it.
    pub fn from_wait_status(status: i32) -> Self {
        if status & 0x7f == 0 {
            Self::Code((status >> 8) & 0xff)
        } else {
            Self::Signal { signal: status & 0x7f, core: status & 0x80 != 0 }
        }
    }

    pub fn class(&self) -> ExitClass {
        match self {
            Self::Code(_) => ExitClass::Code,
            Self::Signal { .. } => ExitClass::Signal,
            Self::Unknown => ExitClass::Unknown,
        }
    }
}

impl fmt::Display for Exit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Code(code) => write!(f, "exited with code {code}"),
            Self::Signal { signal, core } => {
                let core = if *core { ", core dumped" } else { "" };
                match signal_name(*signal) {
                    Some(name) => write!(f, "killed by signal {signal} ({name}{core})"),
                    None => write!(f, "killed by signal {signal}{core}"),
                }
            }
            Self::Unknown => f.write_str("exited, how was not seen"),
        }
    }
}

/// Names of the signals that end processes; Linux numbers are the same on x86-64 and AArch64.
fn signal_name(signal: i32) -> Option<&'static str> {
    Some(match signal {
        libc::SIGHUP => "SIGHUP",
        libc::SIGINT => "SIGINT",
        libc::SIGQUIT => "SIGQUIT",
        libc::SIGILL => "SIGILL",
        libc::SIGTRAP => "SIGTRAP",
        libc::SIGABRT => "SIGABRT",
        libc::SIGBUS => "SIGBUS",
        libc::SIGFPE => "SIGFPE",
        libc::SIGKILL => "SIGKILL",
        libc::SIGSEGV => "SIGSEGV",
        libc::SIGPIPE => "SIGPIPE",
        libc::SIGALRM => "SIGALRM",
        libc::SIGTERM => "SIGTERM",
        libc::SIGXCPU => "SIGXCPU",
        libc::SIGSYS => "SIGSYS",
        _ => return None,
    })
}

/// What metrics count ends by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum ExitClass {
    /// It was asked to.
    Asked,
    Code,
    Signal,
    /// Requests ran and no step was made.
    Stuck,
    /// It did not answer any more.
    Silent,
    /// It said so itself.
    Failed,
    /// It never became ready.
    NotReady,
    /// It could not be started.
    Spawn,
    Unknown,
}

impl ExitClass {
    pub const ALL: [Self; 9] = [
        Self::Asked,
        Self::Code,
        Self::Signal,
        Self::Stuck,
        Self::Silent,
        Self::Failed,
        Self::NotReady,
        Self::Spawn,
        Self::Unknown,
    ];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Asked => "asked",
            Self::Code => "code",
            Self::Signal => "signal",
            Self::Stuck => "stuck",
            Self::Silent => "silent",
            Self::Failed => "failed",
            Self::NotReady => "not_ready",
            Self::Spawn => "spawn",
            Self::Unknown => "unknown",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wait_status_is_read_as_wait_2_writes_it() {
        let cases = [
            (0x0000, "exited with code 0"),
            (0x0300, "exited with code 3"),
            (0x0009, "killed by signal 9 (SIGKILL)"),
            (0x008b, "killed by signal 11 (SIGSEGV, core dumped)"),
            (0x0022, "killed by signal 34"),
        ];
        for (status, said) in cases {
            assert_eq!(Exit::from_wait_status(status).to_string(), said, "{status:#x}");
        }
    }
}
