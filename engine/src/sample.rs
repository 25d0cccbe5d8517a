//! From logits to a token. Steps and their order are those of vLLM 0.33 (`v1/sample/sampler.py`): temperature, top-k, top-p, draw.
//!
//! The draw comes from a generator without state, Philox4x32-10, at (seed, number of the output token): a request's tokens do not
//! depend on its batch mates, on chunking or on a preemption.

use std::cmp::Ordering;

use crate::backend::Sample;
use crate::request::Sampling;

/// Chooses tokens; keeps its scratch memory between calls.
#[derive(Clone, Debug, Default)]
pub struct Sampler {
    candidates: Vec<Candidate>,
}

#[derive(Clone, Copy, Debug, PartialEq)]
struct Candidate {
    logit: f32,
    token: u32,
}

/// First guess at how many tokens reach `top_p`; grown until it holds.
const NUCLEUS_TOKENS: usize = 64;

impl Sampler {
    pub fn new() -> Self {
        Self::default()
    }

    /// The token that `sample` chooses from `logits`, one per token of the vocabulary. Greedy takes the first of the largest. `None`:
    /// a logit is not a number, or the largest is not finite.
    pub fn choose(&mut self, logits: &[f32], sample: &Sample) -> Option<u32> {
        let max = finite_max(logits)?;
        let Sampling { temperature, top_k, top_p, seed } = sample.sampling;
        if sample.sampling.is_greedy() {
            let first = logits.iter().position(|&logit| logit == max)?;
            return u32::try_from(first).ok();
        }
        let weight = |logit: f32| f64::from(((logit - max) / temperature).exp());
        let draw = uniform(seed, sample.index);
        let all = top_k == 0 || top_k as usize >= logits.len();
        if all && top_p >= 1.0 {
            let tokens = || (0..).zip(logits).map(|(token, &logit)| Candidate { logit, token });
            return pick(tokens, weight, draw);
        }
        self.gather(logits, if all { logits.len() } else { top_k as usize });
        let kept = self.nucleus(top_p, weight);
        pick(|| self.candidates[..kept].iter().copied(), weight, draw)
    }

    /// Makes candidates of the `k` largest logits, and of all that equal the smallest of these.
    fn gather(&mut self, logits: &[f32], k: usize) {
        self.candidates.clear();
        self.candidates.extend((0..).zip(logits).map(|(token, &logit)| Candidate { logit, token }));
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
fn finite_max(logits: &[f32]) -> Option<f32> {
    // Two plain passes over the same values: both become vector instructions, one pass with a branch would not.
    let max = logits.iter().fold(f32::NEG_INFINITY, |max, &logit| if logit > max { logit } else { max });
    let numbers = logits.iter().fold(true, |numbers, logit| numbers & !logit.is_nan());
    (numbers && max.is_finite()).then_some(max)
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

/// A number in 0 ≤ u < 1 with 53 random bits, the same for the same (seed, index).
fn uniform(seed: u64, index: u32) -> f64 {
    let [a, b, ..] = philox4x32_10([index, 0, 0, 0], [seed as u32, (seed >> 32) as u32]);
    let bits = (u64::from(a) << 32 | u64::from(b)) >> 11;
    bits as f64 / (1u64 << 53) as f64
}

/// Philox4x32 with ten rounds (Salmon, Moraes, Dror and Shaw, "Parallel random numbers: as easy as 1, 2, 3", SC 2011).
fn philox4x32_10(counter: [u32; 4], key: [u32; 2]) -> [u32; 4] {
    let mut state = counter;
    let mut key = key;
    for round in 0..10 {
        if round > 0 {
            key = [key[0].wrapping_add(0x9e37_79b9), key[1].wrapping_add(0xbb67_ae85)];
        }
        let low = u64::from(state[0]) * 0xd251_1f53;
        let high = u64::from(state[2]) * 0xcd9e_8d57;
        state = [(high >> 32) as u32 ^ state[1] ^ key[0], high as u32, (low >> 32) as u32 ^ state[3] ^ key[1], low as u32];
    }
    state
}

#[cfg(test)]
mod tests;
