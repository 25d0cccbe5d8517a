//! Free share of the engine's KV blocks.

use super::Field;
use crate::decide::Candidate;

pub fn score(candidate: &Candidate<'_>, _: &Field) -> f64 {
    1.0 - candidate.kv_use
}
