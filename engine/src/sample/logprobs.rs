//! Log-probabilities of tokens, as vLLM 0.33 tells them: of the logits as the model gave them, behind a grammar's mask.

use super::choose::{Chooser, finite_max};
use crate::backend::NoToken;
use crate::request::{Logprobs, SamplingExtras};

/// Whether the logits are numbers to choose from at all.
pub(super) fn check(logits: &[f32]) -> Result<(), NoToken> {
    match finite_max(logits) {
        Ok(_) => Ok(()),
        Err(_) => Err(NoToken::NotANumber),
    }
}

/// What is told of `token`, which was chosen.
pub(super) fn tell(logits: &[f32], token: u32, extras: &SamplingExtras, chooser: &mut Chooser) -> Logprobs {
    if extras.logprob_token_ids.is_empty() {
        return top(logits, token, extras.logprobs.unwrap_or(0), chooser);
    }
    let total = log_sum_exp(logits);
    let named = std::iter::once(token).chain(extras.logprob_token_ids.iter().copied());
    Logprobs { rank: rank(logits, token), tokens: named.map(|token| (token, logits[token as usize] - total)).collect() }
}

/// What is told of `token`, and the `top` most likely tokens.
pub(super) fn top(logits: &[f32], token: u32, top: u32, chooser: &mut Chooser) -> Logprobs {
    let total = log_sum_exp(logits);
    let mut tokens = Vec::with_capacity(1 + top as usize);
    tokens.push((token, logits[token as usize] - total));
    tokens.extend(chooser.largest(logits, top as usize).map(|(token, logit)| (token, logit - total)));
    Logprobs { rank: rank(logits, token), tokens: tokens.into() }
}

/// Tokens at least as likely as `token`, itself among them.
fn rank(logits: &[f32], token: u32) -> u32 {
    let own = logits[token as usize];
    logits.iter().map(|&logit| u32::from(logit >= own)).sum()
}

/// The logarithm of the sum of all exponentials.
fn log_sum_exp(logits: &[f32]) -> f32 {
    let max = logits.iter().fold(f32::NEG_INFINITY, |max, &logit| if logit > max { logit } else { max });
    let sum: f64 = logits.iter().map(|&logit| f64::from((logit - max).exp())).sum();
    max + sum.ln() as f32
}
