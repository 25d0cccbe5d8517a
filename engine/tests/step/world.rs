//! An engine that a test steps by hand: a watched fake device, a clock that stands still, a naive reader of its KV events, a
//! transfer that ends when the test says so, and a ledger of every request.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use domain::ExtraKeys;
use engine::backend::fake::{Fake, Pace, Speed};
use engine::backend::{AdapterSlot, Backend, Batch, BlockId, Capacity, DeviceError, Input, NoToken, Outcomes, Row, Slot, Ticket};
use engine::config::Config;
use engine::handle::{Handle, RemoteOutcome};
use engine::kv::event::{KvBatch, KvEvent, Medium, Stored};
use engine::kv::hash::{BlockHash, BlockHasher};
use engine::observe::StepReport;
use engine::request::{FinishReason, FinishRules, Logprobs, NewRequest, Output, Rejected, RequestId, Sampling, SamplingExtras};
use engine::sample::LogitMask;
use engine::step::{Activity, Engine, Fetch, Ports};
use engine_assets::Adapter;

use crate::disk::{Faults, Platter, ScriptedDisk};
use crate::oracle::{self, Rule};

/// Input with this token makes a device that [`Watched::poisons`] find no number.
pub const POISON: u32 = 5;

#[derive(Clone)]
pub struct Clock(Arc<AtomicU64>, Instant);

impl Clock {
    fn new() -> Self {
        Self(Arc::default(), Instant::now())
    }

    pub fn advance(&self, time: Duration) {
        self.0.fetch_add(time.as_micros() as u64, Ordering::SeqCst);
    }
}

impl Pace for Clock {
    fn now(&self) -> Instant {
        self.1 + Duration::from_micros(self.0.load(Ordering::SeqCst))
    }

    fn sleep(&self, duration: Duration) {
        self.advance(duration);
    }
}

/// The fake device, and what must hold of every batch that it is given.
pub struct Watched {
    pub fake: Fake,
    limits: Config,
    in_flight: VecDeque<(Ticket, Vec<RowUse>)>,
    poisoned: Vec<(Ticket, Slot)>,
    pub batches: usize,
    pub fails: bool,
    pub poisons: bool,
}

struct RowUse {
    slot: Slot,
    table: Vec<BlockId>,
    /// Blocks of the table, from this one on, are written.
    writes_from: usize,
}

impl Watched {
    /// A block is copied while nobody writes to it, and filled while nobody sees it.
    fn check_copy(&self, block: BlockId, fills: bool) {
        for row_use in self.in_flight.iter().flat_map(|(_, uses)| uses) {
            let from = if fills { 0 } else { row_use.writes_from };
            assert!(!row_use.table[from..].contains(&block), "{block:?} is copied while a batch in flight uses it");
        }
    }

    fn check(&self, batch: &Batch) -> Vec<RowUse> {
        let capacity = self.fake.capacity();
        let tokens: usize = batch.rows.iter().map(|row| row.input.len()).sum();
        assert!(tokens <= self.limits.max_num_batched_tokens, "{tokens} tokens are beyond the budget");
        let logit_rows: usize = batch.rows.iter().map(Row::logit_rows).sum();
        assert!(logit_rows <= capacity.logit_rows, "{logit_rows} rows of logits");
        assert!(!batch.rows.is_empty() && batch.rows.len() <= self.limits.max_num_seqs);
        let mut uses: Vec<RowUse> = Vec::new();
        for row in &batch.rows {
            let end = row.start as usize + row.input.len();
            assert!(!row.input.is_empty() && end <= capacity.context_length, "{row:?}");
            assert!(row.input.len() <= (self.limits.prefill_chunk_tokens_max).max(1 + row.drafts as usize));
            let drafts_max = self.limits.speculation.map_or(0, |speculation| speculation.tokens);
            assert!(row.drafts as usize <= drafts_max && (row.drafts as usize) < row.input.len(), "{row:?}");
            let table = batch.tables.of(row.slot);
            let blocks = end.div_ceil(capacity.block_tokens);
            assert!(table.len() >= blocks, "a table covers the row's positions: {row:?}");
            let table = table[..blocks].to_vec();
            let row_use = RowUse { slot: row.slot, table, writes_from: row.start as usize / capacity.block_tokens };
            assert!(uses.iter().all(|other| other.slot != row.slot), "one row per slot");
            // Not written by one and seen by another, be it in this batch or in one in flight.
            for other in
                uses.iter().chain(self.in_flight.iter().flat_map(|(_, uses)| uses)).filter(|other| other.slot != row.slot)
            {
                let written = |a: &RowUse, b: &RowUse| a.table[a.writes_from..].iter().any(|block| b.table.contains(block));
                assert!(!written(&row_use, other) && !written(other, &row_use), "a block is written while another row sees it");
            }
            uses.push(row_use);
        }
        uses
    }
}

