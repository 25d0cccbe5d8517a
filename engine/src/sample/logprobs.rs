//! Log-probabilities of tokens, as vLLM 0.33 tells them: of the logits as the model gave them, behind a grammar's mask.

use super::choose::Chooser;
use super::pass::count_from;
use crate::request::{Logprobs, SamplingExtras};

/// What is told of `token`, which was chosen from other `logits` than these, or from these.
pub(super) fn tell(logits: &[f32], token: u32, extras: &SamplingExtras, chooser: &mut Chooser) -> Logprobs {
    if extras.logprob_token_ids.is_empty() {
        return top(logits, token, extras.logprobs.unwrap_or(0), chooser);
    }
    let total = total(logits, chooser);
    let named = std::iter::once(token).chain(extras.logprob_token_ids.iter().copied());
    let tokens = named.map(|token| (token, logits[token as usize] - total)).collect();
    Logprobs { rank: count_from(logits, logits[token as usize]), tokens }
}

/// What is told of `token`, and of the `top` most likely tokens.
pub(super) fn top(logits: &[f32], token: u32, top: u32, chooser: &mut Chooser) -> Logprobs {
    let total = total(logits, chooser);
    let mut tokens = Vec::with_capacity(1 + top as usize);
    tokens.push((token, logits[token as usize] - total));
    tokens.extend(chooser.largest(logits, top as usize).map(|(token, logit)| (token, logit - total)));
    Logprobs { rank: count_from(logits, logits[token as usize]), tokens: tokens.into() }
}

/// Logits that are no numbers give log-probabilities that are none; what is chosen from them fails its request.
fn total(logits: &[f32], chooser: &mut Chooser) -> f32 {
    chooser.log_sum_exp(logits).unwrap_or(f32::NAN)
}
