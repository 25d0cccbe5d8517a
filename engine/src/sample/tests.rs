//! The sampler against hand calculation, published vectors, and a plain reading of its definition.

use std::sync::Arc;

use super::philox::{philox4x32_10, uniform};
use super::*;
use crate::request::{FinishRules, Sampling, SamplingExtras};

fn sampling(temperature: f32, top_k: u32, top_p: f32, seed: u64) -> Sampling {
    Sampling { temperature, top_k, top_p, min_p: 0.0, seed }
}

fn choose(sampler: &mut Sampler, logits: &[f32], sampling: &Sampling, index: u32) -> Result<u32, NoToken> {
    let sample = Sample { sampling: *sampling, index, state: None };
    let mut out = Vec::new();
    sampler.row(Slot(0), &sample, &[], [&mut logits.to_vec()[..]], &mut out);
    out.pop().expect("a row yields a token").token
}

/// How often each of `logits` is chosen by `draws` draws.
fn frequencies(logits: &[f32], sampling: Sampling, draws: u32) -> Vec<f64> {
    let mut sampler = Sampler::new();
    let mut counts = vec![0u32; logits.len()];
    for index in 0..draws {
        let token = choose(&mut sampler, logits, &sampling, index).expect("the logits are numbers");
        counts[token as usize] += 1;
    }
    counts.iter().map(|&count| f64::from(count) / f64::from(draws)).collect()
}

/// Known answers of Random123's `kat_vectors` for philox4x32, 10 rounds.
#[test]
fn philox_gives_the_published_numbers() {
    let check = |counter, key, expected| assert_eq!(philox4x32_10(counter, key), expected);
    check([0; 4], [0; 2], [0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8]);
    check([u32::MAX; 4], [u32::MAX; 2], [0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd]);
    check(
        [0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344],
        [0xa4093822, 0x299f31d0],
        [0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1],
    );
}

#[test]
fn greedy_takes_the_first_of_the_largest() {
    let check = |logits: &[f32], expected| {
        for temperature in [0.0, 9e-6, -1.0] {
            assert_eq!(choose(&mut Sampler::new(), logits, &sampling(temperature, 3, 0.5, 7), 0), Ok(expected), "{logits:?}");
        }
    };
    check(&[1.0, 3.0, 2.0], 1);
    check(&[3.0, 1.0, 3.0], 0);
    check(&[f32::NEG_INFINITY, -1e30], 1);
}

#[test]
fn what_holds_no_number_is_refused() {
    let (nan, inf) = (f32::NAN, f32::INFINITY);
    for logits in [&[1.0, nan][..], &[nan, nan], &[-inf, -inf], &[1.0, inf], &[nan, 1.0, 2.0], &[]] {
        for temperature in [0.0, 1.0] {
            for (top_k, top_p) in [(0, 1.0), (1, 1.0), (0, 0.5)] {
                let chosen = choose(&mut Sampler::new(), logits, &sampling(temperature, top_k, top_p, 1), 0);
                assert_eq!(chosen, Err(NoToken::NotANumber), "{logits:?}");
            }
        }
    }
}

