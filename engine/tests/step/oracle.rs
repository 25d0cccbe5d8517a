//! What a request must be answered with, computed without an engine: the fake device's logits, the request's changes to them read
//! plainly from vLLM's definition, and a grammar of one rule.

use std::collections::HashMap;

use engine::backend::fake::{expected, expected_logits};
use engine::backend::{Capacity, NoToken, Sample, Slot};
use engine::request::{FinishReason, Logprobs, Sampling, SamplingExtras};
use engine::sample::{Accepted, LogitMask, MaskError, Sampler};

use crate::world::Ask;

/// A grammar: each token is the one before it plus `step`, and after `tokens` of them all is said.
#[derive(Clone, Copy, Debug)]
pub struct Rule {
    pub step: u32,
    pub tokens: u32,
    pub vocabulary: u32,
}

/// The rule as the engine meets it; asserts that it is called in order.
pub struct RuleMask {
    rule: Rule,
    last: u32,
    accepted: u32,
    begun: bool,
    words: Vec<u32>,
}

impl Rule {
    fn next(self, last: u32) -> u32 {
        (last + self.step) % self.vocabulary
    }

    pub fn mask(self, prompt: &[u32]) -> RuleMask {
        RuleMask { rule: self, last: *prompt.last().unwrap(), accepted: 0, begun: false, words: Vec::new() }
    }
}

impl LogitMask for RuleMask {
    fn begin(&mut self) {
        assert!(!self.begun, "a mask is begun once");
        self.begun = true;
    }

    fn foresee(&mut self, drafts: &[u32]) -> usize {
        let mut last = self.last;
        let allowed = drafts.iter().take_while(|&&draft| {
            last = self.rule.next(last);
            draft == last
        });
        allowed.count()
    }

    fn join(&mut self) -> Result<&[u32], MaskError> {
        assert!(self.begun, "a mask is begun before it is joined");
        let next = self.rule.next(self.last);
        self.words = vec![0; next as usize / 32 + 1];
        self.words[next as usize / 32] |= 1 << (next % 32);
        Ok(&self.words)
    }

    fn accept(&mut self, token: u32) -> Result<Accepted, MaskError> {
        assert_eq!(token, self.rule.next(self.last), "what was sampled was allowed");
        (self.last, self.begun) = (token, false);
        self.accepted += 1;
        Ok(if self.accepted == self.rule.tokens { Accepted::Ended } else { Accepted::More })
    }
}

/// The tokens, what is told of each, and the reason of the end.
pub fn answer(ask: &Ask, capacity: &Capacity, length_max: usize) -> (Vec<u32>, Vec<Option<Logprobs>>, FinishReason) {
    let mut sequence = ask.prompt.clone();
    let mut told = Vec::new();
    for index in 0.. {
        let (token, logprobs) = match next(ask, &sequence, index, capacity) {
            Ok(next) => next,
            Err(why) => return (sequence.split_off(ask.prompt.len()), told, FinishReason::Error(why.to_string())),
        };
        sequence.push(token);
        told.push(logprobs);
        let reason = if ask.eos.contains(&token) {
            FinishReason::Eos
        } else if ask.stop.contains(&token) {
            FinishReason::StopId(token)
        } else if index + 1 >= ask.tokens_max || sequence.len() >= length_max {
            FinishReason::Length
        } else if ask.rule.is_some_and(|rule| rule.tokens == index + 1) {
            FinishReason::MaskEnded
        } else {
            continue;
        };
        return (sequence.split_off(ask.prompt.len()), told, reason);
    }
    unreachable!("a sequence has a longest length")
}

fn next(ask: &Ask, sequence: &[u32], index: u32, capacity: &Capacity) -> Result<(u32, Option<Logprobs>), NoToken> {
    if ask.extras == SamplingExtras::default() && ask.rule.is_none() {
        return Ok((expected(sequence, &ask.sampling, index, capacity), None));
    }
    let mut logits = expected_logits(sequence, &ask.sampling, index, capacity);
    if let Some(rule) = ask.rule {
        let only = rule.next(*sequence.last().unwrap());
        logits.iter_mut().zip(0..).filter(|(_, token)| *token != only).for_each(|(logit, _)| *logit = f32::NEG_INFINITY);
    }
    let raw = logits.clone();
    process(&mut logits, ask, &sequence[ask.prompt.len()..]);
    if logits.iter().all(|logit| *logit == f32::NEG_INFINITY) {
        return Err(NoToken::NothingAllowed);
    }
    // The draw itself is the sampler's, which its own tests compare.
    let mut out = Vec::new();
    let sample = Sample { sampling: ask.sampling, index, state: None };
    Sampler::new().row(Slot(0), &sample, &[], [&mut logits[..]], &mut out);
    let token = out.pop().unwrap().token?;
    let extras = &ask.extras;
    let told = if !extras.logprob_token_ids.is_empty() {
        Some(tell(&raw, token, extras.logprob_token_ids.clone()))
    } else {
        extras.logprobs.map(|top| tell(&raw, token, largest(&raw, top)))
    };
    Ok((token, told))
}

