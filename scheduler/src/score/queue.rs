//! How few requests an engine has, beside the others: 1.0 for the one with the fewest.
//!
//! The form is llm-d's `(max − q) / (max − min)`. Two things differ, and for one reason each. `q` is all that is in flight rather than the
//! waiting queue the engine last reported: it is exact at once, so that a burst does not fall on one engine before the next report.
//! And the spread counts as at least [`SPREAD_MIN`]: with llm-d's form, 1 request against 0 is as bad as 100 against 0, and would
//! outweigh half a prompt found in cache.
//!
//! What an engine has is measured against what it can do: a GPU at half of its throughput takes twice as long for the same requests, and one
//! request more weighs twice.

use super::Field;
use crate::decide::Candidate;

/// Differences are measured against at least this many requests.
pub const SPREAD_MIN: u32 = 8;

pub fn score(candidate: &Candidate<'_>, field: &Field) -> f64 {
    let spread = (field.in_flight_max - field.in_flight_min).max(SPREAD_MIN);
    let above_least = candidate.in_flight.requests.saturating_sub(field.in_flight_min);
    let score = 1.0 - f64::from(above_least) / f64::from(spread);
    if candidate.capacity >= 1.0 {
        return score;
    }
    // Its own requests and the one that is asked for, at the pace it has.
    let felt = f64::from(candidate.in_flight.requests + 1) / candidate.capacity.max(f64::EPSILON) - 1.0;
    (1.0 - (felt - f64::from(field.in_flight_min)) / f64::from(spread)).min(score)
}
