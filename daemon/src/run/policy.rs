//! How patient the supervisor is: every time span in an engine's life, with the default that is right for most.

use std::time::Duration;

use domain::gpu::EngineHealth;

use crate::run::exit::ExitClass;

/// How patient the supervisor is.
#[derive(Clone, Debug, PartialEq)]
pub struct Policy {
    /// Longest time from start to the first answer; loading a large model takes minutes (vLLM allows 600 s).
    pub ready_within: Duration,
    /// Longest time without any sign of life of an engine that has answered once.
    pub silent_after: Duration,
    /// Longest time in which requests run and no step is made.
    pub stuck_after: Duration,
    /// How long requests may take to finish once the engine is to be stopped.
    pub drain_within: Duration,
    /// Time between SIGTERM and SIGKILL.
    pub term_grace: Duration,
    /// First and longest delay before a restart; doubles in between.
    pub backoff_first: Duration,
    pub backoff_max: Duration,
    /// Serving this long without a crash forgives the crashes before.
    pub stable_after: Duration,
    /// More crashes than this within [`Policy::crash_window`] end in quarantine.
    pub crashes_max: usize,
    pub crash_window: Duration,
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            ready_within: Duration::from_secs(600),
            silent_after: Duration::from_secs(30),
            stuck_after: Duration::from_secs(60),
            drain_within: Duration::from_secs(30),
            term_grace: Duration::from_secs(10),
            backoff_first: Duration::from_secs(1),
            backoff_max: Duration::from_secs(60),
            stable_after: Duration::from_secs(600),
            crashes_max: 5,
            crash_window: Duration::from_secs(600),
        }
    }
}

/// What follows the end of a life that nobody asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Restart {
    /// Again after a delay that doubles; too often within the window is given up.
    Backoff,
    /// Not before its GPUs are well.
    Withhold { why: String },
}

/// Decides by how it ended and by what is known of its GPUs. An application's XID (13, 31, 43, 94 …) leaves the GPU's verdict alone, so its
/// engine starts again at once; one that asks for a reset or a reboot withholds it, whatever the exit code says.
pub fn restart(exit: ExitClass, gpu: &EngineHealth) -> Restart {
    match exit {
        // The program itself cannot be run: no GPU had a part in that.
        ExitClass::Spawn => Restart::Backoff,
        _ if gpu.verdict.takes_work() => Restart::Backoff,
        _ => Restart::Withhold { why: gpu.reason.clone() },
    }
}
