//! The choice itself: temperature, min-p, top-k, top-p, draw.
//!
//! Most of a vocabulary is never chosen. A pass keeps the largest logit of each block; where `k` tokens are wanted, the `k`-th largest of
//! these is a bound that at least `k` tokens reach and few others do, and only they are sorted. A nucleus of many tokens is not sorted
//! at all ([`nucleus`]).

use std::cmp::Ordering;

use super::nucleus::Nucleus;
use super::pass::{BLOCK, Weigh, reach, scan};
use super::philox::uniform;
use crate::backend::NoToken;
use crate::request::Sampling;

#[derive(Clone, Debug, Default)]
pub(super) struct Chooser {
    /// Of each block of logits, the largest, and the weight.
    maxima: Vec<f32>,
    sums: Vec<f64>,
    sorted_maxima: Vec<f32>,
    candidates: Vec<Candidate>,
    nucleus: Nucleus,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Candidate {
    pub logit: f32,
    pub token: u32,
}

/// Guesses at how many tokens reach `top_p`, to be tried one after the other.
const NUCLEUS_TOKENS: [usize; 2] = [64, 512];
/// Logits that are sorted all if it must be.
const SORTED_MAX: usize = 4096;

impl Chooser {
    /// The token that `sampling` chooses from `logits`, one per token of the vocabulary, as the request's output token `index`. Greedy
    /// takes the first of the largest.
    pub fn choose(&mut self, logits: &[f32], sampling: &Sampling, index: u32) -> Result<u32, NoToken> {
        let max = scan(logits, &mut self.maxima)?;
        if sampling.is_greedy() {
            return self.first(logits, max).ok_or(NoToken::NotANumber);
        }
        let Sampling { temperature, top_k, top_p, min_p, seed } = *sampling;
        let weigh = Weigh { max, inverse: 1.0 / temperature };
        let draw = uniform(seed, index);
        let all = top_k == 0 || top_k as usize >= logits.len();
        let kept = if all && min_p <= 0.0 {
            let total = weigh.sums(logits, &mut self.sums);
            if top_p >= 1.0 {
                return self.walk(logits, weigh, draw * total).ok_or(NoToken::NotANumber);
            }
            let wanted = f64::from(top_p) * total;
            match self.nucleus_of_all(logits, weigh, wanted) {
                Some(kept) => kept,
                None => return self.nucleus.draw(logits, weigh, wanted, draw, &mut self.candidates).ok_or(NoToken::NotANumber),
            }
        } else {
            let least = if min_p > 0.0 { min_p_bound(weigh, min_p) } else { f32::NEG_INFINITY };
            self.gather(logits, if all { logits.len() } else { top_k as usize }, least);
            self.candidates.retain(|candidate| weigh.weight(candidate.logit) >= min_p);
            if !all {
                self.keep_top(top_k as usize);
            }
            self.candidates.sort_unstable_by(by_rank);
            let total: f64 = self.candidates.iter().map(|candidate| f64::from(weigh.weight(candidate.logit))).sum();
            self.nucleus(weigh, f64::from(top_p.min(1.0)) * total).unwrap_or(self.candidates.len())
        };
        pick(&self.candidates[..kept], weigh, draw).ok_or(NoToken::NotANumber)
    }

    /// Whether the logits are numbers to choose from at all.
    pub fn check(&mut self, logits: &[f32]) -> Result<(), NoToken> {
        scan(logits, &mut self.maxima).map(drop).map_err(|_| NoToken::NotANumber)
    }

    /// The first token of the largest logit, `max`.
    fn first(&self, logits: &[f32], max: f32) -> Option<u32> {
        let block = self.maxima.iter().position(|&block_max| block_max == max)?;
        let within = logits[block * BLOCK..].iter().position(|&logit| logit == max)?;
        u32::try_from(block * BLOCK + within).ok()
    }

    /// The token at which the running sum of all weights, in order of ids, passes `target`.
    fn walk(&self, logits: &[f32], weigh: Weigh, target: f64) -> Option<u32> {
        let (first, before) = reach(&self.sums, target)?;
        let block = (first as u32..).zip(&logits[first..]).take(BLOCK).map(|(token, &logit)| Candidate { logit, token });
        walk(block, weigh, target - before)
    }

