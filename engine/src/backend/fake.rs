//! The fake device: deterministic tokens at a scripted speed, settled late.
//!
//! Its tokens are a pure function of what it was *shown*: it stores what each row writes, block by block, and samples from what it
//! finds in the blocks of the row's table. A wrong block, a block reused too early, a lost last token or a token computed twice at
//! the wrong position changes the output, and so [`expected`], the same function of the whole sequence, proves the engine right.
//!
//! For a request that asks for more than a plain token, it makes [`logits`] whose largest is that token, and lets the engine's sampler
//! choose.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use engine_assets::{Adapter, Pooling};

use super::{AdapterSlot, Backend, Batch, BlockId, Capacity, DeviceError, Input, Outcomes, Row, Sampled, Sleep, Ticket};
use crate::pooling::{self, Pooler};
use crate::request::Sampling;
use crate::sample::Sampler;

/// Longest time that a batch takes, however slow the device is told to be: a point in time stays a point in time.
const COST_MAX: Duration = Duration::from_secs(24 * 3600);

/// How fast the fake device is, and how late.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Speed {
    /// Tokens per second of prefill; `None` is infinitely fast.
    pub prefill_tok_s: Option<f64>,
    /// What every batch costs.
    pub step: Duration,
    /// See [`Backend::lag`].
    pub lag: usize,
}

impl Speed {
    /// Everything is done at once, and still settles late.
    pub const INSTANT: Self = Self { prefill_tok_s: None, step: Duration::ZERO, lag: 1 };

    /// How long a batch takes: the prefill's tokens, and the step.
    fn cost(&self, batch: &Batch) -> Duration {
        let prefill = match self.prefill_tok_s {
            Some(tok_s) => Duration::try_from_secs_f64(batch.tokens.len() as f64 / tok_s).unwrap_or(Duration::MAX),
            None => Duration::ZERO,
        };
        self.step.saturating_add(prefill).min(COST_MAX)
    }
}

/// The time as the fake device sees it, and how it waits.
pub trait Pace: Send {
    fn now(&self) -> Instant;
    fn sleep(&self, duration: Duration);
}

/// The time of this machine.
pub struct RealTime;

impl Pace for RealTime {
    fn now(&self) -> Instant {
        Instant::now()
    }

    fn sleep(&self, duration: Duration) {
        std::thread::sleep(duration);
    }
}

pub struct Fake {
    capacity: Capacity,
    speed: Speed,
    pace: Box<dyn Pace>,
    /// What each position of each block holds: a digest of the token there and of what the position before it held.
    kv: Vec<u64>,
    /// The token that each slot sampled last.
    last: Vec<Option<u32>>,
    /// Batches that were launched and are not settled; what they sampled is shown when they are.
    launched: VecDeque<Launched>,
    spare: Vec<Outcomes>,
    sampler: Sampler,
    /// Of a fake that embeds: hidden states of so many values.
    pooler: Option<(Pooler, usize)>,
    /// Of one position, or of a row's.
    logits: Vec<f32>,
    tickets: u64,
    /// When the device has done all that was launched.
    busy_until: Option<Instant>,
}

struct Launched {
    ticket: Ticket,
    done: Instant,
    outcomes: Outcomes,
}

impl Fake {
    pub fn new(capacity: Capacity, speed: Speed, pace: Box<dyn Pace>) -> Self {
        Self {
            capacity,
            speed,
            pace,
            kv: vec![0; capacity.kv_blocks * capacity.block_tokens],
            last: vec![None; capacity.slots],
            launched: VecDeque::new(),
            spare: Vec::new(),
            sampler: Sampler::new(),
            pooler: None,
            logits: Vec::new(),
            tickets: 0,
            busy_until: None,
        }
    }

    /// A fake that embeds, in vectors of `width` values.
    pub fn pooling(mut self, pooling: Pooling, width: usize) -> Self {
        self.pooler = Some((Pooler::new(pooling, self.capacity.slots, width), width));
        self
    }

    fn place(&self, table: &[BlockId], position: usize) -> usize {
        let block = table[position / self.capacity.block_tokens];
        block.0 as usize * self.capacity.block_tokens + position % self.capacity.block_tokens
    }

    /// Writes what the positions of `sequence` hold into the blocks of `table`, as a transfer from another engine does.
    pub fn fill(&mut self, table: &[BlockId], sequence: &[u32]) {
        let mut digest = ROOT;
        for (position, &token) in sequence.iter().enumerate() {
            digest = absorb(digest, token);
            let place = self.place(table, position);
            self.kv[place] = digest;
        }
    }

