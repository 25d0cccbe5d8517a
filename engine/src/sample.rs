//! From logits to a token. Steps and their order are those of vLLM 0.33 (`v1/sample/sampler.py`): a grammar's mask, log-probabilities of
//! the logits as they are then, allowed ids, bad words, minimum of tokens, bias, penalties, temperature, min-p, top-k, top-p, draw. All
//! in f32.
//!
//! The draw comes from a generator without state, Philox4x32-10, at (seed, number of the output token): a request's tokens do not
//! depend on its batch mates, on chunking, on a preemption or on drafts. What a request remembers is in its [`SharedState`]; a
//! [`Sampler`] is nothing but scratch memory, one for each thread that samples.

mod choose;
mod counts;
mod logprobs;
mod mask;
mod nucleus;
mod pass;
mod philox;
mod state;

use crate::backend::{NoToken, Sample, Sampled, Slot};
use crate::request::Logprobs;
use choose::Chooser;

pub use mask::{Accepted, LogitMask, MaskError};
pub use state::{SampleState, SharedState};

/// Scratch memory of one thread that samples.
#[derive(Clone, Debug, Default)]
pub struct Sampler {
    chooser: Chooser,
    /// The logits before they are changed, where their log-probabilities are told.
    raw: Vec<f32>,
    /// Logits of allowed tokens.
    kept: Vec<f32>,
}

impl Sampler {
    pub fn new() -> Self {
        Self::default()
    }

    /// Samples one row: appends the token that `sample` chooses from the first of `logits`, and goes on to the next, one for each of
    /// `drafts`, while the draft is the token that was chosen. Logits are changed.
    pub fn row<'a>(
        &mut self,
        slot: Slot,
        sample: &Sample,
        drafts: &[u32],
        logits: impl IntoIterator<Item = &'a mut [f32]>,
        out: &mut Vec<Sampled>,
    ) {
        let mut drafts = drafts.iter();
        for (index, logits) in (sample.index..).zip(logits) {
            let sampled = self.next(slot, sample, index, logits);
            let sampled = sampled.unwrap_or_else(|why| Sampled { token: Err(why), ..Sampled::plain(slot, 0) });
            let goes_on = !sampled.ended && drafts.next().is_some_and(|draft| sampled.token == Ok(*draft));
            out.push(sampled);
            if !goes_on {
                return;
            }
        }
    }

    fn next(&mut self, slot: Slot, sample: &Sample, index: u32, logits: &mut [f32]) -> Result<Sampled, NoToken> {
        let Self { chooser, raw, kept } = self;
        let Some(state) = &sample.state else {
            let token = chooser.choose(logits, &sample.sampling, index).map_err(|_| NoToken::NotANumber)?;
            return Ok(Sampled::plain(slot, token));
        };
        let mut state = state.lock();
        // A number that is none stays one behind a mask, where nobody would see it.
        chooser.check(logits)?;
        state.mask(logits)?;
        let tells = state.extras().tells_logprobs();
        if tells {
            raw.clear();
            raw.extend_from_slice(logits);
        }
        if state.processes() {
            state.process(logits, kept);
        }
        let token = chooser.choose(logits, &sample.sampling, index)?;
        let logprobs = tells.then(|| Box::new(logprobs::tell(raw, token, state.extras(), chooser)));
        let ended = state.accept(token)? == Accepted::Ended;
        Ok(Sampled { slot, token: Ok(token), logprobs, ended })
    }

    /// How likely `target` is by these logits, and the `top` most likely tokens.
    pub fn score(&mut self, logits: &[f32], target: u32, top: u32) -> Logprobs {
        logprobs::top(logits, target, top, &mut self.chooser)
    }
}

#[cfg(test)]
mod tests;
