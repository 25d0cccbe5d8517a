//! Does what the state machine of one engine decides, and tells it what happens.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use domain::{DataAddress, EngineName, EngineState, Incarnation};
use tokio::sync::mpsc;
use tokio::task::{JoinHandle, spawn_blocking};
use tokio_util::sync::CancellationToken;

use crate::attach::{self, Observed, Seen, Target};
use crate::config::{OnStop, Slot, SlotKind};
use crate::node::{Counters, Node, Urgency};
use crate::report::blocks::BlockLog;
use crate::run::cgroup::{Cgroup, CgroupBase};
use crate::run::exit::{Exit, ExitClass};
use crate::run::log::{LOG_BYTES_MAX, Log};
use crate::run::machine::{Action, Event, Machine};
use crate::run::probe::ExitProbe;
use crate::run::process::{Launch, Process, ProcessId};
use crate::run::record::{Record, Records};
use crate::run::tree::Tree;
use crate::run::{Order, exit};

/// Observations of one engine that wait for its supervisor.
const SEEN_MAX: usize = 64;
/// How long the ending of a tree may take before what is left is named by pid.
const CLEAR_WITHIN: Duration = Duration::from_secs(10);
/// Between two looks at the size of the log and at who descends from the engine.
const CARE_EVERY: Duration = Duration::from_secs(10);
/// Lines of output shown with a crash.
const REASON_LINES: usize = 3;
/// Lines shown with an engine that is given up; a person will read them.
const QUARANTINE_LINES: usize = 20;
const REASON_CHARS_MAX: usize = 2000;

/// What all supervisors of one agent share.
pub struct Shared {
    pub node: Arc<Node>,
    pub records: Records,
    pub state_dir: PathBuf,
    pub boot_id: String,
    /// The error says why processes are kept together only by their family.
    pub cgroups: Result<CgroupBase, String>,
    pub probe: ExitProbe,
    pub on_stop: OnStop,
    /// Program that runs `engine …`.
    pub engine_program: PathBuf,
}

pub struct Supervisor {
    shared: Arc<Shared>,
    slot: Slot,
    machine: Machine,
    clock: Instant,
    orders: mpsc::Receiver<Order>,
    blocks: Arc<BlockLog>,
    log: Option<Log>,
    life: Option<Life>,
    clearing: Option<JoinHandle<Vec<u32>>>,
    seen: (mpsc::Sender<Seen>, mpsc::Receiver<Seen>),
    cared_at: Instant,
    restarts_before: u32,
    /// Where the running life listens, as written in its record.
    address: Option<SocketAddr>,
}

/// One life of the engine's process.
struct Life {
    tree: Tree,
    process: Option<Process>,
    /// The process's end was told to the machine.
    ended: bool,
    attached: CancellationToken,
}

impl Drop for Life {
    fn drop(&mut self) {
        self.attached.cancel();
    }
}

/// What the loop woke up for.
enum Woken {
    Order(Option<Order>),
    Seen(Seen),
    Exited(Exit),
    Cleared(Vec<u32>),
    Tick,
    Shutdown,
}

impl Supervisor {
    pub fn new(shared: Arc<Shared>, slot: Slot, orders: mpsc::Receiver<Order>, blocks: Arc<BlockLog>) -> Self {
        let owned = !matches!(slot.kind, SlotKind::Attach { .. });
        Self {
            machine: Machine::new(slot.policy.clone(), owned, rand::random()),
            shared,
            slot,
            clock: Instant::now(),
            orders,
            blocks,
            log: None,
            life: None,
            clearing: None,
            seen: mpsc::channel(SEEN_MAX),
            cared_at: Instant::now(),
            restarts_before: 0,
            address: None,
        }
    }

    fn now(&self) -> Duration {
        self.clock.elapsed()
    }

    fn name(&self) -> &EngineName {
        &self.slot.name
    }

