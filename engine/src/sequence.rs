//! A request inside the engine: where it stands, what of it is computed, and what it holds.

mod progress;
mod table;

use std::sync::Arc;
use std::time::Instant;

use domain::ExtraKeys;

use crate::backend::{AdapterSlot, BlockId, Input, Sample, Scored, Slot};
use crate::handle::Submitted;
use crate::kv::hash::BlockHash;
use crate::plan::Turn;
use crate::request::{FinishReason, FinishRules, RequestId, Sampling, Sink};
use crate::sample::SharedState;
use crate::speculate::Lookup;
pub use progress::{Chunk, Progress};
pub use table::{Key, Table};

/// Where a request stands.
///
/// ```text
///               remote KV                    transfer ended
///   (mail) ──────────────▶ WaitingRemote ────────────────────▶ Waiting ──plan: admit──▶ Running
///     │                          │                              ▲  │ ▲                   │  │
///     └──────────────────────────┼──────────────────────────────┘  │ └──plan: preempt────┘  │
///                                └───────── mail: abort ───────────┴──▶ Finished ◀──────────┘
///                                                                        settle: last token; mail: abort
/// ```
/// On its way from `Waiting` to `Running` a request is `Restoring` while blocks of its prompt come back from a lower tier. Mail moves what comes from outside, the plan admits and preempts, settling ends. A preempted request is `Waiting` again, at the
/// front; what it has generated is recomputed like a prompt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    Waiting,
    WaitingRemote,
    Restoring,
    Running,
    Finished,
}

impl State {
    /// Whether the drawing has an arrow from here to `next`.
    pub fn may_become(self, next: Self) -> bool {
        use State::{Finished, Restoring, Running, Waiting, WaitingRemote};
        matches!(
            (self, next),
            (Waiting, WaitingRemote | Restoring | Running | Finished) | (WaitingRemote | Restoring | Running, Waiting | Finished)
        )
    }
}

/// A request of the engine.
pub struct Sequence {
    pub id: RequestId,
    pub state: State,
    pub progress: Progress,
    /// Prompt and generated tokens.
    pub tokens: Vec<u32>,
    /// Of the full blocks among `tokens`, as far as they were needed.
    pub hashes: Vec<BlockHash>,
    pub extra: Arc<ExtraKeys>,
    /// Where the adapter lies that the request asked for.
    pub adapter: Option<AdapterSlot>,
    pub sampling: Sampling,
    /// What sampling remembers, where the request asks for more.
    pub sample_state: Option<SharedState>,
    /// Most likely tokens to tell for each token of the prompt.
    pub prompt_logprobs: Option<u32>,
    /// Tokens of the prompt that were told, or are by batches in flight; the first is never.
    pub scored: u32,
    pub lookup: Option<Box<Lookup>>,
    /// Proposed for the next row, or in flight.
    pub drafts: Vec<u32>,
    pub finish: FinishRules,
    pub kv_transfer: Option<Arc<str>>,
    pub remote_kv: bool,
    pub sink: Box<dyn Sink>,

    pub slot: Option<Slot>,
    pub blocks: Vec<BlockId>,
    /// Leading blocks that are known to the prefix cache, or were offered to it.
    pub offered: usize,
    /// Leading blocks that the batch's table of its slot has.
    pub handed: usize,
    /// Batches in flight that compute a row of this request, and the number of the last one launched.
    pub in_flight: u32,
    pub last_launch: u64,

    /// Lower is more urgent.
    pub priority: i64,
    /// Its place in the queue while it is `Waiting`.
    pub turn: Option<Turn>,
    /// Free blocks that it was admitted with and has not taken yet.
    pub promised: usize,
    /// Lower tiers were asked for its blocks since it last lost them.
    pub restored: bool,

    /// Prompt tokens found in the cache at the first admission, those among them that came back from host memory and from the disk,
    /// and those that came from another engine.
    pub cached_tokens: u32,
    pub host_tokens: u32,
    pub disk_tokens: u32,
    pub remote_tokens: u32,
    pub preemptions: u32,
    pub arrived: Instant,
    pub admitted: Option<Instant>,
    pub first_token: Option<Instant>,
    pub last_token: Option<Instant>,
}

impl Sequence {
    pub fn new(submitted: Submitted) -> Self {
        let Submitted { id, request, tokens, hashes, state, lookup } = submitted;
        let prompt = u32::try_from(tokens.len()).expect("the door lets in what fits the context");
        Self {
            id,
            state: State::Waiting,
            progress: Progress { prompt, known: prompt, pending: 0, computed: 0, settled: 0, drafts: 0, sampled_here: false },
            tokens,
            hashes,
            extra: Arc::new(request.extra),
            adapter: None,
            sampling: request.sampling,
            sample_state: state,
            prompt_logprobs: request.extras.and_then(|extras| extras.prompt_logprobs),
            scored: 1,
            lookup,
            drafts: Vec::new(),
            finish: request.finish,
            kv_transfer: request.kv_transfer,
            remote_kv: request.remote_kv,
            sink: request.sink,
            slot: None,
            blocks: Vec::new(),
            offered: 0,
            handed: 0,
            in_flight: 0,
            last_launch: 0,
            priority: request.priority,
            turn: None,
            promised: 0,
            restored: false,
            cached_tokens: 0,
            host_tokens: 0,
            disk_tokens: 0,
            remote_tokens: 0,
            preemptions: 0,
            arrived: request.arrived,
            admitted: None,
            first_token: None,
            last_token: None,
        }
    }

