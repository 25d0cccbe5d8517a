//! A request inside the engine: where it stands, what of it is computed, and what it holds.

use std::collections::HashMap;
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

/// How much of a sequence exists, is being computed, and is computed; the arithmetic of a step. There are no phases: each step lets
/// `computed` catch up with `total`.
///
/// ```text
///   0 ............ settled ......... computed ......... known .... total
///   |  in the KV cache |  in flight  |   to compute    | sampled, |
///   |                  |             |                 | unsettled|
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    pub prompt: u32,
    /// Tokens whose ids the host has.
    pub known: u32,
    /// Tokens that batches in flight sample.
    pub pending: u32,
    /// Positions that launched batches compute.
    pub computed: u32,
    /// Positions that settled batches have computed.
    pub settled: u32,
    /// Drafts in flight. What they yield is not known before they settle: nothing else is launched until then.
    pub drafts: u32,
    /// Whether the slot remembers the token at the sequence's end: one was sampled since the request got it.
    pub sampled_here: bool,
}

/// What one batch computes of a sequence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Chunk {
    pub start: u32,
    pub tokens: u32,
    /// Drafts among `tokens`, behind all others.
    pub drafts: u32,
    /// The one token is the slot's last.
    pub last: bool,
    /// Number of the generated token that the chunk's end yields, from 0; `None` where tokens remain to be computed.
    pub sample: Option<u32>,
}

impl Progress {
    pub fn total(&self) -> u32 {
        self.known + self.pending
    }

    /// Generated tokens, those in flight included.
    pub fn generated(&self) -> u32 {
        self.total() - self.prompt
    }

    /// Tokens that are not computed.
    pub fn rest(&self) -> u32 {
        self.total() - self.computed
    }

    /// The next chunk of at most `tokens_max` (≥ 1) tokens. `None`: the tokens in flight are the last that the limits allow.
    pub fn next_chunk(&self, tokens_max: u32, generated_max: u32, length_max: u32) -> Option<Chunk> {
        if self.generated() >= generated_max || self.total() >= length_max || self.drafts > 0 {
            return None;
        }
        let rest = self.total() - self.computed;
        assert!(rest >= 1 && (self.pending == 0 || rest == 1), "a sampled token is behind all others: {self:?}");
        let last = rest == 1 && self.sampled_here;
        assert!(last || self.pending == 0, "a token in flight is the slot's last: {self:?}");
        let tokens = rest.min(tokens_max);
        Some(Chunk { start: self.computed, tokens, drafts: 0, last, sample: (tokens == rest).then_some(self.generated()) })
    }

    pub fn launch(&mut self, chunk: &Chunk) {
        assert_eq!(chunk.start, self.computed, "chunks follow one another");
        self.computed += chunk.tokens - chunk.drafts;
        self.drafts = chunk.drafts;
        if chunk.sample.is_some() {
            self.pending += 1;
            self.sampled_here = true;
        }
    }

    /// A batch with `chunk` settled; `resident`: what it computed is still there.
    pub fn settle(&mut self, chunk: &Chunk, resident: bool) {
        if resident {
            self.settled = chunk.start + chunk.tokens - chunk.drafts;
        }
        // A chunk before the one with the drafts may settle while those are in flight.
        if chunk.drafts > 0 {
            self.drafts = 0;
        }
    }

    /// A draft was what was sampled before it: its position is computed.
    pub fn accept(&mut self, resident: bool) {
        if resident {
            self.computed += 1;
            self.settled += 1;
        }
    }

    /// Nothing of the sequence is in the KV cache but the first `cached` positions.
    pub fn restart(&mut self, cached: u32) {
        assert!(cached < self.known && self.pending == 0, "a token must remain to be computed: {self:?}");
        (self.computed, self.settled, self.sampled_here) = (cached, cached, false);
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
        if self.finish.eos.contains(&token) {
            Some(FinishReason::Eos)
        } else if self.finish.stop.contains(&token) {
            Some(FinishReason::StopId(token))
        } else if self.generated() >= self.finish.tokens_max.max(1) || self.tokens.len() >= length_max {
            Some(FinishReason::Length)
        } else {
            None
        }
    }

    /// Generated tokens that have settled.
    pub fn generated(&self) -> u32 {
        self.progress.known - self.progress.prompt
    }
}

/// Place of a sequence in the [`Table`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Key(u32);

/// All requests of the engine. Places are used again, so that lists of them stay small numbers.
#[derive(Default)]
pub struct Table {
    places: Vec<Option<Sequence>>,
    vacant: Vec<Key>,
    by_id: HashMap<RequestId, Key>,
}

impl Table {
    pub fn len(&self) -> usize {
        self.by_id.len()
    }

    pub fn is_empty(&self) -> bool {
        self.by_id.is_empty()
    }

    pub fn insert(&mut self, sequence: Sequence) -> Key {
        let key = self.vacant.pop().unwrap_or_else(|| {
            self.places.push(None);
            Key(u32::try_from(self.places.len() - 1).expect("admission limits keep requests below 2^32"))
        });
        assert!(self.by_id.insert(sequence.id, key).is_none(), "ids are unique");
        self.places[key.0 as usize] = Some(sequence);
        key
    }

    pub fn find(&self, id: RequestId) -> Option<Key> {
        self.by_id.get(&id).copied()
    }

    /// The sequence at `key` if it is still that of `id`: its place may have been used again.
    pub fn get_if(&mut self, key: Key, id: RequestId) -> Option<&mut Sequence> {
        self.places[key.0 as usize].as_mut().filter(|sequence| sequence.id == id)
    }

    pub fn get(&self, key: Key) -> &Sequence {
        self.places[key.0 as usize].as_ref().expect("lists name requests that are there")
    }

    pub fn get_mut(&mut self, key: Key) -> &mut Sequence {
        self.places[key.0 as usize].as_mut().expect("lists name requests that are there")
    }

    pub fn holds(&self, key: Key) -> bool {
        self.places[key.0 as usize].is_some()
    }

    pub fn remove(&mut self, key: Key) -> Sequence {
        let sequence = self.places[key.0 as usize].take().expect("lists name requests that are there");
        self.by_id.remove(&sequence.id);
        self.vacant.push(key);
        sequence
    }

    pub fn iter(&self) -> impl Iterator<Item = &Sequence> {
        self.places.iter().flatten()
    }

    pub fn ids(&self) -> Vec<RequestId> {
        let mut ids: Vec<RequestId> = self.by_id.keys().copied().collect();
        ids.sort_unstable();
        ids
    }
}