/// Probabilities 0.1, 0.2, 0.3, 0.4 at temperature 1, and what each restriction leaves of them, by hand.
#[test]
fn draws_follow_the_distribution_that_is_asked_for() {
    let logits: Vec<f32> = [0.1f32, 0.4, 0.2, 0.3].iter().map(|p| p.ln()).collect();
    let check = |temperature, top_k, top_p, expected: [f64; 4]| {
        let seen = frequencies(&logits, sampling(temperature, top_k, top_p, 42), 20_000);
        for (seen, expected) in seen.iter().zip(expected) {
            // Five standard deviations of a share of 20,000 draws are at most 0.018.
            assert!((seen - expected).abs() < 0.018, "{temperature} {top_k} {top_p}: {seen} for {expected}");
            assert_eq!(expected == 0.0, *seen == 0.0, "{temperature} {top_k} {top_p}: {seen} for {expected}");
        }
    };
    check(1.0, 0, 1.0, [0.1, 0.4, 0.2, 0.3]);
    check(1.0, 9, 1.0, [0.1, 0.4, 0.2, 0.3]);
    check(1.0, 2, 1.0, [0.0, 4.0 / 7.0, 0.0, 3.0 / 7.0]);
    check(1.0, 1, 1.0, [0.0, 1.0, 0.0, 0.0]);
    check(1.0, 0, 0.65, [0.0, 4.0 / 7.0, 0.0, 3.0 / 7.0]);
    check(1.0, 0, 0.75, [0.0, 4.0 / 9.0, 2.0 / 9.0, 3.0 / 9.0]);
    check(1.0, 0, 0.0, [0.0, 1.0, 0.0, 0.0]);
    // Top-p counts what top-k has left: of 4/7 and 3/7, the first reaches a half.
    check(1.0, 2, 0.5, [0.0, 1.0, 0.0, 0.0]);
    // Temperature comes first: at 0.5 the probabilities are 1, 16, 4, 9 of 30, and 25/30 take two tokens.
    check(0.5, 0, 1.0, [1.0 / 30.0, 16.0 / 30.0, 4.0 / 30.0, 9.0 / 30.0]);
    check(0.5, 0, 0.8, [0.0, 16.0 / 25.0, 0.0, 9.0 / 25.0]);
}

#[test]
fn ties_at_the_edge_of_top_k_stay_in() {
    let seen = frequencies(&[1.0, 2.0, 1.0, 0.0], sampling(1.0, 2, 1.0, 3), 2000);
    assert!(seen[0] > 0.0 && seen[2] > 0.0 && seen[3] == 0.0, "{seen:?}");
}

/// The definition, read plainly and in f64: sort all, cut, walk. Without a cut, the walk is in order of ids. Says between which shares of
/// the draw each token that is left lies.
fn plainly(logits: &[f32], sampling: &Sampling) -> Vec<(u32, f64, f64)> {
    let Sampling { temperature, top_k, top_p, min_p, .. } = *sampling;
    let max = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let weight = |logit: f32| (f64::from(logit - max) / f64::from(temperature)).exp();
    let mut kept: Vec<(u32, f32)> = (0..).zip(logits.iter().copied()).collect();
    kept.retain(|&(_, logit)| weight(logit) >= f64::from(min_p));
    let top_k = if top_k == 0 { kept.len() } else { kept.len().min(top_k as usize) };
    if top_k < logits.len() || top_p < 1.0 {
        kept.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
        let smallest = kept[top_k - 1].1;
        kept.retain(|&(_, logit)| logit >= smallest);
    }
    if top_p < 1.0 {
        let wanted = f64::from(top_p) * kept.iter().map(|&(_, logit)| weight(logit)).sum::<f64>();
        let mut before = 0.0;
        kept.retain(|&(_, logit)| {
            let keep = before < wanted || before == 0.0;
            before += weight(logit);
            keep
        });
    }
    let total = kept.iter().map(|&(_, logit)| weight(logit)).sum::<f64>();
    let mut before = 0.0;
    let share = |(token, logit)| {
        let from = before;
        before += weight(logit) / total;
        (token, from, before)
    };
    kept.into_iter().map(share).collect()
}