    /// Its place where priorities count: the more urgent first, then who came first.
    pub fn rank(&self) -> Turn {
        Turn { priority: self.priority, place: i64::try_from(self.id.0).unwrap_or(i64::MAX) }
    }

    pub fn become_state(&mut self, next: State) {
        assert!(self.state.may_become(next), "request {} cannot become {next:?}: it is {:?}", self.id, self.state);
        self.state = next;
    }

    pub fn next_chunk(&self, tokens_max: usize, length_max: usize) -> Option<Chunk> {
        let bounded = |value: usize| u32::try_from(value).unwrap_or(u32::MAX);
        self.progress.next_chunk(bounded(tokens_max), self.finish.tokens_max.max(1), bounded(length_max))
    }

    /// The input of `chunk`, whose tokens are appended to `tokens` where the slot does not have it.
    pub fn input(&self, chunk: &Chunk, tokens: &mut Vec<u32>) -> Input {
        if chunk.last {
            return Input::Last;
        }
        let (start, from) = (tokens.len(), chunk.start as usize);
        tokens.extend_from_slice(&self.tokens[from..from + (chunk.tokens - chunk.drafts) as usize]);
        tokens.extend_from_slice(&self.drafts[..chunk.drafts as usize]);
        Input::Tokens(start..tokens.len())
    }

    pub fn sample(&self, chunk: &Chunk) -> Option<Sample> {
        chunk.sample.map(|index| Sample { sampling: self.sampling, index, state: self.sample_state.clone() })
    }

    /// Whether tokens of the prompt are still to be told: their logits must be computed, whatever is cached.
    pub fn scores(&self) -> bool {
        self.prompt_logprobs.is_some() && self.scored < self.progress.prompt
    }

    /// The positions of `chunk` whose next token is told, and which were not before; appends those tokens to `targets`.
    pub fn score(&mut self, chunk: &Chunk, targets: &mut Vec<u32>) -> Option<Box<Scored>> {
        let top = self.prompt_logprobs?;
        let (from, to) = (self.scored.max(chunk.start + 1), self.progress.prompt.min(chunk.start + chunk.tokens + 1));
        if from >= to {
            return None;
        }
        let first = targets.len();
        targets.extend_from_slice(&self.tokens[from as usize..to as usize]);
        self.scored = to;
        Some(Box::new(Scored { first: from - 1, targets: first..targets.len(), top }))
    }

    /// Proposes at most `drafts_max` tokens that may come behind those known, into `self.drafts`; says how many.
    pub fn propose(&mut self, drafts_max: usize) -> usize {
        self.drafts.clear();
        if let Some(lookup) = &mut self.lookup {
            lookup.propose(&self.tokens, drafts_max, &mut self.drafts);
        }
        self.drafts.len()
    }

    /// Takes a token that settled. The first of a row is one of those in flight; each further one says that a draft was right.
    pub fn push(&mut self, token: u32, first: bool) {
        if first {
            assert!(self.progress.pending > 0, "request {} has no token in flight", self.id);
            self.progress.pending -= 1;
        } else {
            self.progress.accept(self.state == State::Running);
        }
        self.tokens.push(token);
        self.progress.known += 1;
    }

    /// Whether the sequence, which ends with a generated token, ends for good.
    pub fn ended(&self, length_max: usize) -> Option<FinishReason> {
        let token = *self.tokens.last().expect("a sequence has a prompt");
        // Few ids: a plain loop is faster than `contains`, which prepares for many.
        let is_token = |&id: &u32| id == token;
        if self.finish.eos.iter().any(is_token) {
            Some(FinishReason::Eos)
        } else if self.finish.stop.iter().any(is_token) {
            Some(FinishReason::StopId(token))
        } else if self.generated() >= self.finish.tokens_max.max(1) || self.tokens.len() >= length_max {
            Some(FinishReason::Length)
        } else {
            let repeats = self.finish.repetition.is_some_and(|rule| rule.is_in(&self.tokens[self.progress.prompt as usize..]));
            repeats.then_some(FinishReason::Repetition)
        }
    }

    /// Tokens that it can have at its end.
    pub fn length_max(&self, length_max: usize) -> usize {
        (self.progress.prompt as usize).saturating_add(self.finish.tokens_max.max(1) as usize).min(length_max)
    }

    /// Generated tokens that have settled.
    pub fn generated(&self) -> u32 {
        self.progress.known - self.progress.prompt
    }
}
