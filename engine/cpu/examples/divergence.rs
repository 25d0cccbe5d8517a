//! What rounded arithmetic changes: `divergence MODEL IDS [--window N] [--first ID] [--threads N]`.
//!
//! Runs the token ids of the file (one line, separated by spaces) multiplied in f32, as `--dtype auto` multiplies, and as it multiplies with
//! the KV cache left in f32; in windows of N tokens (512) that begin anew, their first token replaced by ID if one is given. Compares
//! the distributions of the next token from the middle of each window on: what llama.cpp's `llama-perplexity --kl-divergence` does, so
//! that both can stand beside each other. Prints one JSON object, `{auto, auto_kv_float32}`, each with the mean, its standard error and the
//! 99th percentile of KL(f32 ‖ it) in nats, the share of positions whose most likely token is the same, and the perplexities.

use std::error::Error;
use std::fs;
use std::ops::Range;
use std::path::PathBuf;

use engine::backend::{Backend, Batch, BlockId, Input, Outcomes, Row, Scored, Slot};
use engine_cpu::{CpuBackend, CpuDtype, CpuOptions, KvDtype, KvSize};

/// Positions of one launch: what is kept of their logits at a time is `CHUNK × vocabulary`.
const CHUNK: usize = 32;
const BLOCK_TOKENS: usize = 16;

/// Natural logarithms of the probabilities of the whole vocabulary, one row for each of the `compared` positions (within `chunk`).
fn run(
    backend: &mut CpuBackend,
    window: &[u32],
    chunk: Range<usize>,
    compared: Range<usize>,
) -> Result<Vec<Vec<f32>>, Box<dyn Error>> {
    let vocabulary = backend.capacity().vocabulary;
    let blocks: Vec<BlockId> = (0..chunk.end.div_ceil(BLOCK_TOKENS)).map(|block| BlockId(block as u32)).collect();
    let mut batch = Batch { tokens: window[chunk.clone()].to_vec(), ..Batch::default() };
    let scored = (!compared.is_empty()).then(|| {
        batch.targets.extend_from_slice(&window[compared.start + 1..compared.end + 1]);
        Box::new(Scored { first: compared.start as u32, targets: 0..compared.len(), top: vocabulary as u32 })
    });
    batch.rows.push(Row {
        slot: Slot(0),
        input: Input::Tokens(0..chunk.len()),
        start: chunk.start as u32,
        sample: None,
        drafts: 0,
        scored,
        adapter: None,
    });
    batch.tables.replace(Slot(0), 0, &blocks);
    let ticket = backend.launch(&batch)?;
    let mut outcomes = Outcomes::default();
    backend.settle(ticket, &mut outcomes)?;
    let positions = outcomes.scored.iter().flat_map(|(_, positions)| positions);
    let rows: Vec<Vec<f32>> = positions
        .map(|logprobs| {
            let mut row = vec![f32::NEG_INFINITY; vocabulary];
            logprobs.tokens.iter().for_each(|(token, logprob)| row[*token as usize] = *logprob);
            row
        })
        .collect();
    if rows.len() == compared.len() {
        Ok(rows)
    } else {
        Err(format!("{} positions were told of {}", rows.len(), compared.len()).into())
    }
}

fn best(row: &[f32]) -> usize {
    (0..row.len()).max_by(|a, b| row[*a].total_cmp(&row[*b])).unwrap_or(0)
}

/// How far one kind of arithmetic lies from f32, position by position.
#[derive(Default)]
struct Tally {
    divergences: Vec<f64>,
    same: usize,
    /// Negative logarithms of the targets' probabilities, summed: in f32 and in this arithmetic.
    losses: [f64; 2],
}

impl Tally {
    fn add(&mut self, exact: &[f32], rounded: &[f32], target: u32) {
        let terms = exact.iter().zip(rounded).filter(|(p, _)| p.is_finite());
        self.divergences.push(terms.map(|(p, q)| f64::from(*p).exp() * (f64::from(*p) - f64::from(*q))).sum());
        self.same += usize::from(best(exact) == best(rounded));
        let target = target as usize;
        self.losses = [self.losses[0] - f64::from(exact[target]), self.losses[1] - f64::from(rounded[target])];
    }