#[test]
fn partial_selection_chooses_as_a_full_sort_does() {
    let mut sampler = Sampler::new();
    for case in 0..600u32 {
        let [a, b, c, d] = philox4x32_10([case, 1, 0, 0], [5, 6]);
        let vocabulary = 1 + a as usize % 1500;
        // A coarse grid makes ties.
        let logit = |token| (philox4x32_10([token, case, 2, 0], [7, 8])[0] % 997) as f32 / 100.0;
        let logits: Vec<f32> = (0..vocabulary as u32).map(logit).collect();
        let sampling = Sampling {
            temperature: 0.1 + (b % 30) as f32 / 10.0,
            top_k: c % 3 * (c % 700),
            top_p: (d % 1250) as f32 / 1000.0,
            min_p: if case % 3 == 0 { (b >> 8) as f32 / (1 << 25) as f32 } else { 0.0 },
            seed: u64::from(d),
        };
        let chosen = choose(&mut sampler, &logits, &sampling, case).expect("the logits are numbers");
        let draw = uniform(sampling.seed, case);
        let (_, from, to) = *plainly(&logits, &sampling)
            .iter()
            .find(|(token, ..)| *token == chosen)
            .unwrap_or_else(|| panic!("case {case}: {chosen} is cut off by {sampling:?}, {vocabulary} tokens"));
        // Weights are f32.
        let rounding = 1e-5;
        assert!(from - rounding <= draw && draw < to + rounding, "case {case}: {draw} is not in {from}..{to}, {sampling:?}");
    }
}

/// By hand: where all weigh the same, the set is the first tokens, and the draw falls on its share of them; where odd tokens weigh less,
/// the even ones come first, in order of ids.
#[test]
fn a_nucleus_of_many_tokens_is_that_of_the_definition() {
    const TOKENS: usize = 150_000;
    let mut sampler = Sampler::new();
    let mut check = |logits: &[f32], top_p: f32, token_at: &dyn Fn(f64) -> f64, slack: f64| {
        for index in 0..40 {
            let sampling = sampling(1.0, 0, top_p, 11);
            let chosen = choose(&mut sampler, logits, &sampling, index).expect("the logits are numbers");
            let expected = token_at(uniform(11, index));
            assert!((f64::from(chosen) - expected).abs() <= slack, "{index}: {chosen}, not {expected}");
        }
    };
    check(&[0.25; TOKENS], 0.5, &|draw| (draw * TOKENS as f64 / 2.0).floor(), 1.0);
    // Even ones weigh 1, odd ones e^-1: all even ones and 2/3 of the odd ones weigh this.
    let odd = (-1.0f64).exp();
    let logits: Vec<f32> = (0..TOKENS).map(|token| if token % 2 == 0 { 3.0 } else { 2.0 }).collect();
    let half = TOKENS as f64 / 2.0;
    let top_p = (half + 2.0 / 3.0 * half * odd) / (half + half * odd);
    let total = half + 2.0 / 3.0 * half * odd;
    let at = |draw: f64| match draw * total {
        target if target < half => 2.0 * target.floor(),
        target => 2.0 * ((target - half) / odd).floor() + 1.0,
    };
    check(&logits, top_p as f32, &at, 4.0);
    // Spread out, many tokens: what is chosen is of the set, for any top-p.
    let logits: Vec<f32> = (0..30_000).map(|token| (philox4x32_10([token, 3, 0, 0], [1, 2])[0] % 4001) as f32 / 1000.0).collect();
    for case in 0..60 {
        let sampling = sampling(1.0 + (case % 7) as f32, 0, 0.4 + case as f32 / 101.0, 5);
        let chosen = choose(&mut sampler, &logits, &sampling, case).expect("the logits are numbers");
        let mut kept = plainly(&logits, &sampling);
        // Weights are f32: the last token of the set may be another of about its weight.
        let edge = kept.pop().expect("at least one").0;
        let in_set = kept.iter().any(|(token, ..)| *token == chosen);
        assert!(in_set || (logits[chosen as usize] - logits[edge as usize]).abs() < 2e-3, "case {case}: {chosen}");
    }
}

#[test]
fn a_draw_depends_on_seed_and_index_alone() {
    let logits: Vec<f32> = (0..100).map(|token| (token as f32 * 0.7).sin()).collect();
    let sampling = sampling(1.0, 50, 0.95, 9);
    let run =
        |sampler: &mut Sampler, sampling| -> Vec<_> { (0..50).map(|index| choose(sampler, &logits, &sampling, index)).collect() };
    let mut used = Sampler::new();
    choose(&mut used, &[1.0; 7], &self::sampling(1.0, 3, 0.5, 1), 0).expect("the logits are numbers");
    assert_eq!(run(&mut used, sampling), run(&mut Sampler::new(), sampling));
    assert_ne!(run(&mut used, sampling), run(&mut used, sampling.of_choice(1)));
}

