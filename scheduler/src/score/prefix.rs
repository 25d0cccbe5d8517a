//! Share of the prompt's full blocks that the engine already holds, from the first on.

use super::Field;
use crate::decide::Candidate;

pub fn score(candidate: &Candidate<'_>, _: &Field) -> f64 {
    let prefix = candidate.prefix;
    if prefix.prompt_blocks == 0 { 0.0 } else { f64::from(prefix.cached_blocks) / f64::from(prefix.prompt_blocks) }
}