    /// Runs until the agent ends or, when engines are to end with it, until this one has.
    pub async fn run(mut self, shutdown: CancellationToken) {
        self.begin().await;
        let mut leaving = false;
        while !(leaving && self.machine.is_stopped()) {
            self.publish();
            let woken = self.wait(&shutdown, leaving).await;
            let now = self.now();
            let actions = match woken {
                Woken::Shutdown => {
                    if self.shared.on_stop == OnStop::Leave {
                        break;
                    }
                    leaving = true;
                    self.machine.on(now, Event::Stop)
                }
                Woken::Order(Some(order)) => {
                    if let Order::Drain(on) = order {
                        self.amend(|record| record.drain = on).await;
                    }
                    self.ordered(order)
                }
                Woken::Order(None) => break,
                Woken::Seen(seen) => {
                    if let Seen::Observed(observed) = &seen
                        && self.life.is_some()
                        && self.address != Some(observed.address)
                    {
                        self.address = Some(observed.address);
                        self.amend(|record| record.address = self.address).await;
                    }
                    self.observed(seen)
                }
                Woken::Exited(exit) => {
                    if let Some(life) = &mut self.life {
                        life.ended = true;
                        life.attached.cancel();
                    }
                    let exit = self.with_probe(exit);
                    tracing::info!(engine = %self.slot.name, %exit, "engine ended");
                    self.machine.on(now, Event::Exited(exit))
                }
                Woken::Cleared(survivors) => {
                    self.life = None;
                    self.blocks.clear();
                    // A record may go only when nothing of the life is left.
                    if survivors.is_empty() {
                        self.shared.records.remove(self.name().as_str());
                    }
                    self.machine.on(now, Event::Cleared { survivors })
                }
                Woken::Tick => {
                    self.care();
                    self.machine.on(now, Event::Tick)
                }
            };
            self.act(actions).await;
        }
        self.publish();
    }

    async fn wait(&mut self, shutdown: &CancellationToken, leaving: bool) -> Woken {
        let due = self.machine.deadline(self.now()).map(|at| tokio::time::Instant::from_std(self.clock + at));
        let tick = async {
            match due {
                Some(due) => tokio::time::sleep_until(due).await,
                None => std::future::pending().await,
            }
        };
        let process = self.life.as_ref().filter(|life| !life.ended).and_then(|life| life.process.as_ref());
        let ended = async {
            match process {
                Some(process) => process.ended().await,
                None => std::future::pending().await,
            }
        };
        let clearing = &mut self.clearing;
        let cleared = async {
            match clearing {
                Some(task) => task.await.unwrap_or_default(),
                None => std::future::pending().await,
            }
        };
        let woken = tokio::select! {
            // An end is heard of before anything said by the living.
            biased;
            exit = ended => Woken::Exited(exit),
            survivors = cleared => Woken::Cleared(survivors),
            () = shutdown.cancelled(), if !leaving => Woken::Shutdown,
            order = self.orders.recv() => Woken::Order(order),
            seen = self.seen.1.recv() => match seen {
                Some(seen) => Woken::Seen(seen),
                None => Woken::Tick,
            },
            () = tick => Woken::Tick,
        };
        if matches!(woken, Woken::Cleared(_)) {
            self.clearing = None;
        }
        woken
    }

    /// Takes over what an earlier agent left, or clears it away, or starts afresh.
    async fn begin(&mut self) {
        match Log::open(&self.shared.state_dir, self.name().as_str()) {
            Ok(log) => self.log = Some(log),
            Err(error) => tracing::warn!(engine = %self.name(), %error, "no log folder: the engine's output is dropped"),
        }
        if matches!(self.slot.kind, SlotKind::Attach { .. }) {
            self.attach(CancellationToken::new(), None);
            let _none = self.machine.begin(self.now());
            return;
        }
        let record = match self.shared.records.load(self.name().as_str()) {
            Ok(record) => record,
            Err(fault) => {
                // Starting might double an engine that cannot be seen; not starting is what a person can repair.
                tracing::error!(engine = %self.name(), %fault, "not started");
                let actions = self.machine.on(self.now(), Event::SpawnFailed { why: fault.to_string() });
                self.act(actions).await;
                return;
            }
        };
        if let Some(record) = record.filter(|record| record.boot_id == self.shared.boot_id) {
            self.restarts_before = record.restarts;
            if record.drain {
                let _none = self.machine.on(self.now(), Event::Drain(true));
            }
            if self.adopt(record).await {
                return;
            }
        }
        let actions = self.machine.begin(self.now());
        self.act(actions).await;
    }

