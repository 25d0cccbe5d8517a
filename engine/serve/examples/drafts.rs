//! What speculative decoding gains and costs: `drafts MODEL [--threads N] [--pairs N] [--drafts N] [--tokens N]`.
//!
//! Alternates runs without and with drafts over two prompts of a chat, greedily: one asks for what the prompt says already, one for
//! something new. Checks that the answers are the same, and prints tokens per second, quartiles of the pairs' ratios by the clock and by
//! the process's own processor time, and how many drafts were accepted.

use std::error::Error;
use std::sync::{Arc, Mutex};
use std::time::{Instant, SystemTime};

use engine::backend::Backend;
use engine::config::Config;
use engine::request::{FinishRules, NewRequest, Output, Sampling};
use engine::speculate::Speculation;
use engine::step::{Activity, Engine, Ports};
use engine_assets::ModelAssets;
use engine_cpu::{CpuBackend, CpuOptions, KvSize};
use engine_text::{ChatRequest, Text};
use serde_json::json;

const PASSAGE: &str = "The signal box at Millbrook stood where three lines met. In the morning the first goods train came down from the \
quarry with forty wagons of limestone, and the signalman wrote its number, its weight and the minute of its passing into a long green \
book. At noon the express to the coast went through without stopping, and the windows of the box rattled for a while after it had gone. \
In the evening, when the last local train had left for the junction, he trimmed the lamps, closed the book and walked home along the \
embankment.";

struct Arguments {
    model: String,
    threads: Option<usize>,
    pairs: usize,
    drafts: usize,
    tokens: u32,
}

fn arguments() -> Result<Arguments, Box<dyn Error>> {
    let mut given = std::env::args().skip(1);
    let model = given.next().ok_or("which model? give a folder or a .gguf file")?;
    let mut arguments = Arguments { model, threads: None, pairs: 7, drafts: 8, tokens: 160 };
    while let Some(name) = given.next() {
        let value = given.next().ok_or_else(|| format!("{name} wants a value"))?;
        match name.as_str() {
            "--threads" => arguments.threads = Some(value.parse()?),
            "--pairs" => arguments.pairs = value.parse()?,
            "--drafts" => arguments.drafts = value.parse()?,
            "--tokens" => arguments.tokens = value.parse()?,
            _ => return Err(format!("{name} is none of --threads, --pairs, --drafts, --tokens").into()),
        }
    }
    Ok(arguments)
}

struct Run {
    tokens: Vec<u32>,
    tok_s: f64,
    tok_per_cpu_s: f64,
    drafted: u64,
    accepted: u64,
}

