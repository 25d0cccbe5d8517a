//! A request's tokens, and what is told of them, depend on the request alone: not on its batch, chunks, preemption, cache hits, drafts or
//! the number of threads.
//!
//! Through the engine itself, with 64 requests of many lengths, a third of which begin alike.

use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Instant;

use domain::ExtraKeys;
use engine::config::Config;
use engine::observe::Stats;
use engine::request::{FinishRules, Finished, NewRequest, Output, Sampling, SamplingExtras};
use engine::speculate::Speculation;
use engine::step::{Activity, Engine, Ports};
use engine_cpu::{CpuDtype, CpuOptions, Isa, KvDtype, KvSize};

use crate::adapters;
use crate::checkpoints::load;
use crate::support::{fixtures, options};

const REQUESTS: usize = 64;
const TOKENS: u32 = 24;
const ADAPTERS: [&str; 2] = ["qwen3-all", "qwen3-rslora"];

/// Prompt, sampling and extras of request `number`. Every fourth is sampled at a temperature, the rest greedy; every fifth asks for
/// penalties and the like, some repeat themselves, every sixth is told of.
fn request(number: usize) -> (Vec<u32>, Sampling, Option<Arc<SamplingExtras>>) {
    let token = |seed: usize| (seed.wrapping_mul(2_654_435_761) >> 7) as u32 % 700;
    let len = 1 + number * 37 % 120;
    let shared = if number.is_multiple_of(3) { 33 } else { 0 };
    let prompt = (0..shared).map(token).chain((0..len).map(|at| token(1000 * (number + 1) + at))).collect();
    let drawn = Sampling { temperature: 0.9, top_k: 50, top_p: 0.95, min_p: 0.0, seed: number as u64 };
    let changed = SamplingExtras {
        presence_penalty: 0.5,
        frequency_penalty: 0.2,
        repetition_penalty: 1.1,
        logit_bias: vec![(number as u32, 2.0)],
        bad_words: vec![vec![1 + number as u32]],
        ..SamplingExtras::default()
    };
    let mut extras = if number.is_multiple_of(5) { changed } else { SamplingExtras::default() };
    if number % 7 == 3 {
        // Says little else: drafts are right.
        extras = SamplingExtras { logit_bias: vec![(5, 12.0), (6, 12.0)], ..SamplingExtras::default() };
    }
    if number.is_multiple_of(6) {
        extras.logprobs = Some(3);
    }
    if number.is_multiple_of(12) {
        extras.prompt_logprobs = Some(1);
    }
    let extras = (!extras.is_empty()).then(|| Arc::new(extras));
    (prompt, if number % 4 == 1 { drawn } else { Sampling::GREEDY }, extras)
}

#[derive(Clone, Copy)]
struct Case {
    threads: usize,
    dtype: CpuDtype,
    /// `None`: what suits `dtype`.
    kv_dtype: Option<KvDtype>,
    isa: Option<Isa>,
    blocks: usize,
    /// How many requests there are.
    requests: usize,
    /// Whether two requests of three name an adapter.
    adapters: bool,
    /// Most prompt tokens of one request in one step.
    chunk: usize,
    prefix_caching: bool,
    /// Blocks that host memory keeps.
    host_blocks: usize,
    /// How many requests are submitted at once.
    together: usize,
    /// Most drafts of one row.
    drafts: Option<usize>,
}

const ALONE: Case = Case {
    threads: 1,
    dtype: CpuDtype::Float32,
    kv_dtype: None,
    isa: None,
    blocks: 1024,
    requests: REQUESTS,
    adapters: false,
    chunk: usize::MAX,
    prefix_caching: false,
    host_blocks: 0,
    together: 1,
    drafts: None,
};

/// What a client is told, but for its end.
type Answer = Vec<Output>;