    /// Computes one row: writes its positions, and samples from the whole table.
    fn compute(&mut self, batch: &Batch, row: &Row, out: &mut Outcomes) {
        let table = batch.tables.of(row.slot);
        let start = row.start as usize;
        let last;
        let tokens = match &row.input {
            Input::Tokens(range) => &batch.tokens[range.clone()],
            Input::Last => {
                last = [self.last[row.slot.0 as usize].expect("a row continues with the last token only where there is one")];
                &last
            }
        };
        let mut digest = if start == 0 { ROOT } else { self.kv[self.place(table, start - 1)] };
        for (position, &token) in (start..).zip(tokens) {
            digest = absorb(digest, token);
            let place = self.place(table, position);
            self.kv[place] = digest;
        }
        if let Some((pooler, width)) = &mut self.pooler {
            let first = start;
            let (kv, block_tokens) = (&self.kv, self.capacity.block_tokens);
            let places = pooling::positions(pooler.pooling, row, tokens.len()).map(|at| {
                let position = first + at;
                table[position / block_tokens].0 as usize * block_tokens + position % block_tokens
            });
            let states: Vec<Vec<f32>> = places.map(|place| state(kv[place], *width)).collect();
            let vector = pooler.take(row, tokens.len(), states.iter().map(|state| &state[..]));
            out.pooled.extend(vector.map(|vector| (row.slot, vector)));
            return;
        }
        if let Some(scored) = &row.scored {
            let vocabulary = self.capacity.vocabulary;
            let mut told = Vec::with_capacity(scored.targets.len());
            for (position, &target) in (scored.first as usize..).zip(&batch.targets[scored.targets.clone()]) {
                let context = self.context(table, position);
                self.logits.clear();
                self.logits.extend(logits(context, plain(context, &Sampling::GREEDY, 0, vocabulary), vocabulary));
                told.push(self.sampler.score(&self.logits, target, scored.top));
            }
            out.scored.push((row.slot, told));
        }
        let Some(sample) = &row.sample else { return };
        let drafts = row.drafts as usize;
        let (before, drafts) = tokens.split_at(tokens.len() - drafts);
        let first = start + before.len() - 1;
        let from = out.sampled.len();
        match &sample.state {
            None => {
                let mut drafts = drafts.iter();
                for (position, index) in (first..start + tokens.len()).zip(sample.index..) {
                    let token = plain(self.context(table, position), &sample.sampling, index, self.capacity.vocabulary);
                    out.sampled.push(Sampled::plain(row.slot, token));
                    if drafts.next() != Some(&token) {
                        break;
                    }
                }
            }
            Some(_) => {
                let vocabulary = self.capacity.vocabulary;
                self.logits.clear();
                for (position, index) in (first..start + tokens.len()).zip(sample.index..) {
                    let context = self.context(table, position);
                    self.logits.extend(logits(context, plain(context, &sample.sampling, index, vocabulary), vocabulary));
                }
                self.sampler.row(row.slot, sample, drafts, self.logits.chunks_exact_mut(vocabulary), &mut out.sampled);
            }
        }
        // What comes behind a failure is thrown away; it must be something all the same.
        let last = out.sampled[from..].last().map(|sampled| *sampled.token.as_ref().unwrap_or(&0));
        self.last[row.slot.0 as usize] = last;
    }

    /// A digest of all that `table` holds up to `position`.
    fn context(&self, table: &[BlockId], position: usize) -> u64 {
        let ends = (0..=position).skip(self.capacity.block_tokens - 1).step_by(self.capacity.block_tokens);
        ends.fold(self.kv[self.place(table, position)], |context, end| mix(context ^ self.kv[self.place(table, end)]))
    }
}

impl Backend for Fake {
    fn capacity(&self) -> Capacity {
        self.capacity
    }

    fn lag(&self) -> usize {
        self.speed.lag
    }

    fn launch(&mut self, batch: &Batch) -> Result<Ticket, DeviceError> {
        let now = self.pace.now();
        let done = self.busy_until.map_or(now, |busy| busy.max(now)) + self.speed.cost(batch);
        self.busy_until = Some(done);
        let mut outcomes = self.spare.pop().unwrap_or_default();
        outcomes.clear();
        for row in &batch.rows {
            self.compute(batch, row, &mut outcomes);
        }
        self.tickets += 1;
        let ticket = Ticket(self.tickets);
        self.launched.push_back(Launched { ticket, done, outcomes });
        Ok(ticket)
    }

    /// Its tokens are the same whatever the adapter.
    fn set_adapter(&mut self, _: AdapterSlot, _: Option<&Adapter>) -> Result<(), DeviceError> {
        Ok(())
    }

    fn settle(&mut self, ticket: Ticket, out: &mut Outcomes) -> Result<(), DeviceError> {
        let launched = self.launched.pop_front().filter(|launched| launched.ticket == ticket);
        let Some(mut launched) = launched else {
            return Err(DeviceError { device: "fake".into(), what: format!("{ticket:?} is not the oldest in flight") });
        };
        let left = launched.done.saturating_duration_since(self.pace.now());
        if !left.is_zero() {
            self.pace.sleep(left);
        }
        out.sampled.append(&mut launched.outcomes.sampled);
        out.scored.append(&mut launched.outcomes.scored);
        out.pooled.append(&mut launched.outcomes.pooled);
        self.spare.push(launched.outcomes);
        Ok(())
    }