    /// `true` when the engine of an earlier agent runs on as ours. Else nothing of it is left, or the machine knows what is.
    async fn adopt(&mut self, record: Record) -> bool {
        let id = record.pid.zip(record.start_ticks).map(|(pid, start_ticks)| ProcessId { pid, start_ticks });
        let cgroup = record.cgroup.as_deref().and_then(Cgroup::adopt);
        let mut tree = Tree::new(record.life.clone(), id, cgroup);
        let process = match id.map(Process::adopt) {
            Some(Ok(process)) => process,
            Some(Err(error)) => {
                tracing::warn!(engine = %self.name(), %error, "the recorded process cannot be watched and is ended");
                None
            }
            None => None,
        };
        let Some(process) = process else {
            let survivors = spawn_blocking(move || tree.clear(CLEAR_WITHIN)).await.unwrap_or_default();
            if survivors.is_empty() {
                self.shared.records.remove(self.name().as_str());
                return false;
            }
            let why = "its process is gone, but not all that it started".to_owned();
            let _clear = self.machine.on(self.now(), Event::SpawnFailed { why });
            let _none = self.machine.on(self.now(), Event::Cleared { survivors });
            return true;
        };
        tracing::info!(engine = %self.name(), pid = process.id.pid, "adopted");
        tree.remember();
        self.shared.probe.watch(process.id.pid);
        let attached = CancellationToken::new();
        self.life = Some(Life { tree, process: Some(process), ended: false, attached: attached.clone() });
        self.address = record.address;
        self.attach(attached, record.address);
        let actions = self.machine.on(self.now(), Event::Adopted);
        self.act(actions).await;
        true
    }

    async fn act(&mut self, actions: Vec<Action>) {
        // Doing one thing may decide the next: a start that fails asks for clearing.
        let mut open: std::collections::VecDeque<Action> = actions.into();
        while let Some(action) = open.pop_front() {
            match action {
                Action::Spawn => {
                    let event = match self.spawn().await {
                        Ok(()) => Event::Spawned,
                        Err(why) => Event::SpawnFailed { why },
                    };
                    open.extend(self.machine.on(self.now(), event));
                }
                Action::Terminate => {
                    let process = self.life.as_ref().and_then(|life| life.process.as_ref());
                    if let Some(Err(error)) = process.map(Process::terminate) {
                        tracing::debug!(engine = %self.name(), %error, "SIGTERM found nobody");
                    }
                }
                Action::Clear => {
                    if let Some(class) = self.machine.take_exit() {
                        self.count(class);
                    }
                    let tree = self.life.as_ref().map(|life| life.tree.clone());
                    if let Some(life) = &self.life {
                        life.attached.cancel();
                    }
                    self.clearing = Some(spawn_blocking(move || tree.map(|tree| tree.clear(CLEAR_WITHIN)).unwrap_or_default()));
                }
            }
        }
    }