/// The answer to every request, in order, and what the engine counted. `rounds` submits everything again.
fn run(model: &Path, case: Case, rounds: usize) -> (Vec<Answer>, Stats) {
    let Case { threads, dtype, kv_dtype, isa, blocks, chunk, prefix_caching, host_blocks, together, drafts, .. } = case;
    let (threads, kv) = (Some(threads), KvSize::Blocks(blocks));
    let backend = load(model, &CpuOptions { threads, dtype, kv_dtype, isa, kv, ..options() });
    let capacity = engine::backend::Backend::capacity(&backend);
    let default = Config::for_device(&capacity);
    let prefill_chunk_tokens_max = chunk.min(default.max_num_batched_tokens);
    let speculation = drafts.map(|tokens| Speculation {
        lookup_min: 1,
        lookup_max: 3,
        batch_max: REQUESTS,
        acceptance_min: 0.0,
        ..Speculation::ngram(tokens)
    });
    let limits = Config { prefill_chunk_tokens_max, prefix_caching, max_model_len: 200, pinned_blocks_max: 0, ..default };
    let config = Config { host_blocks, speculation, ..limits };
    let (mut engine, handle) =
        Engine::new(Box::new(backend), config, Ports::new(Instant::now)).expect("the limits suit the device");
    if case.adapters {
        for name in ADAPTERS {
            adapters::load_into(&handle, &mut engine, name).expect("it fits");
        }
    }
    let mut outputs = Vec::new();
    for _ in 0..rounds {
        for first in (0..case.requests).step_by(together) {
            let tokens: Vec<Arc<Mutex<Answer>>> = (first..case.requests.min(first + together)).map(|_| Arc::default()).collect();
            for (number, tokens) in (first..).zip(&tokens) {
                let (prompt, sampling, extras) = request(number);
                let tokens = Arc::clone(tokens);
                let sink = move |output: Output| {
                    let mut told = tokens.lock().expect("nobody panics");
                    match output {
                        // In pieces that depend on the chunks; in order all the same.
                        Output::PromptLogprobs(more) => match told.last_mut() {
                            Some(Output::PromptLogprobs(before)) => before.extend(more),
                            _ => told.push(Output::PromptLogprobs(more)),
                        },
                        Output::Token { .. } | Output::Pooled(_) => told.push(output),
                        Output::Admitted { .. } | Output::Finished(Finished { .. }) => {}
                    }
                    true
                };
                let finish = FinishRules { tokens_max: TOKENS, ..FinishRules::default() };
                let adapter = ADAPTERS.get(number % 3).filter(|_| case.adapters);
                let request = NewRequest {
                    prompt: prompt.into(),
                    extra: ExtraKeys { adapter: adapter.map(|name| adapters::key(name)), ..ExtraKeys::default() },
                    sampling,
                    extras,
                    mask: None,
                    finish,
                    priority: 0,
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

fn check(model: &Path, expected: &[Answer], case: Case, name: &str) -> Stats {
    let (got, stats) = run(model, case, 1);
    for (number, (got, expected)) in got.iter().zip(expected).enumerate() {
        assert_eq!(got, expected, "{}: request {number} {name}", model.display());
    }
    stats
}

fn check_model(model: &str) {
    check_model_in(CpuDtype::Float32, model);
}

fn check_model_in(dtype: CpuDtype, model: &str) {
    let alone = Case { dtype, ..ALONE };
    let model = &fixtures().join("models").join(model);
    let (expected, _) = run(model, alone, 1);
    let tokens = |answer: &Answer| answer.iter().filter(|output| matches!(output, Output::Token { .. })).count();
    assert!(expected.iter().all(|answer| tokens(answer) == TOKENS as usize));
    let together = Case { together: REQUESTS, ..alone };
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
    let drafted = check(model, &expected, Case { drafts: Some(4), ..together }, "with drafts");
    assert!(drafted.accepted_tokens > 50, "of {} drafts {} are accepted", drafted.draft_tokens, drafted.accepted_tokens);
    check(model, &expected, Case { drafts: Some(7), ..alone }, "alone with drafts");
    let everything = Case { blocks: 48, chunk: 7, prefix_caching: true, threads: 2, drafts: Some(3), ..together };
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

/// Packed weights by activations of eight bits: the same promise.
#[test]
fn tokens_depend_on_the_request_alone_auto() {
    check_model_in(CpuDtype::Auto, "gguf-q4_1");
}

#[test]
fn tokens_depend_on_the_request_alone_auto_experts() {
    check_model_in(CpuDtype::Auto, "gguf-qwen3moe-q8_0");
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

/// The others, each in what it is multiplied and kept in: fewer requests, alone and with everything at once that could matter.
#[test]
fn tokens_depend_on_the_request_alone_everywhere() {
    let (f32, auto, half) = (CpuDtype::Float32, CpuDtype::Auto, Some(KvDtype::Float16));
    for (model, dtype, kv_dtype) in [
        ("llama-f16", f32, None),
        ("llama31-bf16", f32, None),
        ("llama-yarn", f32, None),
        ("mistral", f32, None),
        ("qwen2", f32, None),
        ("qwen3", f32, None),
        ("qwen3-moe", f32, None),
        ("qwen3-moe-bf16", f32, None),
        ("mixtral", f32, None),
        ("llama31", f32, half),
        ("qwen2", f32, half),
        ("gemma3", f32, half),
        ("mixtral", f32, half),
        ("gguf-q8_0", auto, None),
        ("gguf-q4_0", auto, None),
        ("gguf-q4_1", auto, Some(KvDtype::Float32)),
        ("gguf-qwen2-q8_0", auto, None),
        ("gguf-qwen3-q4_0", auto, None),
        ("gguf-gemma3-q8_0", auto, None),
        ("gguf-mixtral-q4_1", auto, None),
    ] {
        check_briefly(model, Case { dtype, kv_dtype, requests: 16, ..ALONE });
    }
}

#[test]
fn tokens_depend_on_the_request_alone_adapters() {
    for kv_dtype in [None, Some(KvDtype::Float16)] {
        check_briefly("qwen3", Case { kv_dtype, requests: 24, adapters: true, ..ALONE });
    }
}

fn check_briefly(model: &str, alone: Case) {
    let path = &fixtures().join("models").join(model);
    let (expected, _) = run(path, alone, 1);
    assert!(expected.iter().any(|answer| *answer != expected[0]), "{model} answers everybody alike");
    let together = Case { together: alone.requests, threads: 2, ..alone };
    check(path, &expected, together, "in a batch");
    let all = Case { blocks: 30, chunk: 7, prefix_caching: true, drafts: Some(3), host_blocks: 512, ..together };
    let stats = check(path, &expected, all, "with all of it at once");
    assert!(stats.preemptions > 0 && stats.accepted_tokens > 0, "{model}: {stats:?}");
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