struct Device(Arc<Mutex<Watched>>);

impl Backend for Device {
    fn capacity(&self) -> Capacity {
        self.0.lock().unwrap().fake.capacity()
    }

    fn lag(&self) -> usize {
        self.0.lock().unwrap().fake.lag()
    }

    fn launch(&mut self, batch: &Batch) -> Result<Ticket, DeviceError> {
        let mut watched = self.0.lock().unwrap();
        if watched.fails {
            return Err(DeviceError { device: "watched".into(), what: "fell off the bus".into() });
        }
        let uses = watched.check(batch);
        let ticket = watched.fake.launch(batch)?;
        for row in &batch.rows {
            if watched.poisons
                && let Input::Tokens(range) = &row.input
                && batch.tokens[range.clone()].contains(&POISON)
            {
                watched.poisoned.push((ticket, row.slot));
            }
        }
        watched.in_flight.push_back((ticket, uses));
        watched.batches += 1;
        Ok(ticket)
    }

    fn settle(&mut self, ticket: Ticket, out: &mut Outcomes) -> Result<(), DeviceError> {
        let mut watched = self.0.lock().unwrap();
        let from = out.sampled.len();
        watched.fake.settle(ticket, out)?;
        for sampled in &mut out.sampled[from..] {
            if watched.poisoned.contains(&(ticket, sampled.slot)) {
                sampled.token = Err(NoToken::NotANumber);
            }
        }
        let (oldest, _) = watched.in_flight.pop_front().unwrap();
        assert_eq!(oldest, ticket);
        Ok(())
    }

    fn set_adapter(&mut self, slot: AdapterSlot, adapter: Option<&Adapter>) -> Result<(), DeviceError> {
        self.0.lock().unwrap().fake.set_adapter(slot, adapter)
    }

    fn kv_block_bytes(&self) -> usize {
        self.0.lock().unwrap().fake.kv_block_bytes()
    }

    fn save_block(&mut self, block: BlockId, out: &mut [u8]) -> Result<(), DeviceError> {
        let mut watched = self.0.lock().unwrap();
        watched.check_copy(block, false);
        watched.fake.save_block(block, out)
    }

    fn load_block(&mut self, block: BlockId, bytes: &[u8]) -> Result<(), DeviceError> {
        let mut watched = self.0.lock().unwrap();
        watched.check_copy(block, true);
        watched.fake.load_block(block, bytes)
    }
}

/// A naive reader of KV events: what it believes to be cached, and on which tiers.
#[derive(Default)]
pub struct Replay {
    pub blocks: HashMap<BlockHash, Known>,
    pub batches: u64,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Known {
    pub parent: Option<BlockHash>,
    pub tokens: Vec<u32>,
    pub media: BTreeSet<Medium>,
}

impl Replay {
    fn read(&mut self, batch: KvBatch, hasher: &mut BlockHasher) {
        assert_eq!(batch.sequence, self.batches, "no batch is left out");
        self.batches += 1;
        for event in batch.events {
            match event {
                KvEvent::Stored(stored) => self.store(stored, hasher),
                KvEvent::Removed { hashes, medium } => {
                    for hash in hashes {
                        let known = self.blocks.get_mut(&hash).expect("what is removed was there");
                        assert!(known.media.remove(&medium), "{hash} is removed from where it was not: {medium:?}");
                        if known.media.is_empty() {
                            self.blocks.remove(&hash);
                        }
                    }
                }
                KvEvent::Cleared => self.blocks.clear(),
            }
        }
        for (hash, known) in self.on(Medium::Device) {
            let on_device = |parent| self.blocks.get(parent).is_some_and(|known| known.media.contains(&Medium::Device));
            assert!(known.parent.as_ref().is_none_or(on_device), "{hash} outlived its parent");
        }
    }

