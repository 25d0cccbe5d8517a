//! Does what the state machine of one engine decides, and tells it what happens.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use domain::gpu::EngineHealth;
use domain::{DataAddress, EngineName, EngineState};
use tokio::sync::{mpsc, watch};
use tokio::task::{JoinHandle, spawn_blocking};
use tokio_util::sync::CancellationToken;

use crate::attach::{self, Observed, Seen, Target};
use crate::config::{OnStop, Slot, SlotKind};
use crate::node::{Counters, Urgency};
use crate::report::blocks::BlockLog;
use crate::run::exit::{Exit, ExitClass};
use crate::run::life::{Adopted, Life};
use crate::run::log::{LOG_BYTES_MAX, Log};
use crate::run::machine::{Action, Event, Machine};
use crate::run::memory::Before;
use crate::run::record::Record;
use crate::run::{Order, Shared};

/// Observations of one engine that wait for its supervisor.
const SEEN_MAX: usize = 64;
/// Between two looks at the size of the log and at who descends from the engine.
const CARE_EVERY: Duration = Duration::from_secs(10);
/// Lines of output shown with a crash.
const REASON_LINES: usize = 3;
/// Lines shown with an engine that is given up; a person will read them.
const QUARANTINE_LINES: usize = 20;
const REASON_CHARS_MAX: usize = 2000;

/// One engine's supervisor.
pub struct Supervisor {
    shared: Arc<Shared>,
    slot: Slot,
    machine: Machine,
    clock: Instant,
    orders: mpsc::Receiver<Order>,
    blocks: Arc<BlockLog>,
    log: Option<Log>,
    life: Option<Life>,
    clearing: Option<JoinHandle<Cleared>>,
    devices: watch::Receiver<Arc<BTreeMap<EngineName, EngineHealth>>>,
    /// Memory of its GPUs before it started, where it has them for itself.
    memory: Option<Before>,
    seen: (mpsc::Sender<Seen>, mpsc::Receiver<Seen>),
    cared_at: Instant,
    restarts_before: u32,
    /// Weights read of weights in all, in bytes, as the engine last said.
    loading: Option<(u64, u64)>,
}

/// What is left of a life.
struct Cleared {
    /// Processes that could not be ended.
    survivors: Vec<u32>,
    /// Why its GPUs cannot take another engine.
    held: Option<String>,
}

/// What the loop woke up for.
enum Woken {
    Order(Option<Order>),
    Seen(Seen),
    Exited(Exit),
    Cleared(Cleared),
    Device,
    Tick,
    Shutdown,
}