/// vLLM 0.33's `Sampler.apply_logits_processors`.
fn process(logits: &mut [f32], ask: &Ask, output: &[u32]) {
    let extras = &ask.extras;
    for (token, logit) in (0..).zip(logits.iter_mut()) {
        if extras.allowed_token_ids.as_ref().is_some_and(|allowed| !allowed.contains(&token)) {
            *logit = f32::NEG_INFINITY;
        }
        let completes = |word: &Vec<u32>| word.last() == Some(&token) && output.ends_with(&word[..word.len() - 1]);
        if extras.bad_words.iter().any(completes) {
            *logit = f32::NEG_INFINITY;
        }
    }
    let ends: Vec<u32> = ask.eos.iter().chain(&ask.stop).copied().collect();
    let only_ends_are_left =
        ask.rule.is_some() && (0..).zip(logits.iter()).all(|(token, logit)| *logit == f32::NEG_INFINITY || ends.contains(&token));
    if (output.len() as u32) < extras.min_tokens && !only_ends_are_left {
        ends.iter().for_each(|&end| logits[end as usize] = f32::NEG_INFINITY);
    }
    extras.logit_bias.iter().for_each(|&(token, bias)| logits[token as usize] += bias);
    let mut counts: HashMap<u32, u32> = HashMap::new();
    output.iter().for_each(|&token| *counts.entry(token).or_default() += 1);
    for (token, logit) in (0..).zip(logits.iter_mut()) {
        let count = counts.get(&token).copied().unwrap_or(0);
        if count > 0 || ask.prompt.contains(&token) {
            *logit *= if *logit > 0.0 { 1.0 / extras.repetition_penalty } else { extras.repetition_penalty };
        }
        *logit -= extras.frequency_penalty * count as f32;
        *logit -= if count > 0 { extras.presence_penalty } else { 0.0 };
    }
}

/// What is told of the prompt, from its second token on.
pub fn prompt_logprobs(ask: &Ask, top: u32, capacity: &Capacity) -> Vec<Logprobs> {
    let of = |at: usize| {
        let raw = expected_logits(&ask.prompt[..at], &Sampling::GREEDY, 0, capacity);
        tell(&raw, ask.prompt[at], largest(&raw, top))
    };
    (1..ask.prompt.len()).map(of).collect()
}

fn largest(logits: &[f32], count: u32) -> Vec<u32> {
    let mut tokens: Vec<u32> = (0..logits.len() as u32).collect();
    tokens.sort_by(|a, b| logits[*b as usize].total_cmp(&logits[*a as usize]).then(a.cmp(b)));
    tokens.truncate(count as usize);
    tokens
}

fn tell(logits: &[f32], token: u32, others: Vec<u32>) -> Logprobs {
    let sum: f64 = logits.iter().map(|&logit| f64::from(logit).exp()).sum();
    let logprob = |token: u32| (token, (f64::from(logits[token as usize]) - sum.ln()) as f32);
    let rank = logits.iter().filter(|logit| **logit >= logits[token as usize]).count() as u32;
    Logprobs { rank, tokens: std::iter::once(token).chain(others).map(logprob).collect() }
}

/// Equal but for the rounding of a logarithm.
pub fn assert_told(seen: &Logprobs, expected: &Logprobs) {
    assert_eq!(seen.rank, expected.rank, "{seen:?} for {expected:?}");
    assert_eq!(seen.tokens.len(), expected.tokens.len(), "{seen:?} for {expected:?}");
    for (seen, expected) in seen.tokens.iter().zip(&expected.tokens) {
        let close = seen.1 == expected.1 || (seen.1 - expected.1).abs() < 1e-4;
        assert!(seen.0 == expected.0 && close, "{seen:?} for {expected:?}");
    }
}
