//! The sampler against hand calculation, published vectors, and a plain reading of its definition.

use super::philox::{philox4x32_10, uniform};
use super::*;
use crate::request::Sampling;

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

/// The definition, read plainly: sort all, cut, walk. Without a cut, the walk is in order of ids.
fn plainly(logits: &[f32], sampling: &Sampling, index: u32) -> Option<u32> {
    let Sampling { temperature, top_k, top_p, min_p, seed } = *sampling;
    let max = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let weight = |logit: f32| f64::from(((logit - max) / temperature).exp());
    let mut kept: Vec<(u32, f32)> = (0..).zip(logits.iter().copied()).collect();
    kept.retain(|&(_, logit)| weight(logit) >= f64::from(min_p));
    let top_k = if top_k == 0 { kept.len() } else { kept.len().min(top_k as usize) };
    if top_k < logits.len() || top_p < 1.0 {
        kept.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
        let smallest = kept[top_k - 1].1;
        kept.retain(|&(_, logit)| logit >= smallest);
    }
    if top_p < 1.0 {
        let mut by_id = kept.clone();
        by_id.sort_by_key(|&(token, _)| token);
        let wanted = f64::from(top_p) * by_id.iter().map(|&(_, logit)| weight(logit)).sum::<f64>();
        let mut before = 0.0;
        kept.retain(|&(_, logit)| {
            let keep = before < wanted || before == 0.0;
            before += weight(logit);
            keep
        });
    }
    let target = uniform(seed, index) * kept.iter().map(|&(_, logit)| weight(logit)).sum::<f64>();
    let mut sum = 0.0;
    kept.iter().find_map(|&(token, logit)| {
        sum += weight(logit);
        (sum > target).then_some(token)
    })
}

#[test]
fn partial_selection_chooses_as_a_full_sort_does() {
    let mut sampler = Sampler::new();
    for case in 0..300u32 {
        let [a, b, c, d] = philox4x32_10([case, 1, 0, 0], [5, 6]);
        let vocabulary = 1 + a as usize % 2000;
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
        let chosen = choose(&mut sampler, &logits, &sampling, case).ok();
        assert_eq!(chosen, plainly(&logits, &sampling, case), "case {case}: {sampling:?}, {vocabulary} tokens");
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