/// Logits and what `extras` makes of them for the token behind `prompt` and `output`.
fn processed(logits: &[f32], extras: SamplingExtras, prompt: &[u32], output: &[u32]) -> Vec<f32> {
    let finish = FinishRules { tokens_max: 9, eos: vec![0, 77], stop: vec![3], repetition: None };
    let state = SharedState::new(Some(Arc::new(extras)), None, &finish, prompt).expect("it asks for something");
    let mut state = state.lock();
    output.iter().for_each(|&token| assert_eq!(state.accept(token), Ok(Accepted::More)));
    let mut logits = logits.to_vec();
    state.process(&mut logits, &mut Vec::new());
    logits
}

/// By hand, from vLLM's definitions; each change alone, then all together in their order.
#[test]
fn logits_are_changed_as_vllm_changes_them() {
    const NO: f32 = f32::NEG_INFINITY;
    let logits = [1.0, -1.0, 2.0, 0.5];
    let check = |extras, expected: [f32; 4]| assert_eq!(processed(&logits, extras, &[0, 1, 1], &[2, 2]), expected);
    let none = SamplingExtras::default;
    check(SamplingExtras { repetition_penalty: 2.0, ..none() }, [0.5, -2.0, 1.0, 0.5]);
    check(SamplingExtras { frequency_penalty: 0.5, ..none() }, [1.0, -1.0, 1.0, 0.5]);
    check(SamplingExtras { presence_penalty: 0.25, ..none() }, [1.0, -1.0, 1.75, 0.5]);
    check(SamplingExtras { logit_bias: vec![(1, 3.0), (3, -0.5)], ..none() }, [1.0, 2.0, 2.0, 0.0]);
    check(SamplingExtras { allowed_token_ids: Some(vec![1, 3]), ..none() }, [NO, -1.0, NO, 0.5]);
    // The second word's beginning is the output's end, the third's is not, the first has none.
    check(SamplingExtras { bad_words: vec![vec![3], vec![2, 2, 1], vec![0, 2, 2]], ..none() }, [1.0, NO, 2.0, NO]);
    check(SamplingExtras { min_tokens: 3, ..none() }, [NO, -1.0, 2.0, NO]);
    check(SamplingExtras { min_tokens: 3, ignored_eos: vec![2], ..none() }, [NO, -1.0, NO, NO]);
    check(SamplingExtras { min_tokens: 2, logprobs: Some(1), ..none() }, logits);
    // Bias comes before the penalties: (2 + 2) / 2 - 2 · 0.5 - 0.25.
    let all = SamplingExtras {
        presence_penalty: 0.25,
        frequency_penalty: 0.5,
        repetition_penalty: 2.0,
        logit_bias: vec![(2, 2.0), (3, 9.0)],
        min_tokens: 3,
        bad_words: vec![vec![2, 1]],
        allowed_token_ids: Some(vec![0, 1, 2]),
        ..none()
    };
    check(all, [NO, NO, 0.75, NO]);
}