    async fn spawn(&mut self) -> Result<(), String> {
        let life = format!("{:016x}", rand::random::<u64>());
        let (command, env) = self.slot.launch(&self.shared.engine_program);
        let log = self.log.as_ref().map(Log::begin).transpose();
        let log = log.map_err(|error| format!("cannot open its log: {error}; free space under the state folder"))?;
        let log = match log {
            Some(log) => log,
            None => std::fs::File::options().write(true).open("/dev/null").map_err(|error| error.to_string())?,
        };
        let cgroup = match &self.shared.cgroups {
            Ok(base) => base.create(&life).map_err(|error| error.to_string()),
            Err(why) => Err(why.clone()),
        };
        let mut record = Record {
            life: life.clone(),
            boot_id: self.shared.boot_id.clone(),
            pid: None,
            start_ticks: None,
            cgroup: cgroup.as_ref().ok().map(|cgroup| cgroup.path().to_owned()),
            drain: self.machine.drains(),
            restarts: self.restarts(),
            address: None,
        };
        self.save(&record).await;
        let launch = Launch { command: &command, env: &env, life: &life, log };
        let process = Process::spawn(launch).map_err(|error| {
            if let Ok(cgroup) = &cgroup {
                cgroup.remove();
            }
            let program = command.first().map(String::as_str).unwrap_or_default();
            format!("cannot start {program:?}: {error}")
        })?;
        let containment = match &cgroup {
            Ok(cgroup) => cgroup.add(process.id.pid).map_err(|error| format!("cannot enter its cgroup: {error}")),
            Err(why) => Err(why.clone()),
        };
        let containment = containment.map_or_else(|why| format!("process family ({why})"), |()| "cgroup".to_owned());
        self.shared.probe.watch(process.id.pid);
        record.pid = Some(process.id.pid);
        record.start_ticks = Some(process.id.start_ticks);
        self.save(&record).await;
        tracing::info!(engine = %self.name(), pid = process.id.pid, containment, "engine started");
        self.shared.node.update(&self.slot.name, Urgency::Usual, |status| {
            status.containment = containment;
            status.incarnation = Incarnation(u64::from_str_radix(&life, 16).unwrap_or_default());
            status.steps = 0;
            status.load = domain::Load::default();
        });
        let attached = CancellationToken::new();
        let tree = Tree::new(life.clone(), Some(process.id), cgroup.ok());
        self.life = Some(Life { tree, process: Some(process), ended: false, attached: attached.clone() });
        self.address = None;
        // What an earlier life said must not be taken for this one's.
        self.seen = mpsc::channel(SEEN_MAX);
        self.attach(attached, None);
        Ok(())
    }

    fn attach(&self, cancel: CancellationToken, address: Option<SocketAddr>) {
        let target = Target::of(&self.slot, address, self.log.clone());
        let (node, blocks, seen) = (self.shared.node.clone(), self.blocks.clone(), self.seen.0.clone());
        tokio::spawn(async move {
            cancel.run_until_cancelled(attach::watch(target, node, blocks, seen)).await;
        });
    }

    async fn save(&self, record: &Record) {
        let (records, name, record) = (self.shared.records.clone(), self.name().as_str().to_owned(), record.clone());
        let saved = spawn_blocking(move || records.save(&name, &record)).await;
        if let Ok(Err(fault)) = saved {
            // The engine matters more than its record: it serves on, and a person is told.
            Counters::add(&self.shared.node.counters.record_failures, 1);
            tracing::error!(%fault);
        }
    }

    /// Changes the record of the running life.
    async fn amend(&self, change: impl FnOnce(&mut Record)) {
        if self.life.is_none() {
            return;
        }
        if let Ok(Some(mut record)) = self.shared.records.load(self.name().as_str()) {
            change(&mut record);
            self.save(&record).await;
        }
    }

    fn ordered(&mut self, order: Order) -> Vec<Action> {
        let event = match order {
            Order::Drain(on) => Event::Drain(on),
            Order::Stop => Event::Stop,
            Order::Release => Event::Release,
        };
        self.machine.on(self.now(), event)
    }

