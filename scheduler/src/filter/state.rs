//! Leaves out engines whose state takes no new work.
//!
//! A state that is old is believed only where it was somebody's will: an engine that crashed or was starting when its node fell silent,
//! and now answers at its address, has come up since.

use domain::{Ask, EngineState};

use super::{Limits, Refusal};
use crate::decide::Candidate;
use crate::fleet::engine::{Evidence, Probe};

pub fn check(_: &Ask, candidate: &Candidate<'_>, _: &Limits) -> Result<(), Refusal> {
    let willed = matches!(candidate.state, EngineState::Draining | EngineState::Stopped | EngineState::Quarantined);
    let answers = candidate.evidence == Evidence::Unknown && candidate.probe == Probe::Answered;
    if candidate.state.takes_work() || (answers && !willed) { Ok(()) } else { Err(Refusal::State(candidate.state)) }
}