    /// Makes candidates of at least the `count` largest logits, all that equal the smallest of these, and perhaps more; none below
    /// `least`. [`scan`] has seen these logits.
    fn gather(&mut self, logits: &[f32], count: usize, least: f32) {
        let mut bound = least;
        if count <= self.maxima.len() && count > 0 {
            self.sorted_maxima.clone_from(&self.maxima);
            let (_, reached, _) = self.sorted_maxima.select_nth_unstable_by(count - 1, |a, b| b.total_cmp(a));
            bound = bound.max(*reached);
        }
        self.candidates.clear();
        for (block, logits) in logits.chunks(BLOCK).enumerate().filter(|(block, _)| self.maxima[*block] >= bound) {
            let tokens = ((block * BLOCK) as u32..).zip(logits).filter(|(_, logit)| **logit >= bound);
            self.candidates.extend(tokens.map(|(token, &logit)| Candidate { logit, token }));
        }
    }

    /// Keeps the `k` largest candidates, and all that equal the smallest of these.
    fn keep_top(&mut self, k: usize) {
        if k < self.candidates.len() {
            let (_, smallest, _) = self.candidates.select_nth_unstable_by(k - 1, by_rank);
            let smallest = smallest.logit;
            self.candidates.retain(|candidate| candidate.logit >= smallest);
        }
    }

    /// How many of the candidates, most likely first, are the smallest set that weighs `wanted`; at least one. `None`: all of them weigh
    /// less.
    fn nucleus(&self, weigh: Weigh, wanted: f64) -> Option<usize> {
        let mut reached = 0.0;
        let enough = self.candidates.iter().position(|candidate| {
            reached += f64::from(weigh.weight(candidate.logit));
            reached >= wanted
        });
        enough.map(|last| last + 1)
    }

    /// As [`nucleus`](Self::nucleus), of all tokens, as many of which become candidates as it takes. `None`: it takes many.
    fn nucleus_of_all(&mut self, logits: &[f32], weigh: Weigh, wanted: f64) -> Option<usize> {
        let guesses = NUCLEUS_TOKENS.into_iter().filter(|&count| count <= self.maxima.len());
        let guesses: &[usize] = match guesses.count() {
            _ if logits.len() <= SORTED_MAX => &[usize::MAX],
            guesses => &NUCLEUS_TOKENS[..guesses],
        };
        for &count in guesses {
            self.gather(logits, count, f32::NEG_INFINITY);
            self.candidates.sort_unstable_by(by_rank);
            let enough = self.nucleus(weigh, wanted);
            if enough.is_some() {
                return enough;
            }
            if self.candidates.len() == logits.len() {
                return Some(self.candidates.len());
            }
        }
        None
    }

    /// The largest logit, and the logarithm of the sum of all exponentials.
    pub fn log_sum_exp(&mut self, logits: &[f32]) -> Result<f32, NoToken> {
        let max = scan(logits, &mut self.maxima)?;
        let sum = Weigh { max, inverse: 1.0 }.sums(logits, &mut self.sums);
        Ok(max + sum.ln() as f32)
    }

    /// The `count` largest logits with their tokens, largest first. [`Self::log_sum_exp`] has seen these logits.
    pub fn largest(&mut self, logits: &[f32], count: usize) -> impl Iterator<Item = (u32, f32)> {
        self.candidates.clear();
        if count > 0 {
            self.gather(logits, count, f32::NEG_INFINITY);
            self.keep_top(count);
            self.candidates.sort_unstable_by(by_rank);
        }
        self.candidates.iter().take(count).map(|candidate| (candidate.token, candidate.logit))
    }
}

/// Below this, no logit weighs `min_p`; a little above it may be some that do not either.
fn min_p_bound(weigh: Weigh, min_p: f32) -> f32 {
    weigh.max + (min_p.ln() - 1e-3) / weigh.inverse
}

/// Most likely first; of equal ones, the smaller id. A total order on what [`scan`] let through.
pub(super) fn by_rank(a: &Candidate, b: &Candidate) -> Ordering {
    b.logit.total_cmp(&a.logit).then(a.token.cmp(&b.token))
}

/// The candidate at which the running sum of weights passes the share `draw` (0 ≤ draw < 1) of their total.
fn pick(candidates: &[Candidate], weigh: Weigh, draw: f64) -> Option<u32> {
    let total: f64 = candidates.iter().map(|candidate| f64::from(weigh.weight(candidate.logit))).sum();
    walk(candidates.iter().copied(), weigh, draw * total)
}

/// The candidate at which the running sum of weights passes `target`, or the last that weighs anything.
pub(super) fn walk(candidates: impl Iterator<Item = Candidate>, weigh: Weigh, target: f64) -> Option<u32> {
    let (mut sum, mut chosen) = (0.0, None);
    for Candidate { logit, token } in candidates {
        let weight = weigh.weight(logit);
        if weight > 0.0 {
            sum += f64::from(weight);
            chosen = Some(token);
            if sum > target {
                break;
            }
        }
    }
    chosen
}