    fn observed(&mut self, seen: Seen) -> Vec<Action> {
        let now = self.now();
        match seen {
            Seen::Answers => self.machine.on(now, Event::Answers),
            Seen::Silent(why) => self.machine.on(now, Event::Silent { why }),
            Seen::Observed(observed) => {
                let event = match observed.state {
                    EngineState::Starting | EngineState::Warming | EngineState::Absent => Event::Answers,
                    state => Event::Serves {
                        busy: observed.busy(),
                        running: observed.load.running,
                        steps: observed.steps,
                        draining: state == EngineState::Draining,
                    },
                };
                self.take(*observed);
                self.machine.on(now, event)
            }
        }
    }

    fn take(&mut self, observed: Observed) {
        let Observed { incarnation, state: _, model, adapters, assets, context_length, load, steps, counts_in_flight, address } =
            observed;
        self.shared.node.update(&self.slot.name, Urgency::Usual, |status| {
            if let Some(incarnation) = incarnation {
                status.incarnation = incarnation;
            }
            status.model = model;
            status.adapters = adapters;
            status.assets = assets;
            status.context_length = context_length;
            status.load = load;
            status.steps = steps;
            status.counts_in_flight = counts_in_flight;
            status.address = DataAddress(address);
        });
    }

    fn restarts(&self) -> u32 {
        self.restarts_before.saturating_add(self.machine.restarts())
    }

    fn count(&self, class: ExitClass) {
        self.shared.node.update(&self.slot.name, Urgency::Usual, |status| *status.exits.entry(class).or_default() += 1);
    }

    /// How a process ended that was not our child, where the kernel probe saw it.
    fn with_probe(&self, exit: Exit) -> Exit {
        let pid = self.life.as_ref().and_then(|life| life.process.as_ref()).map(|process| process.id.pid);
        match (exit, pid) {
            (exit::Exit::Unknown, Some(pid)) => self.shared.probe.exit_of(pid).unwrap_or(Exit::Unknown),
            (exit, _) => exit,
        }
    }

    /// What is done now and then while an engine lives.
    fn care(&mut self) {
        if self.cared_at.elapsed() < CARE_EVERY {
            return;
        }
        self.cared_at = Instant::now();
        if let Some(life) = &mut self.life {
            life.tree.remember();
        }
        if let Some(log) = &self.log {
            match log.rotate(LOG_BYTES_MAX) {
                Ok(lost) => Counters::add(&self.shared.node.counters.log_bytes_lost, lost),
                Err(error) => tracing::warn!(engine = %self.name(), %error, "its log cannot be rotated"),
            }
        }
    }

    /// Puts the machine's view on the node's board.
    fn publish(&mut self) {
        let state = self.machine.state();
        let mut reason = self.machine.reason().to_owned();
        let ended = matches!(state, EngineState::Crashed | EngineState::Backoff | EngineState::Quarantined);
        let pid = self.life.as_ref().filter(|life| !life.ended).and_then(|life| life.process.as_ref()).map_or(0, |p| p.id.pid);
        let restarts = self.restarts();
        let board = self.shared.node.engine(&self.slot.name).ok();
        let before = board.as_ref().map(|status| status.state);
        if ended {
            if before == Some(state) {
                // The output does not change any more; it was read when the engine came into this state.
                reason = board.map(|status| status.reason).unwrap_or(reason);
            } else {
                let count = if state == EngineState::Quarantined { QUARANTINE_LINES } else { REASON_LINES };
                let lines = self.log.as_ref().map(|log| log.tail(count)).unwrap_or_default();
                if !lines.is_empty() {
                    reason = format!("{reason}; last output: {}", lines.join(" | "));
                }
                reason = reason.chars().take(REASON_CHARS_MAX).collect();
            }
        }
        let lost_work = before.is_some_and(EngineState::takes_work) && !state.takes_work();
        let urgency = if lost_work { Urgency::Urgent } else { Urgency::Usual };
        if before != Some(state) {
            tracing::info!(engine = %self.slot.name, %state, reason, "engine state");
        }
        self.shared.node.update(&self.slot.name, urgency, |status| {
            status.state = state;
            status.reason = reason;
            status.pid = pid;
            status.restarts = restarts;
        });
    }
}
