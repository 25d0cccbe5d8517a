//! What a request's sampling remembers from token to token, and what it does to the logits before a token is chosen.
//!
//! The state belongs to the request, not to a slot or a device: it survives a preemption, and whoever samples locks it for that long.
//! It moves forward only, by the tokens that were sampled.

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::counts::Counts;
use super::mask::{Accepted, LogitMask, MaskError};
use crate::backend::NoToken;
use crate::request::{FinishRules, SamplingExtras};

/// The state of one request, shared by the engine and the backend.
#[derive(Clone)]
pub struct SharedState(Arc<Mutex<SampleState>>);

impl SharedState {
    /// The state at a request's beginning; `None` where it asks for nothing that needs one. Counts the prompt, and begins the first
    /// mask.
    pub fn new(
        extras: Option<Arc<SamplingExtras>>,
        mask: Option<Box<dyn LogitMask>>,
        finish: &FinishRules,
        prompt: &[u32],
    ) -> Option<Self> {
        let extras = extras.filter(|extras| !extras.is_empty());
        if extras.is_none() && mask.is_none() {
            return None;
        }
        Some(Self(Arc::new(Mutex::new(SampleState::new(extras.unwrap_or_default(), mask, finish, prompt)))))
    }

    /// Whoever holds the lock neither waits for anybody nor leaves anything half done: a panic in between spoils this request alone.
    pub fn lock(&self) -> MutexGuard<'_, SampleState> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for SharedState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SharedState").finish_non_exhaustive()
    }
}

impl PartialEq for SharedState {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

pub struct SampleState {
    extras: Arc<SamplingExtras>,
    mask: Option<Box<dyn LogitMask>>,
    /// What `min_tokens` rules out: end-of-sequence and stop ids.
    ends: Vec<u32>,
    counts: Counts,
    /// The last generated tokens, as many as the longest bad word has before its last.
    tail: Vec<u32>,
    tail_len: usize,
    generated: u32,
    ended: bool,
    /// Whether the first mask could be begun.
    begun: Result<(), MaskError>,
}

impl SampleState {
    fn new(extras: Arc<SamplingExtras>, mut mask: Option<Box<dyn LogitMask>>, finish: &FinishRules, prompt: &[u32]) -> Self {
        let mut counts = Counts::default();
        if extras.has_penalties() {
            if extras.repetition_penalty != 1.0 {
                prompt.iter().for_each(|&token| counts.add_prompt(token));
            }
            counts.reserve(finish.tokens_max as usize);
        }
        let ends = finish.eos.iter().chain(&finish.stop).chain(&extras.ignored_eos);
        let mut ends: Vec<u32> = ends.copied().filter(|_| extras.min_tokens > 0).collect();
        ends.sort_unstable();
        ends.dedup();
        let tail_len = extras.bad_words.iter().map(|word| word.len() - 1).max().unwrap_or(0);
        let begun = mask.as_mut().map_or(Ok(()), |mask| {
            guarded(|| {
                mask.begin();
                Ok(())
            })
        });
        Self { extras, mask, ends, counts, tail: Vec::with_capacity(tail_len), tail_len, generated: 0, ended: false, begun }
    }

    pub fn extras(&self) -> &SamplingExtras {
        &self.extras
    }

    /// Tokens accepted so far.
    pub fn generated(&self) -> u32 {
        self.generated
    }

    /// How many of `drafts` the mask lets through, from the first on.
    pub fn foresee(&mut self, drafts: &[u32]) -> usize {
        match &mut self.mask {
            Some(mask) => guarded(|| Ok(mask.foresee(drafts))).unwrap_or(0).min(drafts.len()),
            None => drafts.len(),
        }
    }

