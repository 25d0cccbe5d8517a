//! The choice itself: temperature, min-p, top-k, top-p, draw.
//!
//! Most of a vocabulary is never chosen. A pass keeps the largest logit of each block; where `k` tokens are wanted, the `k`-th largest of
//! these is a bound that at least `k` tokens reach and few others do, and only they are sorted.

use std::cmp::Ordering;

use super::pass::{BLOCK, Weigh, scan};
use super::philox::uniform;
use crate::backend::NoToken;
use crate::request::Sampling;

#[derive(Clone, Debug, Default)]
pub(super) struct Chooser {
    /// Of each block of logits, the largest, and the weight.
    maxima: Vec<f32>,
    sums: Vec<f64>,
    sorted_maxima: Vec<f32>,
    /// Weight of the logits in each stretch below the largest.
    stretches: Vec<f64>,
    /// In which stretch each logit is.
    stretch_of: Vec<u16>,
    candidates: Vec<Candidate>,
}

#[derive(Clone, Copy, Debug, PartialEq)]
struct Candidate {
    logit: f32,
    token: u32,
}

/// Guesses at how many tokens reach `top_p`. Behind the last, weights are added up by stretches of logits, and only one stretch is sorted.
const NUCLEUS_TOKENS: [usize; 2] = [64, 1024];
/// Stretches per temperature, and how many of them hold all that weighs anything.
const STRETCHES: usize = 32;
const STRETCHES_MAX: usize = 88 * STRETCHES;

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
            self.nucleus_of_all(logits, weigh, f64::from(top_p) * total)
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
        let (mut before, mut chosen) = (0.0, None);
        for (block, sum) in self.sums.iter().enumerate().filter(|(_, sum)| **sum > 0.0) {
            // Rounding may leave the last sum just below the target: then the last possible token is it.
            chosen = Some(block);
            if before + sum > target {
                break;
            }
            before += sum;
        }
        let first = chosen? * BLOCK;
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

    /// As [`nucleus`](Self::nucleus), of all tokens, as many of which become candidates as it takes.
    fn nucleus_of_all(&mut self, logits: &[f32], weigh: Weigh, wanted: f64) -> usize {
        for count in NUCLEUS_TOKENS {
            self.gather(logits, count, f32::NEG_INFINITY);
            self.candidates.sort_unstable_by(by_rank);
            if let Some(enough) = self.nucleus(weigh, wanted) {
                return enough;
            }
            if self.candidates.len() == logits.len() {
                return self.candidates.len();
            }
        }
        self.large_nucleus(logits, weigh, wanted)
    }

    /// As [`nucleus_of_all`](Self::nucleus_of_all), of many tokens: those of the likely stretches stay in order of ids.
    fn large_nucleus(&mut self, logits: &[f32], weigh: Weigh, wanted: f64) -> usize {
        let stretch = |logit: f32| (((weigh.max - logit) * weigh.inverse * STRETCHES as f32) as usize).min(STRETCHES_MAX);
        self.stretches.clear();
        self.stretches.resize(STRETCHES_MAX + 1, 0.0);
        self.stretch_of.clear();
        self.stretch_of.extend(logits.iter().map(|&logit| stretch(logit) as u16));
        for (&logit, &stretch) in logits.iter().zip(&self.stretch_of) {
            self.stretches[usize::from(stretch)] += f64::from(weigh.weight(logit));
        }
        let mut before = 0.0;
        let last = self.stretches.iter().position(|&weight| {
            let reaches = before + weight >= wanted;
            before += if reaches { 0.0 } else { weight };
            reaches
        });
        let last = last.unwrap_or(STRETCHES_MAX);
        self.candidates.clear();
        let tokens = (0..).zip(logits).map(|(token, &logit)| Candidate { logit, token }).zip(&self.stretch_of);
        self.candidates
            .extend(tokens.clone().filter(|(_, stretch)| usize::from(**stretch) < last).map(|(candidate, _)| candidate));
        let sure = self.candidates.len();
        self.candidates.extend(tokens.filter(|(_, stretch)| usize::from(**stretch) == last).map(|(candidate, _)| candidate));
        self.candidates[sure..].sort_unstable_by(by_rank);
        let mut reached = before;
        let enough = self.candidates[sure..].iter().position(|candidate| {
            reached += f64::from(weigh.weight(candidate.logit));
            reached >= wanted
        });
        enough.map_or(self.candidates.len(), |enough| sure + enough + 1)
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
fn by_rank(a: &Candidate, b: &Candidate) -> Ordering {
    b.logit.total_cmp(&a.logit).then(a.token.cmp(&b.token))
}

/// The candidate at which the running sum of weights passes the share `draw` (0 ≤ draw < 1) of their total.
fn pick(candidates: &[Candidate], weigh: Weigh, draw: f64) -> Option<u32> {
    let total: f64 = candidates.iter().map(|candidate| f64::from(weigh.weight(candidate.logit))).sum();
    walk(candidates.iter().copied(), weigh, draw * total)
}

/// The candidate at which the running sum of weights passes `target`, or the last that weighs anything.
fn walk(candidates: impl Iterator<Item = Candidate>, weigh: Weigh, target: f64) -> Option<u32> {
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
