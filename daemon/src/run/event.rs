//! What can happen to an engine, and what can be done about it: the alphabet of its state machine.

use domain::gpu::EngineHealth;

use crate::run::exit::Exit;

/// What happened.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// The process runs.
    Spawned,
    /// A process of an earlier agent runs and is ours again.
    Adopted,
    SpawnFailed {
        why: String,
    },
    /// The engine answers, but is not ready.
    Answers,
    /// The engine takes requests. `busy`: requests it holds in any form; `steps` grows while it works.
    Serves {
        busy: u64,
        running: u32,
        steps: u64,
        /// The engine itself says that it takes nothing new.
        draining: bool,
    },
    /// The engine could not be reached just now.
    Silent {
        why: String,
    },
    /// The engine answers, and what it says is that it has failed.
    Failed {
        why: String,
    },
    /// It must not be started: a person has to look first.
    Forbidden {
        why: String,
    },
    /// The main process is gone.
    Exited(Exit),
    /// The clearing asked for is done; what could not be ended is named by pid.
    Cleared {
        survivors: Vec<u32>,
    },
    Drain(bool),
    /// What its GPUs mean for it has changed.
    Device(EngineHealth),
    /// End it and do not start it again.
    Stop,
    /// The operator says that the cause is repaired; or asks for a stopped engine again.
    Release,
    Tick,
}

/// What has to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    Spawn,
    /// SIGTERM to the main process.
    Terminate,
    /// SIGKILL to all that descends from the engine, until nothing is left; ends with [`Event::Cleared`].
    Clear,
}