    /// Blocks of one tier.
    pub fn on(&self, medium: Medium) -> impl Iterator<Item = (&BlockHash, &Known)> {
        self.blocks.iter().filter(move |(_, known)| known.media.contains(&medium))
    }

    fn store(&mut self, stored: Stored, hasher: &mut BlockHasher) {
        let Stored { hashes, mut parent, tokens, block_tokens, extra, first_block, medium } = stored;
        assert_eq!(tokens.len(), hashes.len() * block_tokens);
        for (i, (hash, tokens)) in hashes.into_iter().zip(tokens.chunks_exact(block_tokens)).enumerate() {
            assert_eq!(hasher.block(parent, first_block + i, tokens, &extra), hash, "a hash stands for its chain");
            let fresh = Known { parent, tokens: tokens.to_vec(), media: BTreeSet::new() };
            let known = self.blocks.entry(hash).or_insert(fresh);
            assert!(known.media.insert(medium), "{hash} is stored twice on {medium:?}");
            parent = Some(hash);
        }
    }
}

/// A transfer that the engine began.
pub struct Transfer {
    pub request: RequestId,
    pub blocks: Vec<BlockId>,
    pub cached_tokens: u32,
}

struct Transfers(Arc<Mutex<Vec<Transfer>>>);

impl Fetch for Transfers {
    fn fetch(&mut self, request: RequestId, kv_transfer: Option<&str>, blocks: &[BlockId], cached_tokens: u32) -> bool {
        self.0.lock().unwrap().push(Transfer { request, blocks: blocks.to_vec(), cached_tokens });
        kv_transfer != Some("refuse")
    }
}

/// What a client saw.
#[derive(Default)]
pub struct Seen {
    pub outputs: Vec<Output>,
    /// Outputs after which the client stops to read.
    pub reads_max: Option<usize>,
}

pub struct World {
    pub engine: Engine,
    pub handle: Handle,
    pub device: Arc<Mutex<Watched>>,
    pub clock: Clock,
    pub replay: Arc<Mutex<Replay>>,
    pub transfers: Arc<Mutex<Vec<Transfer>>>,
    pub reports: Arc<Mutex<Vec<StepReport>>>,
    pub platter: Arc<Mutex<Platter>>,
    pub seen: HashMap<RequestId, Arc<Mutex<Seen>>>,
    pub capacity: Capacity,
}

#[derive(Clone, Debug)]
pub struct Ask {
    pub prompt: Vec<u32>,
    pub tokens_max: u32,
    pub sampling: Sampling,
    pub eos: Vec<u32>,
    pub stop: Vec<u32>,
    pub extra: ExtraKeys,
    pub remote: bool,
    pub priority: i64,
    pub reads_max: Option<usize>,
    pub extras: SamplingExtras,
    pub rule: Option<Rule>,
}

pub fn ask(prompt: &[u32], tokens_max: u32) -> Ask {
    Ask {
        prompt: prompt.to_vec(),
        tokens_max,
        sampling: Sampling::GREEDY,
        eos: Vec::new(),
        stop: Vec::new(),
        extra: ExtraKeys::default(),
        remote: false,
        priority: 0,
        reads_max: None,
        extras: SamplingExtras::default(),
        rule: None,
    }
}

impl Ask {
    /// What the request must be answered with: tokens, and the reason of the end.
    pub fn answer(&self, capacity: &Capacity, length_max: usize) -> (Vec<u32>, FinishReason) {
        let (tokens, _, reason) = oracle::answer(self, capacity, length_max);
        (tokens, reason)
    }
}

impl World {
    pub fn new(capacity: Capacity, lag: usize, config: Config) -> Self {
        Self::with_disk(capacity, lag, config, Platter::new(Faults { room: usize::MAX, ..Faults::default() }))
    }

    /// A world whose engine has `platter` for a disk, if the limits say that it has one.
    pub fn with_disk(capacity: Capacity, lag: usize, config: Config, platter: Platter) -> Self {
        Self::made(capacity, Speed { lag, ..Speed::INSTANT }, config, platter)
    }