    /// Sets the logits of tokens that the mask rules out to -inf. Comes before the log-probabilities that are told, as in vLLM.
    pub fn mask(&mut self, logits: &mut [f32]) -> Result<(), NoToken> {
        if self.ended {
            return Err(NoToken::NothingAllowed);
        }
        let Some(mask) = &mut self.mask else { return Ok(()) };
        let words = self.begun.clone().and_then(|()| guarded(|| mask.join())).map_err(|error| NoToken::Mask(Box::new(error)))?;
        for (word, logits) in words.iter().zip(logits.chunks_mut(32)) {
            match *word {
                u32::MAX => {}
                0 => logits.fill(f32::NEG_INFINITY),
                word => {
                    for (bit, logit) in logits.iter_mut().enumerate() {
                        *logit = if word >> bit & 1 == 1 { *logit } else { f32::NEG_INFINITY };
                    }
                }
            }
        }
        let covered = (words.len() * 32).min(logits.len());
        logits[covered..].fill(f32::NEG_INFINITY);
        Ok(())
    }

    /// Whether [`process`](Self::process) changes any logit of the next token.
    pub fn processes(&self) -> bool {
        let extras = &self.extras;
        extras.allowed_token_ids.is_some()
            || !extras.bad_words.is_empty()
            || self.generated < extras.min_tokens
            || !extras.logit_bias.is_empty()
            || extras.has_penalties()
    }

    /// The changes of vLLM 0.33's `Sampler.apply_logits_processors`, in its order: allowed ids, bad words, minimum of tokens, bias,
    /// penalties. `kept` is scratch.
    pub fn process(&self, logits: &mut [f32], kept: &mut Vec<f32>) {
        let extras = &*self.extras;
        if let Some(allowed) = &extras.allowed_token_ids {
            kept.clear();
            kept.extend(allowed.iter().map(|&token| logits[token as usize]));
            logits.fill(f32::NEG_INFINITY);
            allowed.iter().zip(kept.iter()).for_each(|(&token, &logit)| logits[token as usize] = logit);
        }
        for word in &extras.bad_words {
            if let Some((&last, before)) = word.split_last()
                && self.tail.ends_with(before)
            {
                logits[last as usize] = f32::NEG_INFINITY;
            }
        }
        if self.generated < extras.min_tokens {
            self.forbid_ends(logits);
        }
        extras.logit_bias.iter().for_each(|&(token, bias)| logits[token as usize] += bias);
        if extras.has_penalties() {
            self.counts.penalise(logits, extras);
        }
    }

    /// Under a mask, an end that is all that is left stays possible: the grammar cannot go on.
    fn forbid_ends(&self, logits: &mut [f32]) {
        let is_possible = |logit: f32| logit != f32::NEG_INFINITY;
        // A model's configuration may name an end that its vocabulary does not have.
        let ends = self.ends.iter().filter(|&&end| logits.get(end as usize).copied().is_some_and(is_possible)).count();
        let all_are_ends = self.mask.is_some() && logits.iter().filter(|&&logit| is_possible(logit)).count() == ends;
        if !all_are_ends {
            for &end in &self.ends {
                if let Some(logit) = logits.get_mut(end as usize) {
                    *logit = f32::NEG_INFINITY;
                }
            }
        }
    }

    /// The next token was sampled.
    pub fn accept(&mut self, token: u32) -> Result<Accepted, NoToken> {
        self.generated += 1;
        if self.extras.has_penalties() {
            self.counts.add_output(token);
        }
        if self.tail_len > 0 {
            if self.tail.len() == self.tail_len {
                self.tail.remove(0);
            }
            self.tail.push(token);
        }
        let Some(mask) = &mut self.mask else { return Ok(Accepted::More) };
        let accepted = guarded(|| {
            let accepted = mask.accept(token)?;
            if accepted == Accepted::More {
                mask.begin();
            }
            Ok(accepted)
        });
        let accepted = accepted.map_err(|error| NoToken::Mask(Box::new(error)))?;
        self.ended = accepted == Accepted::Ended;
        Ok(accepted)
    }
}

/// Runs a mask's method; a panic in it is an error of this mask.
fn guarded<T>(work: impl FnOnce() -> Result<T, MaskError>) -> Result<T, MaskError> {
    catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|_| Err(MaskError("the grammar's matcher failed".into())))
}
