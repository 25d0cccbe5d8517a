//! Rates the engines that remain: each scorer gives 0.0 ..= 1.0, the weighted sum is the rating.
//!
//! Names and weights follow llm-d's router 0.9 defaults: `prefix-cache-scorer` 3, `kv-cache-utilization-scorer` 2, `queue-scorer` 2; scores
//! are summed, not divided by the sum of weights.

pub mod kv_use;
pub mod prefix;
pub mod queue;

use crate::decide::Candidate;
use crate::filter::Refusal;

/// How much each scorer counts.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Weights {
    pub prefix: f64,
    pub kv: f64,
    pub queue: f64,
}

impl Default for Weights {
    fn default() -> Self {
        Self { prefix: 3.0, kv: 2.0, queue: 2.0 }
    }
}

/// What is known of all admitted candidates together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Field {
    pub in_flight_min: u32,
    pub in_flight_max: u32,
}

/// Scores of one candidate, in the order of [`SCORERS`], and their weighted sum.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Rating {
    pub scores: [f64; SCORERS.len()],
    pub total: f64,
}

pub struct Scorer {
    pub name: &'static str,
    pub weight: fn(&Weights) -> f64,
    /// 0.0 ..= 1.0.
    pub score: fn(&Candidate<'_>, &Field) -> f64,
}

/// All scorers.
pub const SCORERS: [Scorer; 3] = [
    Scorer { name: "prefix", weight: |weights| weights.prefix, score: prefix::score },
    Scorer { name: "kv", weight: |weights| weights.kv, score: kv_use::score },
    Scorer { name: "queue", weight: |weights| weights.queue, score: queue::score },
];

/// Fills in the rating of every candidate that was admitted.
pub fn rate(candidates: &[Candidate<'_>], weights: &Weights, standings: &mut [Result<Rating, Refusal>]) {
    let in_flight = || {
        let admitted = candidates.iter().zip(standings.iter()).filter(|(_, standing)| standing.is_ok());
        admitted.map(|(candidate, _)| candidate.in_flight.requests)
    };
    let field =
        Field { in_flight_min: in_flight().min().unwrap_or_default(), in_flight_max: in_flight().max().unwrap_or_default() };
    for (candidate, standing) in candidates.iter().zip(standings) {
        let Ok(rating) = standing else { continue };
        for (scorer, score) in SCORERS.iter().zip(&mut rating.scores) {
            *score = (scorer.score)(candidate, &field).clamp(0.0, 1.0);
            rating.total += (scorer.weight)(weights) * *score;
        }
    }
}
