//! The choice itself: temperature, min-p, top-k, top-p, draw.

use std::cmp::Ordering;

use super::philox::uniform;
use crate::backend::NoToken;
use crate::request::Sampling;

#[derive(Clone, Debug, Default)]
pub(super) struct Chooser {
    candidates: Vec<Candidate>,
}

#[derive(Clone, Copy, Debug, PartialEq)]
struct Candidate {
    logit: f32,
    token: u32,
}

/// First guess at how many tokens reach `top_p`; grown until it holds.
const NUCLEUS_TOKENS: usize = 64;

impl Chooser {
    /// The token that `sampling` chooses from `logits`, one per token of the vocabulary, as the request's output token `index`. Greedy
    /// takes the first of the largest.
    pub fn choose(&mut self, logits: &[f32], sampling: &Sampling, index: u32) -> Result<u32, NoToken> {
        let max = finite_max(logits)?;
        let Sampling { temperature, top_k, top_p, min_p, seed } = *sampling;
        if sampling.is_greedy() {
            let first = logits.iter().position(|&logit| logit == max).ok_or(NoToken::NotANumber)?;
            return u32::try_from(first).map_err(|_| NoToken::NotANumber);
        }
        let weight = |logit: f32| f64::from(((logit - max) / temperature).exp());
        let draw = uniform(seed, index);
        let all = top_k == 0 || top_k as usize >= logits.len();
        if all && top_p >= 1.0 && min_p <= 0.0 {
            let tokens = || (0..).zip(logits).map(|(token, &logit)| Candidate { logit, token });
            return pick(tokens, weight, draw).ok_or(NoToken::NotANumber);
        }
        self.candidates.clear();
        self.candidates.extend((0..).zip(logits).map(|(token, &logit)| Candidate { logit, token }));
        self.candidates.retain(|candidate| weight(candidate.logit) >= f64::from(min_p));
        self.keep_top(if all { logits.len() } else { top_k as usize });
        let kept = self.nucleus(top_p, weight);
        pick(|| self.candidates[..kept].iter().copied(), weight, draw).ok_or(NoToken::NotANumber)
    }

    /// The `count` largest logits with their tokens, largest first.
    pub fn largest(&mut self, logits: &[f32], count: usize) -> impl Iterator<Item = (u32, f32)> {
        self.candidates.clear();
        if count > 0 {
            self.candidates.extend((0..).zip(logits).map(|(token, &logit)| Candidate { logit, token }));
            self.keep_top(count.min(logits.len()));
            self.candidates.sort_unstable_by(by_rank);
        }
        self.candidates.iter().take(count).map(|candidate| (candidate.token, candidate.logit))
    }

    /// Keeps the `k` largest candidates, and all that equal the smallest of these.
    fn keep_top(&mut self, k: usize) {
        if k < self.candidates.len() {
            let (_, smallest, _) = self.candidates.select_nth_unstable_by(k - 1, by_rank);
            let smallest = smallest.logit;
            self.candidates.retain(|candidate| candidate.logit >= smallest);
        }
    }

    /// Sorts the most likely candidates to the front, and says how many of them are the smallest set that reaches `top_p` of all
    /// candidates' weight: those before which less than that lies. At least one.
    fn nucleus(&mut self, top_p: f32, weight: impl Fn(f32) -> f64) -> usize {
        if top_p >= 1.0 {
            self.candidates.sort_unstable_by(by_rank);
            return self.candidates.len();
        }
        // Summed in order of token ids, so that the result does not depend on how the selection left them.
        self.candidates.sort_unstable_by_key(|candidate| candidate.token);
        let total: f64 = self.candidates.iter().map(|candidate| weight(candidate.logit)).sum();
        let wanted = f64::from(top_p) * total;
        let (mut sorted, mut reached) = (0, 0.0);
        let mut more = NUCLEUS_TOKENS;
        while sorted < self.candidates.len() {
            let rest = &mut self.candidates[sorted..];
            let more_now = more.min(rest.len());
            if more_now < rest.len() {
                rest.select_nth_unstable_by(more_now, by_rank);
            }
            rest[..more_now].sort_unstable_by(by_rank);
            for candidate in &rest[..more_now] {
                reached += weight(candidate.logit);
                sorted += 1;
                if reached >= wanted {
                    return sorted;
                }
            }
            more *= 4;
        }
        sorted.max(1)
    }
}

/// Most likely first; of equal ones, the smaller id. A total order on what [`finite_max`] let through.
fn by_rank(a: &Candidate, b: &Candidate) -> Ordering {
    b.logit.total_cmp(&a.logit).then(a.token.cmp(&b.token))
}

/// The largest logit, if all are numbers and it is finite.
pub(super) fn finite_max(logits: &[f32]) -> Result<f32, NoToken> {
    // Two plain passes over the same values: both become vector instructions, one pass with a branch would not.
    let max = logits.iter().fold(f32::NEG_INFINITY, |max, &logit| if logit > max { logit } else { max });
    let numbers = logits.iter().fold(true, |numbers, logit| numbers & !logit.is_nan());
    match max {
        f32::NEG_INFINITY if numbers && !logits.is_empty() => Err(NoToken::NothingAllowed),
        max if numbers && max.is_finite() => Ok(max),
        _ => Err(NoToken::NotANumber),
    }
}

/// The candidate at which the running sum of weights passes the share `draw` (0 ≤ draw < 1) of their total.
fn pick<I: Iterator<Item = Candidate>>(candidates: impl Fn() -> I, weight: impl Fn(f32) -> f64, draw: f64) -> Option<u32> {
    let total: f64 = candidates().map(|candidate| weight(candidate.logit)).sum();
    let (target, mut sum) = (draw * total, 0.0);
    let mut chosen = None;
    for candidate in candidates() {
        let weight = weight(candidate.logit);
        if weight > 0.0 {
            sum += weight;
            // Rounding may leave the last sum just below the target: then the last possible token is it.
            chosen = Some(candidate.token);
            if sum > target {
                break;
            }
        }
    }
    chosen
}