fn main() -> Result<(), Box<dyn Error>> {
    let Arguments { model, threads, pairs, drafts, tokens } = arguments()?;
    let assets = engine_assets::open(model.as_ref())?;
    let text = Text::new(&assets.text)?;
    let prompt = |content: String| -> Result<Arc<[u32]>, Box<dyn Error>> {
        let messages = [json!({ "role": "user", "content": content })];
        let rendered = text.render_chat(&ChatRequest::new(&messages, SystemTime::now()))?;
        Ok(text.encode(&rendered, false)?.into())
    };
    let cases = [
        ("copies", prompt(format!("Repeat the following text word for word.\n\n{PASSAGE}"))?),
        ("invents", prompt("Write a short story about a lighthouse keeper who finds a letter in a bottle.".to_owned())?),
    ];
    let speculation = Speculation { lookup_min: 3, lookup_max: 5, ..Speculation::ngram(drafts) };
    for (name, prompt) in &cases {
        let (mut plain_runs, mut drafted_runs) = (Vec::new(), Vec::new());
        // The first pair warms up.
        for pair in 0..=pairs {
            let plain = run(&assets, threads, prompt, tokens, None)?;
            let drafted = run(&assets, threads, prompt, tokens, Some(speculation))?;
            if plain.tokens != drafted.tokens {
                return Err(format!("{name}: drafts change the answer").into());
            }
            if pair > 0 {
                plain_runs.push(plain);
                drafted_runs.push(drafted);
            }
        }
        let quartiles = |value: fn(&Run, &Run) -> f64| {
            let mut values: Vec<f64> =
                plain_runs.iter().zip(&drafted_runs).map(|(plain, drafted)| value(plain, drafted)).collect();
            values.sort_by(f64::total_cmp);
            [1, 2, 3].map(|quartile| values[quartile * (values.len() - 1) / 4])
        };
        let last = drafted_runs.last().ok_or("give at least one pair")?;
        println!(
            "{{\"case\":\"{name}\",\"prompt_tokens\":{},\"tokens\":{},\"tok_s\":{:.1},\"tok_s_drafts\":{:.1},\"ratio\":{:.2?},\
             \"cpu_ratio\":{:.2?},\"draft_tokens\":{},\"accepted_tokens\":{}}}",
            prompt.len(),
            last.tokens.len(),
            quartiles(|plain, _| plain.tok_s)[1],
            quartiles(|_, drafted| drafted.tok_s)[1],
            quartiles(|plain, drafted| drafted.tok_s / plain.tok_s),
            quartiles(|plain, drafted| drafted.tok_per_cpu_s / plain.tok_per_cpu_s),
            last.drafted,
            last.accepted,
        );
    }
    Ok(())
}

/// One request alone, measured from its first token to its last.
fn run(
    assets: &ModelAssets,
    threads: Option<usize>,
    prompt: &Arc<[u32]>,
    tokens_max: u32,
    speculation: Option<Speculation>,
) -> Result<Run, Box<dyn Error>> {
    let options = CpuOptions { threads, kv: KvSize::Blocks(128), slots: 4, context_length: Some(2048), ..CpuOptions::default() };
    let backend = CpuBackend::load(assets, &options, &mut |_, _| {})?;
    let config = Config { speculation, pinned_blocks_max: 0, ..Config::for_device(&backend.capacity()) };
    let (mut engine, handle) = Engine::new(Box::new(backend), config, Ports::new(Instant::now))?;
    let tokens: Arc<Mutex<Vec<u32>>> = Arc::default();
    let seen = Arc::clone(&tokens);
    let sink = move |output: Output| {
        if let (Output::Token { token, .. }, Ok(mut seen)) = (output, seen.lock()) {
            seen.push(token);
        }
        true
    };
    let finish = FinishRules { tokens_max, eos: assets.generation.eos.clone(), ..FinishRules::default() };
    handle.submit(NewRequest::new(Arc::clone(prompt), Sampling::GREEDY, finish, Instant::now(), Box::new(sink)))?;
    while tokens.lock().is_ok_and(|tokens| tokens.is_empty()) {
        engine.step()?;
    }
    let (began, cpu_began) = (Instant::now(), cpu_s()?);
    while engine.step()? == Activity::Busy {}
    let (seconds, cpu_seconds) = (began.elapsed().as_secs_f64(), cpu_s()? - cpu_began);
    let stats = handle.stats();
    let tokens = tokens.lock().map(|tokens| tokens.clone()).unwrap_or_default();
    let decoded = (tokens.len() - 1) as f64;
    Ok(Run {
        tok_s: decoded / seconds,
        tok_per_cpu_s: decoded / cpu_seconds,
        drafted: stats.draft_tokens,
        accepted: stats.accepted_tokens,
        tokens,
    })
}

/// Processor time of all of this process's threads, in the kernel's ticks of 10 ms.
fn cpu_s() -> Result<f64, Box<dyn Error>> {
    let stat = std::fs::read_to_string("/proc/self/stat")?;
    let fields = stat.rsplit(") ").next().unwrap_or_default();
    Ok(fields.split(' ').skip(11).take(2).filter_map(|ticks| ticks.parse::<f64>().ok()).sum::<f64>() / 100.0)
}
