//! Loads models and drives a backend as the simplest of steps would.

use std::path::{Path, PathBuf};

use engine::backend::{AdapterSlot, Backend, Batch, BlockId, Input, Outcomes, Row, Sample, Slot};
use engine::request::Sampling;
use engine_cpu::{CpuBackend, CpuDtype, CpuOptions, KvSize};
use serde::Deserialize;

/// What transformers answered; see `tests/parity` for how it is made.
#[derive(Deserialize)]
pub struct Golden {
    pub cases: Vec<Case>,
}

#[derive(Deserialize)]
pub struct Case {
    pub prompt: String,
    pub prompt_ids: Vec<u32>,
    pub output_ids: Vec<u32>,
    /// Smallest distance between the best two logits of a step.
    pub min_gap: f64,
    /// The likeliest tokens at each step, with the natural logarithms of their probabilities; none where all is certain.
    #[serde(default)]
    pub top5: Vec<Vec<(u32, f64)>>,
}

impl Golden {
    pub fn read(path: &Path) -> Self {
        let text = std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
    }

    pub fn requests(&self) -> Vec<Request<'_>> {
        self.cases.iter().map(|case| Request { prompt: &case.prompt_ids, tokens: case.output_ids.len(), adapter: None }).collect()
    }
}

/// A prompt and how many tokens to generate after it, greedily.
#[derive(Clone, Copy)]
pub struct Request<'a> {
    pub prompt: &'a [u32],
    pub tokens: usize,
    pub adapter: Option<AdapterSlot>,
}

pub fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures")
}

/// In f32, as transformers computes what the tests compare with.
pub fn options() -> CpuOptions {
    CpuOptions { dtype: CpuDtype::Float32, kv: KvSize::Blocks(2048), slots: 64, batch_tokens: 512, ..CpuOptions::default() }
}

pub fn load_file(path: &Path, options: &CpuOptions) -> CpuBackend {
    let assets = engine_assets::open(path).unwrap_or_else(|error| panic!("{error}"));
    CpuBackend::load(&assets, options, &mut |_, _| {}).unwrap_or_else(|error| panic!("{error}"))
}

/// Answers all requests together, prompts in chunks of at most `chunk` tokens. Every request has its own slot and blocks, dealt out so
/// that neighbours in a context are not neighbours in memory.
pub fn generate(backend: &mut dyn Backend, requests: &[Request<'_>], chunk: usize) -> Vec<Vec<u32>> {
    let capacity = backend.capacity();
    let count = requests.len();
    let blocks_of = |request: usize, len: usize| -> Vec<BlockId> {
        let blocks = (0..len.div_ceil(capacity.block_tokens)).map(|block| (block * count + request) as u32);
        blocks
            .map(|block| if (block as usize) < capacity.kv_blocks { BlockId(block) } else { panic!("the pool is too small") })
            .collect()
    };
    let mut outputs = vec![Vec::new(); count];
    let mut computed = vec![0; count];
    let mut sampled = Outcomes::default();
    while (0..count).any(|request| outputs[request].len() < requests[request].tokens) {
        let mut batch = Batch::default();
        let mut budget = capacity.batch_tokens;
        for (number, request) in requests.iter().enumerate().filter(|(number, request)| outputs[*number].len() < request.tokens) {
            let (start, prompt) = (computed[number], request.prompt);
            let (input, len) = if start < prompt.len() {
                let tokens = batch.tokens.len();
                let len = chunk.min(prompt.len() - start).min(budget);
                batch.tokens.extend(&prompt[start..start + len]);
                (Input::Tokens(tokens..tokens + len), len)
            } else {
                (Input::Last, 1.min(budget))
            };
            if len == 0 {
                continue;
            }
            budget -= len;
            let end = start + len;
            computed[number] = end;
            batch.tables.replace(Slot(number as u32), 0, &blocks_of(number, end));
            let sample = (end >= prompt.len()).then(|| Sample {
                sampling: Sampling::GREEDY,
                index: outputs[number].len() as u32,
                state: None,
            });
            batch.rows.push(Row {
                slot: Slot(number as u32),
                input,
                start: start as u32,
                sample,
                drafts: 0,
                scored: None,
                adapter: request.adapter,
            });
        }
        let ticket = backend.launch(&batch).expect("the batch is within the capacity");
        backend.settle(ticket, &mut sampled).expect("nothing fails");
        for sampled in sampled.sampled.drain(..) {
            outputs[sampled.slot.0 as usize].push(sampled.token.expect("logits are numbers"));
        }
    }
    outputs
}
