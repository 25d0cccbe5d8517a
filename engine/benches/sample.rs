//! Time of sampling one row: `cargo bench -p engine --bench sample`.
//!
//! Logits of a large vocabulary, 64 rows of them so that none is still in a near cache when its turn comes, spread as a language
//! model's are. Prints one line per kind of request: microseconds per row on one thread, median and quartiles of rounds.

use std::sync::Arc;
use std::time::Instant;

use engine::backend::{Sample, Slot};
use engine::request::{FinishRules, Sampling, SamplingExtras};
use engine::sample::{Sampler, SharedState};

const VOCABULARY: usize = 262_144;
const ROWS: usize = 64;
const ROUNDS: usize = 7;

/// Approximately normal with a few likely tokens at the end, and no two rows alike.
fn logits() -> Vec<f32> {
    let mut state = 1u64;
    let mut uniform = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as f32 / (1 << 24) as f32
    };
    let mut logit = |token: usize| (uniform() + uniform() + uniform() - 1.5) * 5.0 + if token % 20_011 == 7 { 9.0 } else { 0.0 };
    (0..ROWS * VOCABULARY).map(|at| logit(at % VOCABULARY)).collect()
}

fn main() {
    let original = logits();
    let mut logits = original.clone();
    let drawn = Sampling { temperature: 0.8, top_k: 0, top_p: 1.0, min_p: 0.0, seed: 7 };
    let penalties = SamplingExtras { presence_penalty: 0.5, repetition_penalty: 1.1, ..SamplingExtras::default() };
    let told = SamplingExtras { logprobs: Some(5), ..SamplingExtras::default() };
    let cases = [
        ("greedy", Sampling::GREEDY, None),
        ("temperature", drawn, None),
        ("top_p 0.95", Sampling { top_p: 0.95, ..drawn }, None),
        ("top_k 50, top_p 0.95", Sampling { top_k: 50, top_p: 0.95, ..drawn }, None),
        ("min_p 0.05", Sampling { min_p: 0.05, ..drawn }, None),
        ("greedy, penalties over 1,000 tokens", Sampling::GREEDY, Some(penalties)),
        ("greedy, 5 logprobs", Sampling::GREEDY, Some(told)),
    ];
    let prompt: Vec<u32> = (0..1000).map(|token| token * 131).collect();
    let mut sampler = Sampler::new();
    let mut out = Vec::new();
    for (name, sampling, extras) in cases {
        let state = SharedState::new(extras.map(Arc::new), None, &FinishRules::default(), &prompt);
        let mut us: Vec<f64> = (0..ROUNDS)
            .map(|_| {
                logits.copy_from_slice(&original);
                let began = Instant::now();
                for (index, row) in (0..).zip(logits.chunks_exact_mut(VOCABULARY)) {
                    let sample = Sample { sampling, index, state: state.clone() };
                    sampler.row(Slot(0), &sample, &[], [row], &mut out);
                }
                let seconds = began.elapsed().as_secs_f64();
                assert!(out.drain(..).all(|sampled| sampled.token.is_ok()));
                seconds * 1e6 / ROWS as f64
            })
            .collect();
        us.sort_by(f64::total_cmp);
        let [low, median, high] = [1, 3, 5].map(|quartile| us[quartile]);
        println!("{name:36} {median:7.0} µs per row of {VOCABULARY} ({low:.0} to {high:.0})");
    }
}
