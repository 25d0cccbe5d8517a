//! The engine's loop on one screen: admit, plan, launch, settle the previous.

mod adapters;
mod mail;
mod pause;
mod settle;
mod tier;

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Instant;

use crate::adapters::Adapters;
use crate::backend::{Backend, Batch, BlockId, DeviceError, Outcomes, Ticket};
use crate::config::{Config, ConfigError};
use crate::handle::{Departed, Door, Handle, Limits, Mail, Outlook};
use crate::kv::disk::Disk;
use crate::kv::event::KvSink;
use crate::kv::hash::BlockHasher;
use crate::observe::{AdmittedReport, Observer, Stats, StepReport};
use crate::plan::{Plan, PlannedRow, Schedule};
use crate::request::{FinishReason, Output, RequestId};
use crate::sequence::{Key, Sequence, State};

/// What the engine needs of the world around it.
pub struct Ports {
    /// The time; the engine has no clock of its own.
    pub clock: Box<dyn Fn() -> Instant + Send>,
    pub observer: Option<Box<dyn Observer>>,
    pub kv_events: Option<Box<dyn KvSink>>,
    /// Begins transfers of remote KV. Without it, `remote_kv` requests are computed here.
    pub fetch: Option<Box<dyn Fetch>>,
    /// Keeps [`Config::disk_blocks`] blocks.
    pub disk: Option<Box<dyn Disk>>,
}

impl Ports {
    /// A clock, and nobody who listens.
    pub fn new(clock: impl Fn() -> Instant + Send + 'static) -> Self {
        Self { clock: Box::new(clock), observer: None, kv_events: None, fetch: None, disk: None }
    }
}

/// Begins the transfer of a prompt's KV from elsewhere. Called on the engine's thread: it must not block.
pub trait Fetch: Send {
    /// `blocks` are the request's, first position first; the first `cached_tokens` are there already. Every fetch that began ends
    /// with one [`Handle::remote_done`], also when the request was aborted: only then are its blocks used again. `false`: there is
    /// nothing to fetch, the prompt is computed here.
    fn fetch(&mut self, request: RequestId, kv_transfer: Option<&str>, blocks: &[BlockId], cached_tokens: u32) -> bool;
}

/// The engine. It lives on one thread; [`Handle`] is how others speak to it.
pub struct Engine {
    backend: Box<dyn Backend>,
    ports: Ports,
    door: Arc<Door>,
    hasher: BlockHasher,
    schedule: Schedule,
    /// Blocks of requests that ended while a transfer wrote to them.
    adrift: HashMap<RequestId, Vec<BlockId>>,
    lower: tier::Lower,
    /// Transfers that go on, or have ended, in the order of their deadlines.
    transfers: VecDeque<(Instant, RequestId)>,
    pause: pause::Pause,
    /// Answers to commands that are given when the step's outcome can be seen.
    replies: Vec<Box<dyn FnOnce() + Send>>,
    adapters: Adapters,
    in_flight: VecDeque<Launch>,
    /// End of the last batch: the next one had the device from then on.
    settled_at: Option<Instant>,
    departed: Departed,
    stats: Stats,

    // Reused from step to step.
    mail: Mail,
    batch: Batch,
    plan: Plan,
    report: StepReport,
    outcomes: Outcomes,
    spare_rows: Vec<Vec<PlannedRow>>,
    ended: Vec<Key>,
}

/// A batch that was launched and has not settled.
struct Launch {
    ticket: Ticket,
    rows: Vec<PlannedRow>,
    began: Instant,
}

/// Whether another step is due.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activity {
    Busy,
    /// Nothing to do before mail comes or a lease ends.
    Idle,
    /// Drained: nothing is left, and nothing can come.
    Ended,
}

impl Engine {
    /// An engine on `backend`, and the door to it.
    pub fn new(backend: Box<dyn Backend>, config: Config, mut ports: Ports) -> Result<(Self, Handle), ConfigError> {
        let capacity = backend.capacity();
        config.check(&capacity)?;
        let disk = ports.disk.take();
        if disk.is_none() && config.disk_blocks > 0 {
            return Err(ConfigError(vec!["disk_blocks is set and there is no disk".into()]));
        }
        let lower = tier::Lower::new(&*backend, config.host_blocks, disk)?;
        let now = (ports.clock)();
        let door = Arc::new(Door::new(Limits::new(capacity, config)));
        let tells_events = ports.kv_events.is_some();
        let mut engine = Self {
            backend,
            ports,
            hasher: door.limits.hasher(),
            schedule: Schedule::new(&door.limits, tells_events, lower.loads_max(), now),
            lower,
            transfers: VecDeque::new(),
            pause: pause::Pause::default(),
            replies: Vec::new(),
            adrift: HashMap::new(),
            adapters: Adapters::new(door.limits.config.adapters_max),
            in_flight: VecDeque::new(),
            settled_at: None,
            departed: Departed::default(),
            stats: Stats { total_blocks: capacity.kv_blocks, block_tokens: capacity.block_tokens, ..Stats::default() },
            mail: Mail::default(),
            batch: Batch::default(),
            plan: Plan::default(),
            report: StepReport::default(),
            outcomes: Outcomes::default(),
            spare_rows: Vec::new(),
            ended: Vec::new(),
            door: Arc::clone(&door),
        };
        engine.lower.find(&mut engine.schedule);
        let bell = Arc::downgrade(&door);
        engine.lower.wake_with(Arc::new(move || {
            if let Some(door) = bell.upgrade() {
                door.nudge();
            }
        }));
        engine.door.publish(&Stats { free_blocks: capacity.kv_blocks, ..engine.stats }, Departed::default());
        Ok((engine, Handle::new(door)))
    }

