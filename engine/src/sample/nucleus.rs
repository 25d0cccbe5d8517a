//! Top-p where it keeps many tokens: a draw from them without sorting them.
//!
//! ```text
//!   weights ──▶ added up by stretches of logits below the largest ──▶ the stretch in which they reach top-p
//!           ──▶ its tokens alone are selected from; all before it are kept
//! ```
//! The set is that of the definition, the smallest of the most likely tokens that weighs enough. The draw walks those of the likely
//! stretches first, then those of the last, each in order of ids.

use super::choose::{Candidate, by_rank, walk};
use super::pass::{BLOCK, LANES, Weigh, reach};

/// Stretches per temperature, and how many of them hold all that weighs anything.
const STRETCHES: usize = 32;
const STRETCHES_MAX: usize = 88 * STRETCHES;
/// Candidates that are sorted.
const SORTED_MAX: usize = 64;

#[derive(Clone, Debug, Default)]
pub(super) struct Nucleus {
    /// Of each logit, its weight, and in which stretch it is.
    weights: Vec<f32>,
    stretch_of: Vec<u16>,
    /// Weight of all in a stretch.
    stretches: Vec<f64>,
    /// Of each block, the weight of what is kept in any case.
    sums: Vec<f64>,
}

impl Nucleus {
    /// The token that the share `draw` of the smallest set falls on that weighs `wanted`. `candidates` is scratch space.
    pub fn draw(&mut self, logits: &[f32], weigh: Weigh, wanted: f64, draw: f64, candidates: &mut Vec<Candidate>) -> Option<u32> {
        let last = self.measure(logits, weigh, wanted);
        let sure = self.add_up(last);
        let tokens = (0..).zip(logits).zip(&self.stretch_of).filter(|(_, stretch)| **stretch == last);
        let tokens = tokens.map(|((token, &logit), _)| Candidate { logit, token });
        candidates.clear();
        candidates.extend(tokens.clone());
        if let Some(edge) = select(candidates, weigh, wanted - sure) {
            // Selecting has put them into another order.
            candidates.clear();
            candidates.extend(tokens.filter(|candidate| by_rank(candidate, &edge).is_le()));
        }
        let rest: f64 = candidates.iter().map(|candidate| f64::from(weigh.weight(candidate.logit))).sum();
        let target = draw * (sure + rest);
        if target < sure { self.walk(last, target) } else { walk(candidates.iter().copied(), weigh, target - sure) }
    }

    /// Weighs the logits and finds the stretch in which they reach `wanted`.
    fn measure(&mut self, logits: &[f32], weigh: Weigh, wanted: f64) -> u16 {
        let per_logit = weigh.inverse * STRETCHES as f32;
        self.weights.clear();
        self.weights.extend(logits.iter().map(|&logit| weigh.weight(logit)));
        self.stretch_of.clear();
        self.stretch_of.extend(logits.iter().map(|&logit| ((weigh.max - logit) * per_logit).min(STRETCHES_MAX as f32) as u16));
        self.stretches.clear();
        self.stretches.resize(STRETCHES_MAX + 1, 0.0);
        for (&weight, &stretch) in self.weights.iter().zip(&self.stretch_of) {
            self.stretches[usize::from(stretch)] += f64::from(weight);
        }
        let mut reached = 0.0;
        let last = self.stretches.iter().position(|&weight| {
            reached += weight;
            reached >= wanted
        });
        last.unwrap_or(STRETCHES_MAX) as u16
    }

    /// Fills `sums` with the weight of each block's tokens before the stretch `last`, and returns that of all.
    fn add_up(&mut self, last: u16) -> f64 {
        self.sums.clear();
        for (weights, stretches) in self.weights.chunks(BLOCK).zip(self.stretch_of.chunks(BLOCK)) {
            let mut sum = [0.0f32; LANES];
            let ((weights, weights_rest), (stretches, stretches_rest)) =
                (weights.as_chunks::<LANES>(), stretches.as_chunks::<LANES>());
            for (weights, stretches) in weights.iter().zip(stretches) {
                for lane in 0..LANES {
                    sum[lane] += if stretches[lane] < last { weights[lane] } else { 0.0 };
                }
            }
            let rest = weights_rest.iter().zip(stretches_rest).filter(|(_, stretch)| **stretch < last);
            self.sums.push(sum.iter().chain(rest.map(|(weight, _)| weight)).map(|&weight| f64::from(weight)).sum());
        }
        self.sums.iter().sum()
    }

    /// The token before the stretch `last` at which the running sum of weights, in order of ids, passes `target`.
    fn walk(&self, last: u16, target: f64) -> Option<u32> {
        let (first, mut before) = reach(&self.sums, target)?;
        let mut token = None;
        for (at, (&weight, &stretch)) in (first..).zip(self.weights[first..].iter().zip(&self.stretch_of[first..])).take(BLOCK) {
            if stretch < last && weight > 0.0 {
                before += f64::from(weight);
                token = u32::try_from(at).ok();
                if before > target {
                    break;
                }
            }
        }
        token
    }
}

/// The last of the smallest set of the most likely candidates that weighs `wanted`, or of all, where all weigh less. Halves what is left to
/// look at, so that it takes time in proportion to the candidates, which it puts into another order.
fn select(candidates: &mut [Candidate], weigh: Weigh, wanted: f64) -> Option<Candidate> {
    let weight = |candidate: &Candidate| f64::from(weigh.weight(candidate.logit));
    let (mut from, mut to, mut reached) = (0, candidates.len(), 0.0);
    while to - from > SORTED_MAX {
        let middle = from.midpoint(to);
        candidates[from..to].select_nth_unstable_by(middle - from, by_rank);
        let half: f64 = candidates[from..middle].iter().map(weight).sum();
        if reached + half >= wanted {
            to = middle;
        } else {
            (from, reached) = (middle, reached + half);
        }
    }
    let left = &mut candidates[from..to];
    left.sort_unstable_by(by_rank);
    let last = left.iter().position(|candidate| {
        reached += weight(candidate);
        reached >= wanted
    });
    last.map_or(left.last(), |last| left.get(last)).copied()
}
