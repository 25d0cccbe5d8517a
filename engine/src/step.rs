//! The engine's loop on one screen: admit, plan, launch, settle the previous.

mod adapters;
mod check;
mod list;
mod mail;
mod pause;
mod publish;
mod settle;
mod tier;

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Instant;

use crate::adapters::Adapters;
use crate::backend::{Backend, Batch, BlockId, DeviceError, Outcomes, Tables, Ticket};
use crate::config::{Config, ConfigError};
use crate::handle::{Departed, Door, Handle, Limits, Mail, Outlook};
use crate::kv::disk::Disk;
use crate::kv::event::KvSink;
use crate::kv::hash::BlockHasher;
use crate::observe::{Observer, Stats, StepReport};
use crate::plan::{Plan, PlannedRow, Schedule};
use crate::request::{FinishReason, RequestId};
use crate::sequence::Key;

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
    lists: list::Lists,
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
    tokens: BatchTokens,
}

/// Input tokens of a batch.
#[derive(Clone, Copy)]
struct BatchTokens {
    prefill: u32,
    decode: u32,
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
        let blocks_max = config.length_max(&capacity).div_ceil(capacity.block_tokens);
        let slots = config.max_num_seqs;
        let door = Arc::new(Door::new(Limits::new(capacity, backend.reserved(), config)));
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
            lists: list::Lists::new(),
            adrift: HashMap::new(),
            adapters: Adapters::new(door.limits.config.adapters_max),
            in_flight: VecDeque::new(),
            settled_at: None,
            departed: Departed::default(),
            stats: Stats { total_blocks: capacity.kv_blocks, block_tokens: capacity.block_tokens, ..Stats::default() },
            mail: Mail::default(),
            batch: Batch { tables: Tables::new(slots, blocks_max), ..Batch::default() },
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
        if let Some(residency) = self.schedule.kv.residency_mut() {
            residency.tick((self.ports.clock)());
        }
        let outlook = self.admit()?;
        self.schedule.plan(&mut self.batch, &mut self.plan);
        self.make_moves()?;
        self.ask_disk();
        let launched = self.launch()?;
        let unsettled_max = if launched { self.backend.lag() } else { self.in_flight.len().saturating_sub(1) };
        while self.in_flight.len() > unsettled_max {
            self.settle()?;
        }
        self.go_on_list();
        self.publish();
        let activity = self.activity(outlook);
        Ok(if self.lists.is_empty() { activity } else { Activity::Busy })
    }

    /// Launches the planned batch, unless it is empty, and tells those who run for the first time.
    fn launch(&mut self) -> Result<bool, DeviceError> {
        let began = (self.ports.clock)();
        let launched = !self.batch.rows.is_empty();
        if launched {
            let ticket = self.backend.launch(&self.batch)?;
            self.schedule.launches += 1;
            let rows = std::mem::replace(&mut self.plan.rows, self.spare_rows.pop().unwrap_or_default());
            let tokens = BatchTokens { prefill: self.plan.prefill_tokens, decode: self.plan.decode_tokens };
            self.in_flight.push_back(Launch { ticket, rows, began, tokens });
        }
        self.greet(began);
        Ok(launched)
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

impl Drop for Engine {
    fn drop(&mut self) {
        self.door.close();
    }
}
