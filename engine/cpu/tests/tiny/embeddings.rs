//! Vectors: those of sentence-transformers, and the same whatever runs beside them, in whatever chunks, however often it was interrupted.

use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Instant;

use engine::config::Config;
use engine::observe::Stats;
use engine::request::{FinishReason, FinishRules, NewRequest, Output, Sampling};
use engine::step::{Activity, Engine, Ports};
use engine_assets::Pooling;
use engine_cpu::{CpuBackend, CpuDtype, CpuOptions, KvSize};
use serde::Deserialize;

use crate::checkpoints::file;
use crate::support::{fixtures, options};

/// See `tests/parity/embeddings.py`.
#[derive(Deserialize)]
struct Golden {
    cases: Vec<Case>,
}

#[derive(Deserialize)]
struct Case {
    text: String,
    ids: Vec<u32>,
    /// Before normalisation.
    vector: Vec<f32>,
}

#[derive(Clone, Copy)]
struct Run {
    pooling: Option<Pooling>,
    dtype: CpuDtype,
    threads: usize,
    blocks: usize,
    chunk: usize,
    prefix_caching: bool,
    together: usize,
}

const ALONE: Run = Run {
    pooling: None,
    dtype: CpuDtype::Float32,
    threads: 1,
    blocks: 1024,
    chunk: usize::MAX,
    prefix_caching: false,
    together: 1,
};

/// The vector of each prompt. Without a way of its own, a run takes the model's.
fn vectors(model: &Path, prompts: &[Vec<u32>], run: Run) -> (Vec<Vec<f32>>, Stats) {
    let assets = engine_assets::open(&file(model)).unwrap_or_else(|error| panic!("{error}")).without_head();
    let pooling = Some(run.pooling.unwrap_or(assets.pooling.pooling));
    let (threads, kv) = (Some(run.threads), KvSize::Blocks(run.blocks));
    let options = CpuOptions { pooling, threads, dtype: run.dtype, kv, ..options() };
    let backend = CpuBackend::load(&assets, &options, &mut |_, _| {}).unwrap_or_else(|error| panic!("{error}"));
    let default = Config::for_device(&engine::backend::Backend::capacity(&backend));
    let prefill_chunk_tokens_max = run.chunk.min(default.max_num_batched_tokens);
    let limits =
        Config { pooling, prefill_chunk_tokens_max, prefix_caching: run.prefix_caching, pinned_blocks_max: 0, ..default };
    let config = Config { max_model_len: 512, ..limits };
    let (mut engine, handle) =
        Engine::new(Box::new(backend), config, Ports::new(Instant::now)).expect("the limits suit the device");
    let mut all = Vec::new();
    for prompts in prompts.chunks(run.together) {
        let seen: Vec<Arc<Mutex<Vec<Output>>>> = prompts.iter().map(|_| Arc::default()).collect();
        for (prompt, seen) in prompts.iter().zip(&seen) {
            let seen = Arc::clone(seen);
            let sink = move |output| {
                seen.lock().expect("nobody panics").push(output);
                true
            };
            let finish = FinishRules { tokens_max: 1, ..FinishRules::default() };
            let request = NewRequest::new(prompt[..].into(), Sampling::GREEDY, finish, Instant::now(), Box::new(sink));
            handle.submit(request).expect("there is room");
        }
        while engine.step().expect("the device works") == Activity::Busy {
            engine.check();
        }
        for seen in seen {
            let seen = seen.lock().expect("nobody panics");
            let [Output::Admitted { .. }, Output::Pooled(vector), Output::Finished(finished)] = &seen[..] else {
                panic!("{seen:?}")
            };
            assert_eq!((&finished.reason, finished.generated_tokens), (&FinishReason::Pooled, 0));
            all.push(vector.to_vec());
        }
    }
    (all, handle.stats())
}

fn cosine(a: &[f32], b: &[f32]) -> f64 {
    let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum::<f64>();
    dot(a, b) / (dot(a, a) * dot(b, b)).sqrt()
}