    fn kv_block_bytes(&self) -> usize {
        self.capacity.block_tokens * size_of::<u64>()
    }

    fn kv_layout(&self) -> String {
        format!("fake digests, {} tokens", self.capacity.block_tokens)
    }

    fn save_block(&mut self, block: BlockId, out: &mut [u8]) -> Result<(), DeviceError> {
        let start = block.0 as usize * self.capacity.block_tokens;
        let digests = &self.kv[start..start + self.capacity.block_tokens];
        for (out, digest) in out.chunks_exact_mut(size_of::<u64>()).zip(digests) {
            out.copy_from_slice(&digest.to_le_bytes());
        }
        Ok(())
    }

    fn load_block(&mut self, block: BlockId, bytes: &[u8]) -> Result<(), DeviceError> {
        let start = block.0 as usize * self.capacity.block_tokens;
        for (digest, bytes) in self.kv[start..].iter_mut().zip(bytes.as_chunks().0) {
            *digest = u64::from_le_bytes(*bytes);
        }
        Ok(())
    }

    fn sleep(&mut self, _: Sleep) -> Result<(), DeviceError> {
        self.kv.fill(0);
        Ok(())
    }
}

const ROOT: u64 = 0x7261_636b_7369_6465;

/// The token that the fake device generates behind `sequence`, if it is right: the engine's whole work in a few lines.
pub fn expected(sequence: &[u32], sampling: &Sampling, index: u32, capacity: &Capacity) -> u32 {
    plain(whole(sequence, capacity), sampling, index, capacity.vocabulary)
}

/// The logits that the fake device has behind `sequence`, for a request that asks for more than a plain token.
pub fn expected_logits(sequence: &[u32], sampling: &Sampling, index: u32, capacity: &Capacity) -> Vec<f32> {
    let context = whole(sequence, capacity);
    logits(context, plain(context, sampling, index, capacity.vocabulary), capacity.vocabulary).collect()
}

/// What [`Fake::context`] is where the blocks hold `sequence`.
fn whole(sequence: &[u32], capacity: &Capacity) -> u64 {
    let digests: Vec<u64> = sequence
        .iter()
        .scan(ROOT, |digest, &token| {
            *digest = absorb(*digest, token);
            Some(*digest)
        })
        .collect();
    let ends = digests.iter().skip(capacity.block_tokens - 1).step_by(capacity.block_tokens);
    ends.fold(digests.last().copied().unwrap_or(ROOT), |context, digest| mix(context ^ digest))
}

fn plain(context: u64, sampling: &Sampling, index: u32, vocabulary: usize) -> u32 {
    let draw = if sampling.is_greedy() { 0 } else { mix(sampling.seed ^ mix(u64::from(index) + 1)) };
    token(context ^ draw, vocabulary)
}

/// `first` is far the most likely; the others lie between 0 and 8.
fn logits(context: u64, first: u32, vocabulary: usize) -> impl Iterator<Item = f32> {
    let other = move |token: u32| (mix(context ^ u64::from(token)) >> 40) as f32 / (1 << 21) as f32;
    (0..vocabulary as u32).map(move |token| if token == first { 40.0 } else { other(token) })
}

/// What a fake that embeds pools of `sequence`.
pub fn expected_vector(sequence: &[u32], pooling: Pooling, width: usize) -> Vec<f32> {
    let mut digest = ROOT;
    let digests = sequence.iter().map(|&token| {
        digest = absorb(digest, token);
        digest
    });
    let states: Vec<Vec<f32>> = digests.map(|digest| state(digest, width)).collect();
    match pooling {
        Pooling::Cls => states[0].clone(),
        Pooling::Last => states[states.len() - 1].clone(),
        Pooling::Mean => {
            let mean = |at: usize| states.iter().map(|state| f64::from(state[at])).sum::<f64>() / states.len() as f64;
            (0..width).map(|at| mean(at) as f32).collect()
        }
    }
}

/// The hidden state of a position: `width` numbers from -1 to 1.
fn state(digest: u64, width: usize) -> Vec<f32> {
    (0..width as u64).map(|at| (mix(digest ^ at) >> 40) as f32 / (1 << 23) as f32 - 1.0).collect()
}

fn absorb(digest: u64, token: u32) -> u64 {
    mix(digest ^ (u64::from(token) + 1))
}

fn token(digest: u64, vocabulary: usize) -> u32 {
    (mix(digest) % vocabulary as u64) as u32
}

/// The finaliser of splitmix64 (Steele, Lea and Flood, "Fast splittable pseudorandom number generators", OOPSLA 2014).
fn mix(value: u64) -> u64 {
    let value = value.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ (value >> 31)
}

#[cfg(test)]
mod tests;
