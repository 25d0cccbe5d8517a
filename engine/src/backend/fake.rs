//! The fake device: deterministic tokens at a scripted speed, settled late.
//!
//! Its tokens are a pure function of what it was *shown*: it stores what each row writes, block by block, and samples from what it
//! finds in the blocks of the row's table. A wrong block, a block reused too early, a lost last token or a token computed twice at
//! the wrong position changes the output, and so [`expected`], the same function of the whole sequence, proves the engine right.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use super::{Backend, Batch, BlockId, Capacity, DeviceError, Input, Row, Sample, Sampled, Ticket};

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
    spare: Vec<Vec<Sampled>>,
    tickets: u64,
    /// When the device has done all that was launched.
    busy_until: Option<Instant>,
}

struct Launched {
    ticket: Ticket,
    done: Instant,
    sampled: Vec<Sampled>,
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
            tickets: 0,
            busy_until: None,
        }
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
    fn compute(&mut self, batch: &Batch, row: &Row) -> Option<Sampled> {
        let table = &batch.blocks[row.blocks.clone()];
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
        let Sample { sampling, index } = row.sample?;
        let mut context = digest;
        for end in (0..start + tokens.len()).skip(self.capacity.block_tokens - 1).step_by(self.capacity.block_tokens) {
            context = mix(context ^ self.kv[self.place(table, end)]);
        }
        let draw = if sampling.is_greedy() { 0 } else { mix(sampling.seed ^ mix(u64::from(index) + 1)) };
        let token = token(context ^ draw, self.capacity.vocabulary);
        self.last[row.slot.0 as usize] = Some(token);
        Some(Sampled { slot: row.slot, token: Some(token) })
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
        let mut sampled = self.spare.pop().unwrap_or_default();
        sampled.clear();
        for row in &batch.rows {
            sampled.extend(self.compute(batch, row));
        }
        self.tickets += 1;
        let ticket = Ticket(self.tickets);
        self.launched.push_back(Launched { ticket, done, sampled });
        Ok(ticket)
    }

    fn settle(&mut self, ticket: Ticket, out: &mut Vec<Sampled>) -> Result<(), DeviceError> {
        let launched = self.launched.pop_front().filter(|launched| launched.ticket == ticket);
        let Some(launched) = launched else {
            return Err(DeviceError { device: "fake".into(), what: format!("{ticket:?} is not the oldest in flight") });
        };
        let left = launched.done.saturating_duration_since(self.pace.now());
        if !left.is_zero() {
            self.pace.sleep(left);
        }
        out.extend_from_slice(&launched.sampled);
        self.spare.push(launched.sampled);
        Ok(())
    }
}

const ROOT: u64 = 0x7261_636b_7369_6465;

/// The token that the fake device generates behind `sequence`, if it is right: the engine's whole work in a few lines.
pub fn expected(sequence: &[u32], sample: Sample, capacity: &Capacity) -> u32 {
    let digests: Vec<u64> = sequence
        .iter()
        .scan(ROOT, |digest, &token| {
            *digest = absorb(*digest, token);
            Some(*digest)
        })
        .collect();
    let ends = digests.iter().skip(capacity.block_tokens - 1).step_by(capacity.block_tokens);
    let context = ends.fold(digests.last().copied().unwrap_or(ROOT), |context, digest| mix(context ^ digest));
    let Sample { sampling, index } = sample;
    let draw = if sampling.is_greedy() { 0 } else { mix(sampling.seed ^ mix(u64::from(index) + 1)) };
    token(context ^ draw, capacity.vocabulary)
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
