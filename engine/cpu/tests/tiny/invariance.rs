//! A request's tokens depend on the request alone: not on its batch, chunks, preemption, cache hits or the number of threads.
//!
//! Through the engine itself, with 64 requests of many lengths, a third of which begin alike.

use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Instant;

use domain::ExtraKeys;
use engine::config::Config;
use engine::observe::Stats;
use engine::request::{FinishRules, Finished, NewRequest, Output, Sampling};
use engine::step::{Activity, Engine, Ports};
use engine_cpu::{CpuOptions, Isa, KvSize};

use crate::checkpoints::load;
use crate::support::{fixtures, options};

const REQUESTS: usize = 64;
const TOKENS: u32 = 24;

/// Prompt and sampling of request `number`. Every fourth is sampled at a temperature, the rest greedy.
fn request(number: usize) -> (Vec<u32>, Sampling) {
    let token = |seed: usize| (seed.wrapping_mul(2_654_435_761) >> 7) as u32 % 700;
    let len = 1 + number * 37 % 120;
    let shared = if number.is_multiple_of(3) { 33 } else { 0 };
    let prompt = (0..shared).map(token).chain((0..len).map(|at| token(1000 * (number + 1) + at))).collect();
    let drawn = Sampling { temperature: 0.9, top_k: 50, top_p: 0.95, min_p: 0.0, seed: number as u64 };
    (prompt, if number % 4 == 1 { drawn } else { Sampling::GREEDY })
}

#[derive(Clone, Copy)]
struct Case {
    threads: usize,
    isa: Option<Isa>,
    blocks: usize,
    /// Most prompt tokens of one request in one step.
    chunk: usize,
    prefix_caching: bool,
    /// Blocks that host memory keeps.
    host_blocks: usize,
    /// How many requests are submitted at once.
    together: usize,
}

const ALONE: Case =
    Case { threads: 1, isa: None, blocks: 1024, chunk: usize::MAX, prefix_caching: false, host_blocks: 0, together: 1 };

/// The tokens of every request, `(number, tokens)` in order, and what the engine counted. `rounds` submits everything again.
fn run(model: &Path, case: Case, rounds: usize) -> (Vec<Vec<u32>>, Stats) {
    let Case { threads, isa, blocks, chunk, prefix_caching, host_blocks, together } = case;
    let backend = load(model, &CpuOptions { threads: Some(threads), isa, kv: KvSize::Blocks(blocks), ..options() });
    let capacity = engine::backend::Backend::capacity(&backend);
    let default = Config::for_device(&capacity);
    let prefill_chunk_tokens_max = chunk.min(default.max_num_batched_tokens);
    let limits = Config { prefill_chunk_tokens_max, prefix_caching, max_model_len: 200, pinned_blocks_max: 0, ..default };
    let config = Config { host_blocks, ..limits };
    let (mut engine, handle) =
        Engine::new(Box::new(backend), config, Ports::new(Instant::now)).expect("the limits suit the device");
    let mut outputs = Vec::new();
    for _ in 0..rounds {
        for first in (0..REQUESTS).step_by(together) {
            let tokens: Vec<Arc<Mutex<Vec<u32>>>> = (first..REQUESTS.min(first + together)).map(|_| Arc::default()).collect();
            for (number, tokens) in (first..).zip(&tokens) {
                let (prompt, sampling) = request(number);
                let tokens = Arc::clone(tokens);
                let sink = move |output: Output| {
                    match output {
                        Output::Token { token, .. } => tokens.lock().expect("nobody panics").push(token),
                        Output::Admitted { .. } | Output::PromptLogprobs(_) | Output::Finished(Finished { .. }) => {}
                    }
                    true
                };
                let finish = FinishRules { tokens_max: TOKENS, ..FinishRules::default() };
                let request = NewRequest {
                    prompt: prompt.into(),
                    extra: ExtraKeys::default(),
                    sampling,
                    extras: None,
                    mask: None,
                    finish,
                    kv_transfer: None,
                    remote_kv: false,
                    arrived: Instant::now(),
                    sink: Box::new(sink),
                };
                handle.submit(request).expect("there is room");
            }
            while engine.step().expect("the device works") == Activity::Busy {}
            outputs.extend(tokens.iter().map(|tokens| tokens.lock().expect("nobody panics").clone()));
        }
    }
    (outputs, handle.stats())
}

fn check(model: &Path, expected: &[Vec<u32>], case: Case, name: &str) -> Stats {
    let (got, stats) = run(model, case, 1);
    for (number, (got, expected)) in got.iter().zip(expected).enumerate() {
        assert_eq!(got, expected, "{}: request {number} {name}", model.display());
    }
    stats
}

fn check_model(model: &str) {
    let model = &fixtures().join("models").join(model);
    let (expected, _) = run(model, ALONE, 1);
    assert!(expected.iter().all(|tokens| tokens.len() == TOKENS as usize));
    let together = Case { together: REQUESTS, ..ALONE };
    check(model, &expected, together, "in a batch of 64");
    check(model, &expected, Case { threads: 2, ..together }, "with two threads");
    for chunk in [1, 7, 16] {
        check(model, &expected, Case { chunk, ..together }, &format!("in chunks of {chunk}"));
    }
    let preempted = check(model, &expected, Case { blocks: 40, ..together }, "with preemptions");
    assert!(preempted.preemptions > 0, "the small pool preempts nobody");
    let hit = check(model, &expected, Case { prefix_caching: true, threads: 2, ..together }, "with cache hits");
    let (twice, again) = run(model, Case { prefix_caching: true, ..together }, 2);
    assert!(again.prefix_hit_tokens > hit.prefix_hit_tokens && again.prefix_hit_tokens > 1000, "the cache is not hit");
    assert_eq!(twice[REQUESTS..], expected, "when all prompts are cached");
    let everything = Case { blocks: 48, chunk: 7, prefix_caching: true, threads: 2, ..together };
    check(model, &expected, everything, "with all of it at once");
    let (offloaded, stats) = run(model, Case { host_blocks: 1024, ..everything }, 2);
    assert!(stats.lower_hit_tokens > 1000, "nothing comes back from host memory");
    for (round, tokens) in offloaded.chunks(REQUESTS).enumerate() {
        assert_eq!(tokens, expected, "with blocks that come back from host memory, round {round}");
    }
}

#[test]
fn tokens_depend_on_the_request_alone_f32() {
    check_model("llama31");
}

#[test]
fn tokens_depend_on_the_request_alone_q4_1() {
    check_model("gguf-q4_1");
}

/// Windows, two rotations, norms around layers.
#[test]
fn tokens_depend_on_the_request_alone_gemma3() {
    check_model("gemma3");
}

/// How many tokens share an expert, and which, changes nothing.
#[test]
fn tokens_depend_on_the_request_alone_experts() {
    check_model("gguf-qwen3moe-q8_0");
}

/// AVX2 and AVX-512 sum in the same order, so a fleet of mixed machines answers as one.
#[test]
fn all_instruction_sets_with_fused_multiply_add_agree() {
    let model = fixtures().join("models/llama31");
    let (expected, _) = run(&model, ALONE, 1);
    for isa in Isa::available().into_iter().filter(|isa| *isa != Isa::Portable) {
        check(&model, &expected, Case { isa: Some(isa), ..ALONE }, &format!("on {isa}"));
    }
}