    /// A world whose device takes time.
    pub fn at_speed(capacity: Capacity, speed: Speed, config: Config) -> Self {
        Self::made(capacity, speed, config, Platter::default())
    }

    fn made(capacity: Capacity, speed: Speed, config: Config, platter: Platter) -> Self {
        let clock = Clock::new();
        let platter = Arc::new(Mutex::new(platter));
        let fake = Fake::new(capacity, speed, Box::new(clock.clone()));
        let watched = Watched {
            fake,
            limits: config.clone(),
            in_flight: VecDeque::new(),
            poisoned: Vec::new(),
            batches: 0,
            fails: false,
            poisons: false,
        };
        let device = Arc::new(Mutex::new(watched));
        let replay = Arc::new(Mutex::new(Replay::default()));
        let transfers = Arc::new(Mutex::new(Vec::new()));
        let reports = Arc::new(Mutex::new(Vec::new()));
        let mut hasher = BlockHasher::new(&config.hash_seed, capacity.block_tokens);
        let now = clock.clone();
        let (reader, watcher) = (Arc::clone(&replay), Arc::clone(&reports));
        let ports = Ports {
            kv_events: Some(Box::new(move |batch| reader.lock().unwrap().read(batch, &mut hasher))),
            observer: Some(Box::new(move |report: &StepReport| watcher.lock().unwrap().push(report.clone()))),
            fetch: Some(Box::new(Transfers(Arc::clone(&transfers)))),
            disk: (config.disk_blocks > 0)
                .then(|| Box::new(ScriptedDisk(Arc::clone(&platter))) as Box<dyn engine::kv::disk::Disk>),
            ..Ports::new(move || now.now())
        };
        let (engine, handle) =
            Engine::new(Box::new(Device(Arc::clone(&device))), config, ports).expect("the limits suit the device");
        Self { engine, handle, device, clock, replay, transfers, reports, platter, seen: HashMap::new(), capacity }
    }

    pub fn submit(&mut self, ask: &Ask) -> Result<RequestId, Rejected> {
        self.submit_masked(ask, ask.rule.map(|rule| Box::new(rule.mask(&ask.prompt)) as Box<dyn LogitMask>))
    }

    pub fn submit_masked(&mut self, ask: &Ask, mask: Option<Box<dyn LogitMask>>) -> Result<RequestId, Rejected> {
        let seen = Arc::new(Mutex::new(Seen { reads_max: ask.reads_max, ..Seen::default() }));
        let sink = Arc::clone(&seen);
        let id = self.handle.submit(NewRequest {
            prompt: ask.prompt.as_slice().into(),
            extra: ask.extra.clone(),
            sampling: ask.sampling,
            extras: Some(Arc::new(ask.extras.clone())),
            mask,
            finish: FinishRules { tokens_max: ask.tokens_max, eos: ask.eos.clone(), stop: ask.stop.clone(), repetition: None },
            priority: ask.priority,
            kv_transfer: Some("params".into()),
            remote_kv: ask.remote,
            arrived: self.clock.now(),
            sink: Box::new(move |output| {
                let mut seen = sink.lock().unwrap();
                seen.outputs.push(output);
                seen.reads_max.is_none_or(|reads_max| seen.outputs.len() < reads_max)
            }),
        })?;
        self.seen.insert(id, seen);
        Ok(id)
    }

    /// One step, after which everything is counted anew.
    pub fn step(&mut self) -> Activity {
        self.clock.advance(Duration::from_millis(1));
        self.platter.lock().unwrap().step();
        let activity = self.engine.step().expect("the device does not fail");
        self.engine.check();
        let stats = self.handle.stats();
        assert_eq!(stats.used_blocks + stats.free_blocks, stats.total_blocks);
        let replay = self.replay.lock().unwrap();
        let told = |medium| replay.on(medium).count();
        let counted =
            [(Medium::Device, stats.cached_blocks), (Medium::Host, stats.host_blocks), (Medium::Disk, stats.disk_blocks)];
        for (medium, blocks) in counted {
            assert_eq!(told(medium), blocks, "events tell of what is cached on {medium:?}");
        }
        drop(replay);
        activity
    }

    pub fn steps(&mut self, steps: usize) {
        (0..steps).for_each(|_| {
            self.step();
        });
    }

