//! One life of an engine's process: started or taken over, written down, and known with all that descends from it.

use std::fs::File;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use domain::Incarnation;
use tokio::task::spawn_blocking;
use tokio_util::sync::CancellationToken;

use crate::config::Slot;
use crate::run::Shared;
use crate::run::cgroup::Cgroup;
use crate::run::exit::Exit;
use crate::run::log::Log;
use crate::run::process::{Launch, Process, ProcessId};
use crate::run::record::Record;
use crate::run::tree::Tree;

/// How long the ending of a tree may take before what is left is named by pid.
const CLEAR_WITHIN: Duration = Duration::from_secs(10);

/// A process of an engine, from its start until nothing of its tree is left.
pub struct Life {
    engine: String,
    process: Process,
    tree: Tree,
    record: Record,
    containment: String,
    running: bool,
    attached: CancellationToken,
}

/// What became of an engine that an earlier agent started.
pub enum Adopted {
    /// It runs and is ours again.
    Runs(Box<Life>),
    /// Nothing of it is left.
    Gone,
    /// Its process is gone, and these of its descendants could not be ended.
    Left { survivors: Vec<u32> },
}

impl Life {
    /// Starts the engine's process. The error is for a person.
    pub async fn start(shared: &Shared, slot: &Slot, log: Option<&Log>, drain: bool, restarts: u32) -> Result<Self, String> {
        let life = format!("{:016x}", rand::random::<u64>());
        let engine = slot.name.as_str().to_owned();
        let (command, env) = slot.launch(&shared.engine_program);
        let log = log.map_or_else(|| File::options().write(true).open("/dev/null"), Log::begin);
        let log = log.map_err(|error| format!("cannot open its log: {error}; free space under the state folder"))?;
        let cgroup = match &shared.cgroups {
            Ok(base) => base.create(&life).map_err(|error| error.to_string()),
            Err(why) => Err(why.clone()),
        };
        let mut record = Record {
            life: life.clone(),
            boot_id: shared.boot_id.clone(),
            pid: None,
            start_ticks: None,
            cgroup: cgroup.as_ref().ok().map(|cgroup| cgroup.path().to_owned()),
            drain,
            restarts,
            given_up: None,
            address: None,
        };
        shared.save(&engine, &record).await;
        let process = Process::spawn(Launch { command: &command, env: &env, life: &life, log }).map_err(|error| {
            if let Ok(cgroup) = &cgroup {
                cgroup.remove();
            }
            shared.records.remove(&engine);
            let program = command.first().map(String::as_str).unwrap_or_default();
            format!("cannot start {program:?}: {error}")
        })?;
        let because = cgroup.as_ref().err().cloned();
        let tree = Tree::new(life, Some(process.id), cgroup.ok());
        let contained = match because {
            None => tree.enclose().map_err(|error| format!("cannot enter its cgroup: {error}")),
            Some(why) => Err(why),
        };
        let containment = contained.map_or_else(|why| format!("process family ({why})"), |()| "cgroup".to_owned());
        shared.probe.watch(process.id.pid);
        record.pid = Some(process.id.pid);
        record.start_ticks = Some(process.id.start_ticks);
        shared.save(&engine, &record).await;
        Ok(Self { engine, process, tree, record, containment, running: true, attached: CancellationToken::new() })
    }

    /// Takes over what an earlier agent wrote down, or clears away what is left of it.
    pub async fn adopt(shared: &Shared, slot: &Slot, record: Record) -> Adopted {
        let engine = slot.name.as_str().to_owned();
        let id = record.pid.zip(record.start_ticks).map(|(pid, start_ticks)| ProcessId { pid, start_ticks });
        let cgroup = record.cgroup.as_deref().and_then(Cgroup::adopt);
        let containment = if cgroup.is_some() { "cgroup" } else { "process family (as it was started)" }.to_owned();
        let mut tree = Tree::new(record.life.clone(), id, cgroup);
        let process = id.and_then(|id| {
            Process::adopt(id).unwrap_or_else(|error| {
                tracing::warn!(engine, %error, "the recorded process cannot be watched and is ended");
                None
            })
        });
        let Some(process) = process else {
            let main = id.map(|id| id.pid);
            let cleared = spawn_blocking(move || tree.clear(CLEAR_WITHIN)).await;
            let survivors = cleared.unwrap_or_else(|_| main.into_iter().collect());
            if survivors.is_empty() {
                shared.records.remove(&engine);
                return Adopted::Gone;
            }
            return Adopted::Left { survivors };
        };
        tree.remember();
        shared.probe.watch(process.id.pid);
        let attached = CancellationToken::new();
        Adopted::Runs(Box::new(Self { engine, process, tree, record, containment, running: true, attached }))
    }

    pub fn pid(&self) -> u32 {
        self.process.id.pid
    }

    /// Whether its end was not heard of yet.
    pub fn is_running(&self) -> bool {
        self.running
    }

    /// How its processes are kept together.
    pub fn containment(&self) -> &str {
        &self.containment
    }

    /// What tells this life from others until the engine gives a number of its own.
    pub fn incarnation(&self) -> Incarnation {
        self.record.life.parse().unwrap_or(Incarnation(0))
    }

    /// Where it was seen to listen.
    pub fn address(&self) -> Option<SocketAddr> {
        self.record.address
    }

    /// Cancelled when there is nothing to read from it any more.
    pub fn attached(&self) -> CancellationToken {
        self.attached.clone()
    }

    /// Waits for the end of the main process.
    pub async fn ended(&self) -> Exit {
        self.process.ended().await
    }

    pub fn has_ended(&mut self) {
        self.running = false;
        self.attached.cancel();
    }

    /// SIGTERM to the main process.
    pub fn terminate(&self) -> io::Result<()> {
        self.process.terminate()
    }

    /// What ends the whole tree, to be called where blocking is allowed; returns what could not be ended, by pid.
    pub fn clear(&self) -> impl FnOnce() -> Vec<u32> + Send + 'static {
        self.attached.cancel();
        let tree = self.tree.clone();
        move || tree.clear(CLEAR_WITHIN)
    }

    /// Notes who descends from it at this moment.
    pub fn remember(&mut self) {
        self.tree.remember();
    }

    /// Changes its record, and writes it where that changed anything.
    pub async fn amend(&mut self, shared: &Shared, change: impl FnOnce(&mut Record)) {
        let before = self.record.clone();
        change(&mut self.record);
        if self.record != before {
            shared.save(&self.engine, &self.record).await;
        }
    }
}

impl Drop for Life {
    fn drop(&mut self) {
        self.attached.cancel();
    }
}
