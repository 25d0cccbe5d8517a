//! What a prompt of 100k tokens does to others' decode: `cargo bench -p engine-cpu --bench long_prompt [seconds]`.
//!
//! A tiny Llama with its context raised to 131,072. Eight requests decode; then one comes with 100,000 prompt tokens. Printed are the
//! intervals between the tokens of the eight, alone and beside the prompt, with the step's time bounded (the default) and unbounded, and
//! how much of the prompt was computed meanwhile. A tiny model is the hard case: its decode costs nearly nothing beside such a context.

use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use domain::ExtraKeys;
use engine::config::{Config, STEP_TIME};
use engine::request::{FinishRules, NewRequest, Output, Sampling};
use engine::step::{Engine, Ports};
use engine_cpu::{CpuBackend, CpuOptions, KvSize};

const CONTEXT: usize = 131_072;
const PROMPT: usize = 100_000;
const DECODES: usize = 8;

/// The fixture with a longer context, in `folder`.
fn model(folder: &Path) {
    let fixture = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures/models/llama31");
    for entry in std::fs::read_dir(&fixture).expect("the fixture is there") {
        let path = entry.expect("it can be read").path();
        std::fs::copy(&path, folder.join(path.file_name().expect("a file has a name"))).expect("there is room");
    }
    let config = folder.join("config.json");
    let text = std::fs::read_to_string(&config).expect("a configuration");
    let mut json: serde_json::Value = serde_json::from_str(&text).expect("JSON");
    json["max_position_embeddings"] = CONTEXT.into();
    std::fs::write(&config, json.to_string()).expect("it can be written");
}

fn request(prompt: Vec<u32>, tokens_max: u32, seen: &Arc<Mutex<Vec<Instant>>>) -> NewRequest {
    let seen = Arc::clone(seen);
    let sink = move |output: Output| {
        if let Output::Token { .. } = output {
            seen.lock().expect("nobody panics").push(Instant::now());
        }
        true
    };
    NewRequest {
        prompt: prompt.into(),
        extra: ExtraKeys::default(),
        sampling: Sampling::GREEDY,
        extras: None,
        mask: None,
        finish: FinishRules { tokens_max, ..FinishRules::default() },
        priority: 0,
        kv_transfer: None,
        remote_kv: false,
        arrived: Instant::now(),
        sink: Box::new(sink),
    }
}

/// Median, 99th percentile and maximum of the intervals between tokens from `from` on, in milliseconds.
fn intervals(seen: &[Arc<Mutex<Vec<Instant>>>], from: Instant) -> String {
    let mut ms: Vec<f64> = Vec::new();
    for seen in seen {
        let seen = seen.lock().expect("nobody panics");
        ms.extend(seen.windows(2).filter(|pair| pair[1] >= from).map(|pair| (pair[1] - pair[0]).as_secs_f64() * 1e3));
    }
    ms.sort_by(f64::total_cmp);
    let at = |part: f64| ms.get(((ms.len() as f64 * part) as usize).min(ms.len().saturating_sub(1))).copied().unwrap_or(f64::NAN);
    format!("p50 {:.1} ms, p99 {:.1} ms, max {:.1} ms of {}", at(0.5), at(0.99), at(1.0), ms.len())
}

fn run(folder: &Path, step_time: Option<Duration>, seconds: u64) {
    let assets = engine_assets::open(folder).expect("a good model");
    let blocks = 12_000;
    let options = CpuOptions { kv: KvSize::Blocks(blocks), ..CpuOptions::default() };
    let backend = CpuBackend::load(&assets, &options, &mut |_, _| ()).expect("it loads");
    let capacity = engine::backend::Backend::capacity(&backend);
    let config = Config { step_time, pinned_blocks_max: 0, ..Config::for_device(&capacity) };
    let (mut engine, handle) =
        Engine::new(Box::new(backend), config, Ports::new(Instant::now)).expect("the limits suit the device");
    let decodes: Vec<Arc<Mutex<Vec<Instant>>>> = (0..DECODES).map(|_| Arc::default()).collect();
    for (number, seen) in decodes.iter().enumerate() {
        let prompt = (0..64).map(|i| (i * 7 + number as u32) % 700).collect();
        handle.submit(request(prompt, 100_000, seen)).expect("there is room");
    }
    let mut step_for = |time: Duration, until: &dyn Fn() -> bool| {
        let began = Instant::now();
        while began.elapsed() < time && !until() {
            engine.step().expect("the device works");
        }
    };
    let began = Instant::now();
    step_for(Duration::from_secs(1), &|| false);
    println!("step time {step_time:?}: alone {}", intervals(&decodes, began));
    let first = Arc::new(Mutex::new(Vec::new()));
    let prompt = (0..PROMPT as u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 7) % 700).collect();
    handle.submit(request(prompt, 1, &first)).expect("there is room");
    let began = Instant::now();
    step_for(Duration::from_secs(seconds), &|| !first.lock().expect("nobody panics").is_empty());
    let used = handle.stats().used_blocks.saturating_sub(DECODES) * capacity.block_tokens;
    println!(
        "  beside the prompt {}; about {used} tokens held after {:.1} s",
        intervals(&decodes, began),
        began.elapsed().as_secs_f64()
    );
}

fn main() {
    let seconds = std::env::args().filter_map(|arg| arg.parse().ok()).next().unwrap_or(20);
    let folder = tempfile::tempdir().expect("a folder");
    model(folder.path());
    for step_time in [None, Some(STEP_TIME)] {
        run(folder.path(), step_time, seconds);
    }
}