    /// Steps until nothing is left to do, the disk's work included.
    pub fn settle(&mut self) {
        let (mut steps, mut idle) = (0, 0);
        while idle < 8 {
            idle = if self.step() == Activity::Busy { 0 } else { idle + 1 };
            steps += 1;
            assert!(steps < 10_000, "the engine does not come to an end");
        }
    }

    /// Ends a transfer; on success its blocks hold the prompt's first `tokens` tokens, else garbage.
    pub fn end_transfer(&mut self, transfer: &Transfer, prompt: &[u32], tokens: Option<usize>) {
        let mut watched = self.device.lock().unwrap();
        let garbage: Vec<u32> = prompt.iter().map(|token| token + 1).collect();
        let from = transfer.cached_tokens as usize / self.capacity.block_tokens;
        match tokens {
            Some(tokens) => watched.fake.fill(&transfer.blocks, &prompt[..tokens]),
            // What was cached belongs to others too, and a transfer leaves it alone.
            None => watched.fake.fill(&transfer.blocks[from..], &garbage[..prompt.len() - transfer.cached_tokens as usize]),
        }
        drop(watched);
        let outcome = tokens.map_or(RemoteOutcome::Failed, |tokens| RemoteOutcome::Received { tokens: tokens as u32 });
        self.handle.remote_done(transfer.request, outcome).expect("there is room for a command");
    }

    pub fn outputs(&self, id: RequestId) -> Vec<Output> {
        self.seen[&id].lock().unwrap().outputs.clone()
    }

    /// The tokens that a client saw, and how its request ended.
    pub fn answer(&self, id: RequestId) -> (Vec<u32>, Option<FinishReason>) {
        let (mut tokens, mut reason) = (Vec::new(), None);
        for (i, output) in self.outputs(id).into_iter().enumerate() {
            assert_eq!(reason, None, "nothing comes behind the end");
            match output {
                Output::Admitted { .. } => assert_eq!(i, 0, "a request is admitted once, first of all"),
                Output::Token { token, .. } => tokens.push(token),
                Output::PromptLogprobs(_) | Output::Pooled(_) => {}
                Output::Finished(finished) => {
                    assert_eq!(finished.generated_tokens as usize, tokens.len());
                    assert_eq!(finished.kv_transfer.as_deref(), Some("params"));
                    reason = Some(finished.reason);
                }
            }
        }
        (tokens, reason)
    }

    /// What a client was told of its prompt, and of each token.
    pub fn told(&self, id: RequestId) -> (Vec<Logprobs>, Vec<Option<Logprobs>>) {
        let (mut prompt, mut tokens) = (Vec::new(), Vec::new());
        for output in self.outputs(id) {
            match output {
                Output::PromptLogprobs(told) => {
                    assert!(tokens.is_empty(), "the prompt comes first");
                    prompt.extend(told);
                }
                Output::Token { logprobs, .. } => tokens.push(logprobs),
                Output::Admitted { .. } | Output::Pooled(_) | Output::Finished(_) => {}
            }
        }
        (prompt, tokens)
    }

    /// Compares what the engine lists with what its events told, and with the sequence at which that holds.
    pub fn check_list(&mut self) {
        let (sender, receiver) = std::sync::mpsc::channel();
        self.handle.blocks(move |list| sender.send(list).unwrap()).expect("there is room for a command");
        let replay = Arc::clone(&self.replay);
        self.step();
        let list = receiver.recv().unwrap().parents_first();
        let mut listed: HashMap<BlockHash, Known> = HashMap::new();
        for block in list.blocks {
            if block.medium == Medium::Device {
                assert!(block.parent.is_none_or(|parent| listed.contains_key(&parent)), "parents come first");
            }
            let fresh = Known { parent: block.parent, tokens: block.tokens, media: BTreeSet::new() };
            assert!(listed.entry(block.hash).or_insert(fresh).media.insert(block.medium), "a block is listed twice");
        }
        let replay = replay.lock().unwrap();
        // The step after the list may have told of more.
        if list.sequence == replay.batches {
            assert_eq!(listed, replay.blocks);
        } else {
            assert_eq!(list.sequence + 1, replay.batches, "the list holds before the step's own batch");
        }
    }
}
