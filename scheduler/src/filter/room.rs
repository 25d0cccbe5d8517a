//! Leaves out engines that have as many requests in flight as an engine may have.

use domain::Ask;

use super::{Limits, Refusal};
use crate::decide::Candidate;

pub fn check(_: &Ask, candidate: &Candidate<'_>, limits: &Limits) -> Result<(), Refusal> {
    if candidate.in_flight.requests < limits.in_flight_max { Ok(()) } else { Err(Refusal::Full) }
}