#[test]
fn log_probabilities_are_of_the_logits_as_they_came() {
    let logits: Vec<f32> = [0.1f32, 0.4, 0.2, 0.3].iter().map(|p| p.ln() + 7.0).collect();
    let extras = SamplingExtras { logprobs: Some(2), logit_bias: vec![(2, 50.0)], ..SamplingExtras::default() };
    let told = |extras: SamplingExtras, sampling| {
        let state = SharedState::new(Some(Arc::new(extras)), None, &FinishRules::default(), &[1]);
        let mut out = Vec::new();
        let sample = Sample { sampling, index: 0, state };
        Sampler::new().row(Slot(3), &sample, &[], [&mut logits.clone()[..]], &mut out);
        let Sampled { slot: Slot(3), token: Ok(2), logprobs: Some(told), ended: false } = &out[0] else { panic!("{out:?}") };
        assert_eq!(told.rank, 3);
        told.tokens.iter().map(|&(token, logprob)| (token, (logprob.exp() * 1e4).round() / 1e4)).collect::<Vec<_>>()
    };
    let hot = Sampling { temperature: 0.5, top_k: 1, ..Sampling::GREEDY };
    for sampling in [Sampling::GREEDY, hot] {
        assert_eq!(told(extras.clone(), sampling), [(2, 0.2), (1, 0.4), (3, 0.3)]);
        let named = SamplingExtras { logprob_token_ids: vec![0, 2], ..extras.clone() };
        assert_eq!(told(named, sampling), [(2, 0.2), (0, 0.1), (2, 0.2)], "instead of the most likely");
    }
}

/// A nucleus of more tokens than are sorted: no token outside it, and every thousandth of the draw where a plain reading has it, whatever
/// the order in which the likely tokens are walked.
#[test]
fn a_large_nucleus_is_the_same_set() {
    let logits: Vec<f32> =
        (0..20_000u32).map(|token| (philox4x32_10([token, 0, 0, 0], [1, 2])[0] >> 16) as f32 / 16384.0).collect();
    for top_p in [0.3, 0.9, 0.999] {
        let sampling = sampling(1.5, 0, top_p, 5);
        let nucleus: std::collections::HashSet<u32> = plainly(&logits, &sampling).iter().map(|(token, ..)| *token).collect();
        assert!(nucleus.len() > 2000 && nucleus.len() < logits.len());
        let least = nucleus.iter().map(|&token| logits[token as usize]).fold(f32::MAX, f32::min);
        let mut sampler = Sampler::new();
        let mut near_the_edge = 0;
        for index in 0..500 {
            let token = choose(&mut sampler, &logits, &sampling, index).expect("the logits are numbers");
            assert!(nucleus.contains(&token), "{token} at {top_p}");
            near_the_edge += u32::from(logits[token as usize] < least + 0.05);
        }
        // Weights of the least likely twentieth of a logit, against what was drawn: five standard deviations.
        let weight = |token: u32| (f64::from(logits[token as usize]) / 1.5).exp();
        let all: f64 = nucleus.iter().map(|&token| weight(token)).sum();
        let edge: f64 = nucleus.iter().filter(|&&token| logits[token as usize] < least + 0.05).map(|&token| weight(token)).sum();
        let expected = 500.0 * edge / all;
        assert!(
            (f64::from(near_the_edge) - expected).abs() < 5.0 * expected.sqrt() + 1.0,
            "{near_the_edge} for {expected} at {top_p}"
        );
    }
}

/// Drafts are sampled as the rows that they stand for would be.
#[test]
fn a_row_goes_on_while_its_drafts_are_what_is_chosen() {
    let positions = [[0.0, 9.0, 0.0], [9.0, 0.0, 0.0], [0.0, 0.0, 9.0]];
    let check = |drafts: &[u32], expected: &[u32]| {
        let (mut logits, mut out) = (positions, Vec::new());
        let sample = Sample { sampling: Sampling::GREEDY, index: 5, state: None };
        let rows = logits[..drafts.len() + 1].iter_mut().map(|logits| &mut logits[..]);
        Sampler::new().row(Slot(0), &sample, drafts, rows, &mut out);
        assert_eq!(out.iter().map(|sampled| sampled.token.clone().ok()).collect::<Option<Vec<u32>>>().as_deref(), Some(expected));
    };
    check(&[], &[1]);
    check(&[0], &[1]);
    check(&[1], &[1, 0]);
    check(&[1, 0], &[1, 0, 2]);
    check(&[1, 2], &[1, 0]);
    check(&[2, 0], &[1]);
}