    /// The body of the engine's thread: steps while there is something to do, and waits at the door otherwise. Returns when it is
    /// drained, or with the device's error after every request was told of it.
    pub fn run(mut self) -> Result<(), DeviceError> {
        let mut outlook = Outlook::Open;
        loop {
            match self.step() {
                Ok(Activity::Busy) => {}
                Ok(Activity::Idle) => {
                    let transfer = self.transfers.front().map(|&(deadline, _)| deadline);
                    let ends = [self.schedule.kv.leases().next_end(), self.schedule.restores.next_deadline(), transfer];
                    let next = ends.into_iter().flatten().min();
                    let timeout = next.map(|end| end.saturating_duration_since((self.ports.clock)()));
                    outlook = self.door.wait(outlook, timeout);
                }
                Ok(Activity::Ended) => return Ok(()),
                Err(error) => {
                    self.end_all(&FinishReason::Error(error.to_string()));
                    self.publish();
                    return Err(error);
                }
            }
        }
    }

    /// One step. The batch that is launched computes while the one before it is settled, where the backend allows it.
    pub fn step(&mut self) -> Result<Activity, DeviceError> {
        self.report.clear();
        let outlook = self.admit()?;
        self.schedule.plan(&mut self.batch, &mut self.plan);
        self.make_moves()?;
        self.ask_disk();
        let launched = self.launch()?;
        let unsettled_max = if launched { self.backend.lag() } else { self.in_flight.len().saturating_sub(1) };
        while self.in_flight.len() > unsettled_max {
            self.settle()?;
        }
        self.publish();
        Ok(self.activity(outlook))
    }

    /// Launches the planned batch, unless it is empty, and tells those who run for the first time.
    fn launch(&mut self) -> Result<bool, DeviceError> {
        let began = (self.ports.clock)();
        let launched = !self.batch.rows.is_empty();
        if launched {
            let ticket = self.backend.launch(&self.batch)?;
            self.schedule.launches += 1;
            let rows = std::mem::replace(&mut self.plan.rows, self.spare_rows.pop().unwrap_or_default());
            self.in_flight.push_back(Launch { ticket, rows, began });
        }
        self.greet(began);
        Ok(launched)
    }

    /// Tells requests that they were admitted, and counts it.
    fn greet(&mut self, now: Instant) {
        for &key in &self.plan.admitted {
            let sequence = self.schedule.table.get_mut(key);
            let (prompt_tokens, cached_tokens) = (sequence.progress.prompt, sequence.cached_tokens);
            sequence.admitted = Some(now);
            self.departed.requests += 1;
            self.departed.prompt_tokens += prompt_tokens as usize;
            self.stats.prompt_tokens += u64::from(prompt_tokens);
            self.report.admitted.push(AdmittedReport {
                request: sequence.id,
                prompt_tokens,
                cached_tokens,
                host_tokens: sequence.host_tokens,
                disk_tokens: sequence.disk_tokens,
                remote_tokens: sequence.remote_tokens,
                queue: now.saturating_duration_since(sequence.arrived),
            });
            if !sequence.sink.put(Output::Admitted { cached_tokens }) {
                self.ended.push(key);
            }
        }
        if !self.ended.is_empty() {
            while let Some(key) = self.ended.pop() {
                self.end(key, FinishReason::Aborted, now);
            }
            self.schedule.sweep();
        }
        self.stats.prefix_query_tokens += self.plan.query_tokens;
        self.stats.prefix_hit_tokens += self.plan.hit_tokens;
        self.stats.lower_query_tokens += self.plan.lower_query_tokens;
        self.stats.lower_hit_tokens += self.plan.lower_hit_tokens;
        self.stats.preemptions += u64::from(self.plan.preempted);
        self.report.preempted = self.plan.preempted;
    }

