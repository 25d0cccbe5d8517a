//! A thought that may take so many tokens: then its end is all that may follow. vLLM 0.33's `thinking_token_budget`.

use engine::sample::{Accepted, LogitMask, MaskError};
use engine_text::reasoning::{Opening, ReasoningFormat, ThoughtEnd};
use engine_text::{Detokenizer, Text, TextError};

/// The mask of an output whose thought is bounded, before that of its grammar.
pub struct Budget {
    /// The grammar's, which lets the thought be.
    inner: Option<Box<dyn LogitMask>>,
    /// `None`: the thought is over.
    thought: Option<(ThoughtEnd, Detokenizer)>,
    /// Tokens of the thought that are left.
    left: u32,
    /// What ends it, as tokens, and how many of them were sampled.
    end: Vec<u32>,
    said: usize,
    all: Vec<u32>,
    one: Vec<u32>,
}

impl Budget {
    /// Bounds a thought to `tokens_max` tokens, its markers not among them.
    pub fn new(
        text: &Text,
        vocabulary: usize,
        (format, opening): (&'static ReasoningFormat, Opening),
        tokens_max: u32,
        inner: Option<Box<dyn LogitMask>>,
    ) -> Result<Self, TextError> {
        let words = vocabulary.div_ceil(32);
        let thought = (ThoughtEnd::new(format, format.begins(opening)), text.detokenizer(&[], false));
        let end = text.encode(format.end(), false)?;
        Ok(Self {
            inner,
            thought: Some(thought),
            left: tokens_max,
            end: end.into_iter().filter(|token| (*token as usize) < vocabulary).collect(),
            said: 0,
            all: vec![u32::MAX; words],
            one: vec![0; words],
        })
    }

    /// The token that must come next, if the thought must end.
    fn forced(&self) -> Option<u32> {
        let (end, _) = self.thought.as_ref()?;
        if end.thinks() && self.left == 0 { self.end.get(self.said).copied() } else { None }
    }
}

impl LogitMask for Budget {
    fn begin(&mut self) {
        if let Some(inner) = &mut self.inner {
            inner.begin();
        }
    }

    fn foresee(&mut self, drafts: &[u32]) -> usize {
        match (&self.thought, &mut self.inner) {
            // No draft is taken over the end of the budget.
            (Some(_), _) => drafts.len().min(self.left as usize),
            (None, Some(inner)) => inner.foresee(drafts),
            (None, None) => drafts.len(),
        }
    }

    fn join(&mut self) -> Result<&[u32], MaskError> {
        if let Some(token) = self.forced() {
            self.one.fill(0);
            self.one[token as usize / 32] = 1 << (token % 32);
            return Ok(&self.one);
        }
        match &mut self.inner {
            Some(inner) => inner.join(),
            None => Ok(&self.all),
        }
    }

    fn accept(&mut self, token: u32) -> Result<Accepted, MaskError> {
        let forced = self.forced().is_some();
        if let Some((end, detokenizer)) = &mut self.thought {
            let within = end.thinks();
            let over = end.feed(detokenizer.push(token)).is_some();
            self.said += usize::from(forced);
            self.left -= u32::from(within && end.thinks() && self.left > 0);
            if over {
                self.thought = None;
            }
        }
        match &mut self.inner {
            Some(inner) => inner.accept(token),
            None => Ok(Accepted::More),
        }
    }
}
