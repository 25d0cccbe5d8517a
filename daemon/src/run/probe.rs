//! How a process ended that is not our child: seen by the kernel probe, where the agent may have one.
//!
//! An adopted engine has another parent, and pidfd tells only *that* it ended. The probe's record is written before the pidfd
//! becomes readable, so whoever has seen the end finds the record.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use ebpf::{ExitStatus, Limits, ProcessExit, ProcessExitProbe};

use crate::node::ProbeFact;
use crate::run::exit::Exit;

/// Ends kept for those who have not asked yet.
const EXITS_MAX: usize = 1024;

/// The probe, or why there is none.
pub struct ExitProbe {
    inner: Result<Mutex<Inner>, Absence>,
}

struct Inner {
    probe: ProcessExitProbe,
    exits: BTreeMap<u32, ProcessExit>,
    drained: Vec<ProcessExit>,
}

/// Why the probe is absent: a word for metrics and a sentence for people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Absence {
    pub label: &'static str,
    pub sentence: String,
}

impl ExitProbe {
    /// Attaches the probe, or learns why it cannot be.
    pub fn attach() -> Self {
        let attached = ProcessExitProbe::attach(Limits::WATCHED_MAX as usize);
        let inner = attached.map(|probe| Mutex::new(Inner { probe, exits: BTreeMap::new(), drained: Vec::new() }));
        let inner = inner.map_err(|absent| Absence { label: absent.label(), sentence: format!("{absent}; {}", absent.action()) });
        Self { inner }
    }

    /// What the node says of it.
    pub fn fact(&self) -> ProbeFact {
        ProbeFact { probe: "process_exit", absent: self.inner.as_ref().err().cloned() }
    }

    fn inner(&self) -> Option<MutexGuard<'_, Inner>> {
        self.inner.as_ref().ok().map(|inner| inner.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Watches a process and what it starts from now on.
    pub fn watch(&self, pid: u32) {
        if let Some(mut inner) = self.inner() {
            // A pid that was used before must not answer with its predecessor's end.
            inner.exits.remove(&pid);
            if let Err(error) = inner.probe.watch(pid) {
                tracing::debug!(pid, %error, "the exit probe does not watch it");
            }
        }
    }

    /// How a watched process ended, once.
    pub fn exit_of(&self, pid: u32) -> Option<Exit> {
        let mut inner = self.inner()?;
        inner.drain();
        inner.exits.remove(&pid).map(|exit| match exit.status {
            ExitStatus::Code(code) => Exit::Code(code),
            ExitStatus::Signal { number, core_dumped } => Exit::Signal { signal: number, core: core_dumped },
        })
    }

    /// Takes what the kernel has written, so that its ring never fills; returns what was lost so far.
    pub fn drain(&self) -> u64 {
        self.inner().map_or(0, |mut inner| {
            inner.drain();
            inner.probe.dropped()
        })
    }
}

impl Inner {
    fn drain(&mut self) {
        let Self { probe, exits, drained } = self;
        probe.drain(drained);
        for exit in drained.drain(..) {
            // Descendants end too; only the processes watched by name are asked for.
            if exit.pid == exit.root {
                exits.insert(exit.pid, exit);
            }
            if exits.len() > EXITS_MAX
                && let Some(oldest) = exits.values().min_by_key(|exit| exit.at_ns).map(|exit| exit.pid)
            {
                exits.remove(&oldest);
            }
        }
    }
}
