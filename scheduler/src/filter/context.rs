//! Leaves out engines whose context is too short for the prompt and one token of answer.

use domain::Ask;

use super::{Limits, Refusal};
use crate::decide::Candidate;

pub fn check(ask: &Ask, candidate: &Candidate<'_>, _: &Limits) -> Result<(), Refusal> {
    let context_length = candidate.context_length;
    // Zero is an unknown length, no tokens an unknown prompt: the engine will say.
    if context_length > 0 && ask.tokens.len() >= context_length as usize {
        return Err(Refusal::ContextTooShort { context_length });
    }
    Ok(())
}
