//! How much of a sequence is computed: the arithmetic of a step.

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