/// In f32 to the fifth digit; with rounded weights and activations, as vLLM asks of two implementations, to a cosine of 0.999.
#[test]
fn vectors_are_those_of_sentence_transformers() {
    for (name, pooling, normalise) in [
        ("qwen3-embedding", Pooling::Last, true),
        ("mistral-mean", Pooling::Mean, false),
        ("gguf-qwen3-embedding-q8_0", Pooling::Last, true),
    ] {
        let model = fixtures().join("models").join(name);
        let assets = engine_assets::open(&file(&model)).unwrap_or_else(|error| panic!("{error}"));
        assert!(assets.pools && assets.warnings.is_empty(), "{name}: {:?}", assets.warnings);
        assert_eq!((assets.pooling.pooling, assets.pooling.normalise), (pooling, normalise), "{name}");
        let text = std::fs::read_to_string(model.join("vectors.json")).expect("the golden is there");
        let Golden { cases } = serde_json::from_str(&text).expect("a golden");
        let prompts: Vec<Vec<u32>> = cases.iter().map(|case| case.ids.clone()).collect();
        let (exact, _) = vectors(&model, &prompts, Run { together: 64, ..ALONE });
        let (rounded, _) = vectors(&model, &prompts, Run { together: 64, dtype: CpuDtype::Auto, ..ALONE });
        for ((case, exact), rounded) in cases.iter().zip(&exact).zip(&rounded) {
            assert_eq!(exact.len(), case.vector.len());
            let far = exact.iter().zip(&case.vector).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
            assert!(far < 5e-5, "{name}, {:?}: off by {far}", case.text);
            let near = cosine(rounded, &case.vector);
            assert!(near > 0.999, "{name}, {:?}: cosine {near}", case.text);
        }
    }
}

#[test]
fn vectors_depend_on_the_text_alone() {
    let token = |seed: usize| (seed.wrapping_mul(2_654_435_761) >> 7) as u32 % 700;
    let prompt = |number: usize| -> Vec<u32> {
        let shared = if number.is_multiple_of(3) { 33 } else { 0 };
        (0..shared).map(token).chain((0..1 + number * 37 % 150).map(|at| token(1000 * (number + 1) + at))).collect()
    };
    let prompts: Vec<Vec<u32>> = (0..48).map(prompt).collect();
    for (model, dtype) in [("qwen3-embedding", CpuDtype::Float32), ("gguf-qwen3-embedding-q8_0", CpuDtype::Auto)] {
        let model = &fixtures().join("models").join(model);
        for pooling in [Pooling::Last, Pooling::Mean, Pooling::Cls] {
            let alone = Run { pooling: Some(pooling), dtype, ..ALONE };
            let (expected, _) = vectors(model, &prompts, alone);
            let together = Run { together: 48, ..alone };
            let cached = pooling.allows_cached();
            for run in [
                together,
                Run { chunk: 1, threads: 2, ..together },
                Run { chunk: 7, blocks: 40, ..together },
                Run { chunk: 16, prefix_caching: cached, ..together },
                Run { chunk: 5, prefix_caching: cached, together: 7, blocks: 40, ..alone },
            ] {
                let (got, stats) = vectors(model, &prompts, run);
                assert_eq!(got, expected, "{pooling:?} in chunks of {}, {} together", run.chunk, run.together);
                assert_eq!(stats.prefix_hit_tokens > 0, run.prefix_caching, "{pooling:?}");
            }
        }
    }
}

#[test]
fn a_text_as_long_as_the_context_is_served() {
    let model = fixtures().join("models/mistral-mean");
    let long: Vec<u32> = (0..512).map(|at| at % 700).collect();
    let (whole, _) = vectors(&model, std::slice::from_ref(&long), ALONE);
    assert!(whole[0].iter().all(|value| value.is_finite()));
}

#[test]
fn a_model_without_a_head_generates_nothing() {
    let assets = engine_assets::open(&fixtures().join("models/mistral-mean")).unwrap_or_else(|error| panic!("{error}"));
    let error = CpuBackend::load(&assets, &options(), &mut |_, _| {}).map(|_| ()).expect_err("it has no head").to_string();
    let source =
        std::error::Error::source(&CpuBackend::load(&assets, &options(), &mut |_, _| {}).map(|_| ()).expect_err("again"))
            .map(ToString::to_string)
            .unwrap_or_default();
    assert!(format!("{error} {source}").contains("lm_head.weight"), "{error}: {source}");
}
