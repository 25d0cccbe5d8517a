//! Leaves out engines that do not have the model or the adapter, and those that only prefill.

use domain::{Ask, Role};

use super::{Limits, Refusal};
use crate::decide::Candidate;

pub fn check(ask: &Ask, candidate: &Candidate<'_>, _: &Limits) -> Result<(), Refusal> {
    if !candidate.serves(&ask.model) {
        return Err(Refusal::OtherModel);
    }
    match candidate.role {
        Role::Both | Role::Decode => Ok(()),
        Role::Prefill => Err(Refusal::OtherRole(candidate.role)),
    }
}
