//! Leaves out engines whose address was asked and did not answer. Without evidence an engine stays: fail open.

use domain::Ask;

use super::{Limits, Refusal};
use crate::decide::Candidate;
use crate::fleet::engine::Probe;

pub fn check(_: &Ask, candidate: &Candidate<'_>, _: &Limits) -> Result<(), Refusal> {
    if candidate.probe == Probe::Failed { Err(Refusal::Silent) } else { Ok(()) }
}
