//! Leaves out engines whose GPUs must not take new work, by the verdict of their node.
//!
//! Like a drain, it is believed while its node is silent, too: a GPU that must not be used is not repaired by silence.

use domain::Ask;

use super::{Limits, Refusal};
use crate::decide::Candidate;

pub fn check(_: &Ask, candidate: &Candidate<'_>, _: &Limits) -> Result<(), Refusal> {
    if candidate.verdict.takes_work() { Ok(()) } else { Err(Refusal::Gpu(candidate.verdict)) }
}