impl Supervisor {
    pub fn new(shared: Arc<Shared>, slot: Slot, orders: mpsc::Receiver<Order>, blocks: Arc<BlockLog>) -> Self {
        let owned = !matches!(slot.kind, SlotKind::Attach { .. });
        Self {
            machine: Machine::new(slot.policy.clone(), owned, rand::random()),
            devices: shared.devices.clone(),
            memory: None,
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
            loading: None,
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
                    if let (Order::Drain(on), Some(life)) = (order, &mut self.life) {
                        life.amend(&self.shared, |record| record.drain = on).await;
                    }
                    self.ordered(order)
                }
                Woken::Order(None) => break,
                Woken::Seen(seen) => {
                    if let (Seen::Observed(observed), Some(life)) = (&seen, &mut self.life) {
                        life.amend(&self.shared, |record| record.address = Some(observed.address)).await;
                    }
                    self.observed(seen)
                }
                Woken::Exited(exit) => {
                    if let Some(life) = &mut self.life {
                        life.has_ended();
                    }
                    let exit = self.with_probe(exit);
                    tracing::info!(engine = %self.slot.name, %exit, "engine ended");
                    self.machine.on(now, Event::Exited(exit))
                }
                Woken::Cleared(Cleared { survivors, held }) => {
                    self.life = None;
                    self.blocks.clear();
                    // A record may go only when nothing of the life is left.
                    if survivors.is_empty() {
                        self.shared.records.remove(self.name().as_str());
                    }
                    let nothing_left = survivors.is_empty();
                    let mut actions = self.machine.on(now, Event::Cleared { survivors });
                    if let (EngineState::Backoff, Some(why)) = (self.machine.state(), held) {
                        actions.extend(self.machine.on(now, Event::Forbidden { why }));
                    }
                    if nothing_left {
                        self.write_given_up().await;
                    }
                    actions
                }
                Woken::Device => {
                    let gpu = self.device();
                    self.machine.on(now, Event::Device(gpu))
                }
                Woken::Tick => self.machine.on(now, Event::Tick),
            };
            self.act(actions).await;
            self.care();
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
        let life = self.life.as_ref().filter(|life| life.is_running());
        let ended = async {
            match life {
                Some(life) => life.ended().await,
                None => std::future::pending().await,
            }
        };
        let main = self.life.as_ref().map(Life::pid);
        let clearing = &mut self.clearing;
        let cleared = async {
            match clearing {
                // Whoever failed to look may not say that nobody is there.
                Some(task) => task.await.unwrap_or_else(|_| Cleared { survivors: main.into_iter().collect(), held: None }),
                None => std::future::pending().await,
            }
        };
        let woken = tokio::select! {
            // An end is heard of before anything said by the living.
            biased;
            exit = ended => Woken::Exited(exit),
            left = cleared => Woken::Cleared(left),
            Ok(()) = self.devices.changed() => Woken::Device,
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
                let _none = self.machine.on(self.now(), Event::Forbidden { why: fault.to_string() });
                return;
            }
        };
        let gpu = self.device();
        let _none = self.machine.on(self.now(), Event::Device(gpu));
        if let Some(record) = record.filter(|record| record.boot_id == self.shared.boot_id) {
            self.restarts_before = record.restarts;
            if let Some(why) = record.given_up {
                let why = format!("given up before the agent was restarted: {why}");
                let _none = self.machine.on(self.now(), Event::Forbidden { why });
                return;
            }
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

    /// `true` when the engine of an earlier agent runs on as ours, or when what is left of it forbids a start.
    async fn adopt(&mut self, record: Record) -> bool {
        match Life::adopt(&self.shared, &self.slot, record).await {
            Adopted::Gone => false,
            Adopted::Left { survivors } => {
                let pids = survivors.iter().map(u32::to_string).collect::<Vec<_>>().join(", ");
                let why = format!("an earlier engine is gone, and its processes {pids} could not be ended");
                let _none = self.machine.on(self.now(), Event::Forbidden { why });
                true
            }
            Adopted::Runs(life) => {
                tracing::info!(engine = %self.name(), pid = life.pid(), "adopted");
                let (containment, incarnation) = (life.containment().to_owned(), life.incarnation());
                self.shared.node.update(&self.slot.name, Urgency::Usual, |status| {
                    status.containment = containment;
                    status.incarnation = incarnation;
                });
                self.attach(life.attached(), life.address());
                self.life = Some(*life);
                let actions = self.machine.on(self.now(), Event::Adopted);
                self.act(actions).await;
                true
            }
        }
    }

    /// What its GPUs mean for it.
    fn device(&mut self) -> EngineHealth {
        self.devices.borrow_and_update().get(&self.slot.name).cloned().unwrap_or_default()
    }

    /// Writes down that the engine was given up, so that a new agent does not begin the same again.
    async fn write_given_up(&self) {
        let Some(why) = self.machine.given_up() else { return };
        let record = Record {
            life: String::new(),
            boot_id: self.shared.boot_id.clone(),
            pid: None,
            start_ticks: None,
            cgroup: None,
            drain: self.machine.drains(),
            restarts: self.restarts(),
            given_up: Some(why.to_owned()),
            address: None,
        };
        self.shared.save(self.name().as_str(), &record).await;
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
                    if let Some(Err(error)) = self.life.as_ref().map(Life::terminate) {
                        tracing::debug!(engine = %self.name(), %error, "SIGTERM found nobody");
                    }
                }
                Action::Clear => {
                    let clear = self.life.as_ref().map(Life::clear);
                    let (memory, sensor) = (self.memory.take(), self.shared.sensor.clone());
                    let main: Vec<u32> = self.life.as_ref().map(Life::pid).into_iter().collect();
                    let crash = self.machine.state() == EngineState::Crashed;
                    self.clearing = Some(tokio::spawn(async move {
                        let cleared = spawn_blocking(move || clear.map(|clear| clear()).unwrap_or_default()).await;
                        let survivors = cleared.unwrap_or(main);
                        let held = match memory {
                            Some(memory) if crash && survivors.is_empty() => memory.returned(sensor).await.err(),
                            _ => None,
                        };
                        Cleared { survivors, held }
                    }));
                }
            }
        }
        if let Some(class) = self.machine.take_exit() {
            self.count(class);
        }
    }

    async fn spawn(&mut self) -> Result<(), String> {
        let gpus = &self.slot.gpus;
        let snapshot = self.shared.sensor.snapshot();
        let others = self.shared.gpus.iter().filter(|(name, _)| **name != self.slot.name).map(|(_, gpus)| &gpus[..]);
        self.memory = Before::is_alone(&snapshot, gpus, others).then(|| Before::note(&snapshot, gpus));
        let life = Life::start(&self.shared, &self.slot, self.log.as_ref(), self.machine.drains(), self.restarts()).await?;
        let (containment, incarnation) = (life.containment().to_owned(), life.incarnation());
        tracing::info!(engine = %self.name(), pid = life.pid(), containment, "engine started");
        self.shared.node.update(&self.slot.name, Urgency::Usual, |status| {
            status.containment = containment;
            status.incarnation = incarnation;
            status.steps = 0;
            status.load = domain::Load::default();
        });
        // What an earlier life said must not be taken for this one's.
        self.seen = mpsc::channel(SEEN_MAX);
        self.attach(life.attached(), None);
        self.life = Some(life);
        Ok(())
    }

    fn attach(&self, cancel: CancellationToken, address: Option<SocketAddr>) {
        let target = Target::of(&self.slot, address, self.log.clone());
        let (node, blocks, seen) = (self.shared.node.clone(), self.blocks.clone(), self.seen.0.clone());
        tokio::spawn(async move {
            cancel.run_until_cancelled(attach::watch(target, node, blocks, seen)).await;
        });
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
                    EngineState::Absent | EngineState::Starting | EngineState::Warming => Event::Answers,
                    EngineState::Crashed => Event::Failed { why: "it says that it has failed".into() },
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
        let Observed {
            incarnation,
            state: _,
            model,
            adapters,
            assets,
            context_length,
            load,
            steps,
            counts_in_flight,
            address,
            loading,
        } = observed;
        self.loading = loading;
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
        match (exit, self.life.as_ref().map(Life::pid)) {
            (Exit::Unknown, Some(pid)) => self.shared.probe.exit_of(pid).unwrap_or(Exit::Unknown),
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
            life.remember();
        }
        if let Some(log) = self.log.clone() {
            let node = self.shared.node.clone();
            // Copying a full log waits for a disk, and the engine does not.
            spawn_blocking(move || match log.rotate(LOG_BYTES_MAX) {
                Ok(lost) => Counters::add(&node.counters.log_bytes_lost, lost),
                Err(error) => tracing::warn!(log = %log.path().display(), %error, "the log cannot be rotated"),
            });
        }
    }

    /// Puts the machine's view on the node's board.
    fn publish(&mut self) {
        let state = self.machine.state();
        let mut reason = self.machine.reason().to_owned();
        if let (EngineState::Starting | EngineState::Warming, Some((done, total))) = (state, self.loading) {
            reason = format!("loading weights, {} of {} MB", done / 1_000_000, total / 1_000_000);
        }
        let ended = matches!(state, EngineState::Crashed | EngineState::Backoff | EngineState::Quarantined);
        let pid = self.life.as_ref().filter(|life| life.is_running()).map_or(0, Life::pid);
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
            if let (EngineState::Ready, Some(life)) = (state, &mut self.life) {
                // Its workers are there by now; later looks find what came after.
                life.remember();
            }
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