    fn json(mut self) -> String {
        let count = self.divergences.len() as f64;
        self.divergences.sort_by(f64::total_cmp);
        let mean = self.divergences.iter().sum::<f64>() / count;
        let variance = self.divergences.iter().map(|divergence| (divergence - mean).powi(2)).sum::<f64>() / count;
        let high = self.divergences[(self.divergences.len() - 1) * 99 / 100];
        let [exact, rounded] = self.losses.map(|loss| (loss / count).exp());
        format!(
            "{{\"positions\":{count},\"mean\":{mean:.4e},\"error\":{:.1e},\"p99\":{high:.3e},\"same_top\":{:.4},\"perplexity_f32\":{exact:.4},\"perplexity\":{rounded:.4}}}",
            (variance / count).sqrt(),
            self.same as f64 / count
        )
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    let mut given = std::env::args().skip(1);
    let model: PathBuf = given.next().ok_or("which model? give a folder or a .gguf file")?.into();
    let ids = given.next().ok_or("which ids? give a file")?;
    let (mut window, mut first, mut threads) = (512, None, None);
    while let Some(name) = given.next() {
        let value: usize = given.next().ok_or_else(|| format!("{name} wants a value"))?.parse()?;
        match name.as_str() {
            "--window" => window = value.max(4),
            "--first" => first = Some(u32::try_from(value)?),
            "--threads" => threads = Some(value),
            _ => return Err(format!("{name} is none of --window, --first, --threads").into()),
        }
    }
    let ids: Vec<u32> = fs::read_to_string(ids)?.split_whitespace().map(str::parse).collect::<Result<_, _>>()?;
    let assets = engine_assets::open(&model)?;
    let load = |dtype, kv_dtype| {
        let kv = KvSize::Blocks(window.div_ceil(BLOCK_TOKENS));
        let options =
            CpuOptions { threads, dtype, kv, kv_dtype, block_tokens: BLOCK_TOKENS, slots: CHUNK, ..CpuOptions::default() };
        CpuBackend::load(&assets, &options, &mut |_, _| {})
    };
    let mut exact = load(CpuDtype::Float32, None)?;
    let mut rounded = [("auto", None), ("auto_kv_float32", Some(KvDtype::Float32))]
        .into_iter()
        .map(|(name, kv)| Ok((name, load(CpuDtype::Auto, kv)?, Tally::default())))
        .collect::<Result<Vec<_>, Box<dyn Error>>>()?;
    let windows = ids.len() / window;
    if windows == 0 {
        return Err(format!("the text has {} tokens; a window wants {window}", ids.len()).into());
    }
    for (number, tokens) in ids.chunks_exact(window).enumerate() {
        eprint!("\rwindow {} of {windows}", number + 1);
        let mut tokens = tokens.to_vec();
        tokens[0] = first.unwrap_or(tokens[0]);
        // The last id is only a target; the first half of the window only a context.
        for start in (0..window - 1).step_by(CHUNK) {
            let chunk = start..(start + CHUNK).min(window - 1);
            let compared = start.max(window / 2).min(chunk.end)..chunk.end;
            let reference = run(&mut exact, &tokens, chunk.clone(), compared.clone())?;
            for (_, backend, tally) in &mut rounded {
                let rows = run(backend, &tokens, chunk.clone(), compared.clone())?;
                for ((p, q), target) in reference.iter().zip(&rows).zip(&tokens[compared.start + 1..]) {
                    tally.add(p, q, *target);
                }
            }
        }
    }
    eprintln!();
    let parts: Vec<String> = rounded.into_iter().map(|(name, _, tally)| format!("\"{name}\":{}", tally.json())).collect();
    println!("{{{}}}", parts.join(","));
    Ok(())
}