    /// Shows the world what this step did.
    fn publish(&mut self) {
        self.publish_events();
        let (schedule, kv) = (&self.schedule, &self.schedule.kv);
        self.stats.steps += 1;
        self.report.step = self.stats.steps;
        self.stats.running = schedule.running.len();
        self.stats.waiting = schedule.table.len() - schedule.running.len();
        self.stats.waiting_remote = self.stats.waiting - schedule.waiting.len();
        (self.stats.used_blocks, self.stats.free_blocks, self.stats.cached_blocks) = (kv.used(), kv.free(), kv.known());
        self.stats.leases = kv.leases().len();
        (self.stats.paused, self.stats.sleep_level) = (self.pause.is_paused(), self.pause.sleep_level());
        if let Some(tiers) = kv.tiers() {
            self.stats.host_blocks = tiers.host().len();
            self.stats.disk_blocks = tiers.disk().map_or(0, |disk| disk.len());
            self.stats.tiers = tiers.counts;
        }
        self.stats.kv_event_batches = kv.batches();
        self.door.publish(&self.stats, std::mem::take(&mut self.departed));
        self.replies.drain(..).for_each(|reply| reply());
        if let Some(observer) = &mut self.ports.observer {
            observer.step(&self.report);
        }
    }

    fn publish_events(&mut self) {
        if let Some(batch) = self.schedule.kv.take_events()
            && let Some(sink) = &mut self.ports.kv_events
        {
            sink.put(batch);
        }
    }

    /// What comes next, and proof that nothing stands still or leaked on the way.
    fn activity(&self, outlook: Outlook) -> Activity {
        let Schedule { table, running, waiting, kv, .. } = &self.schedule;
        let stands_still = self.pause.stands_still(running.len());
        if !self.in_flight.is_empty() || (!running.is_empty() && !stands_still) {
            return Activity::Busy;
        }
        // A pause whose quiet is due is completed by the next step.
        if stands_still {
            let ended = table.is_empty() && outlook == Outlook::Draining;
            return if self.pause.is_due() {
                Activity::Busy
            } else if ended {
                Activity::Ended
            } else {
                Activity::Idle
            };
        }
        // Restores end by themselves, and what waits for their room goes on then.
        if !self.schedule.restores.open.is_empty() {
            return if self.schedule.restores_runnable { Activity::Busy } else { Activity::Idle };
        }
        let moved = !self.batch.rows.is_empty() || !self.report.settled.is_empty();
        assert!(waiting.is_empty() || moved, "a request alone fits, and yet none was admitted");
        if !waiting.is_empty() {
            return Activity::Busy;
        }
        if table.is_empty() && kv.leases().is_empty() && self.adrift.is_empty() {
            assert_eq!(kv.used(), 0, "blocks leaked: nobody is there who could hold one");
        }
        if table.is_empty() && outlook == Outlook::Draining { Activity::Ended } else { Activity::Idle }
    }
}

impl Engine {
    /// Counts everything anew and compares; for tests, which call it between steps.
    ///
    /// # Panics
    /// A block leaks, is shared although it may yet be written, or is held without being accounted for.
    pub fn check(&self) {
        let Schedule { table, retired, kv, remote_blocks, slots, .. } = &self.schedule;
        let tables = table.iter().map(|sequence| &sequence.blocks[..]);
        let retired_tables = retired.iter().map(|retired| &retired.blocks[..]);
        let adrift = self.adrift.values().map(|blocks| &blocks[..]);
        let restored = self.schedule.restores.open.iter().map(|restore| &restore.held[..]);
        kv.check(tables.chain(retired_tables).chain(adrift).chain(restored));
        self.schedule.check();
        for sequence in table.iter() {
            let settled = sequence.progress.settled as usize / kv.block_tokens();
            for &block in sequence.blocks.iter().skip(settled) {
                let alone = kv.pool().holders(block) == 1 && kv.prefix().hash_of(block).is_none();
                assert!(alone, "request {} may write to {block:?}, which others see", sequence.id);
            }
            let progress = sequence.progress;
            assert!(progress.settled <= progress.computed && progress.computed <= progress.total(), "{progress:?}");
            assert_eq!(
                sequence.slot.is_some(),
                sequence.state == State::Running,
                "request {} has a slot while it runs",
                sequence.id
            );
        }
        let waits = |sequence: &&Sequence| sequence.state != State::Running;
        let waiting_blocks: usize = table.iter().filter(waits).map(|sequence| sequence.blocks.len()).sum();
        let adrift_blocks: usize = self.adrift.values().map(Vec::len).sum();
        assert_eq!(*remote_blocks, waiting_blocks + adrift_blocks, "blocks of remote KV");
        let slots_held = table.iter().filter(|sequence| sequence.slot.is_some()).count();
        let slots_retired = retired.iter().filter(|retired| retired.slot.is_some()).count();
        assert_eq!(slots.len() + slots_held + slots_retired, self.door.limits.config.max_num_seqs, "slots");
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        self.door.close();
    }
}
