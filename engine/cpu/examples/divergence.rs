//! What rounded arithmetic changes: `divergence MODEL IDS [--window N] [--threads N]`.
//!
//! Runs the token ids of the file (one line, separated by spaces) twice, multiplied in f32 and as `--dtype auto` multiplies, in windows
//! of N tokens (512) that begin anew, and compares the distributions of the next token from the middle of each window on: what
//! llama.cpp's `llama-perplexity --kl-divergence` does, so that both can stand beside each other. Prints one JSON line: mean with its standard
//! error and 99th percentile of KL(f32 ‖ auto) in nats, the share of positions whose most likely token is the same, and the perplexities.

use std::error::Error;
use std::fs;
use std::path::PathBuf;

use engine::backend::{Backend, Batch, BlockId, Input, Outcomes, Row, Scored, Slot};
use engine_cpu::{CpuBackend, CpuDtype, CpuOptions, KvSize};

/// Positions whose logits one launch computes.
const CHUNK: usize = 64;
const BLOCK_TOKENS: usize = 16;

/// Natural logarithms of the probabilities of the whole vocabulary, of each compared position of a window.
struct Window {
    rows: Vec<Vec<f32>>,
}

fn run(backend: &mut CpuBackend, ids: &[u32]) -> Result<Window, Box<dyn Error>> {
    let vocabulary = backend.capacity().vocabulary;
    let blocks: Vec<BlockId> = (0..ids.len().div_ceil(BLOCK_TOKENS)).map(|block| BlockId(block as u32)).collect();
    let (mut rows, mut outcomes) = (Vec::new(), Outcomes::default());
    for start in (0..ids.len() - 1).step_by(CHUNK) {
        let end = (start + CHUNK).min(ids.len() - 1);
        // The last id is only a target; the first half of the window only a context.
        let compared = start.max(ids.len() / 2)..end;
        let mut batch = Batch { tokens: ids[start..end].to_vec(), blocks: blocks.clone(), ..Batch::default() };
        let mut scored = None;
        if !compared.is_empty() {
            batch.targets.extend_from_slice(&ids[compared.start + 1..compared.end + 1]);
            scored = Some(Box::new(Scored { first: compared.start as u32, targets: 0..compared.len(), top: vocabulary as u32 }));
        }
        let input = Input::Tokens(0..end - start);
        let blocks = 0..end.div_ceil(BLOCK_TOKENS);
        batch.rows.push(Row {
            slot: Slot(0),
            input,
            start: start as u32,
            blocks,
            sample: None,
            drafts: 0,
            scored,
            adapter: None,
        });
        let ticket = backend.launch(&batch)?;
        outcomes.clear();
        backend.settle(ticket, &mut outcomes)?;
        for logprobs in outcomes.scored.iter().flat_map(|(_, positions)| positions) {
            let mut row = vec![f32::NEG_INFINITY; vocabulary];
            logprobs.tokens.iter().for_each(|(token, logprob)| row[*token as usize] = *logprob);
            rows.push(row);
        }
    }
    Ok(Window { rows })
}

fn best(row: &[f32]) -> usize {
    (0..row.len()).max_by(|a, b| row[*a].total_cmp(&row[*b])).unwrap_or(0)
}

fn main() -> Result<(), Box<dyn Error>> {
    let mut given = std::env::args().skip(1);
    let model: PathBuf = given.next().ok_or("which model? give a folder or a .gguf file")?.into();
    let ids = given.next().ok_or("which ids? give a file")?;
    let (mut window, mut threads) = (512, None);
    while let Some(name) = given.next() {
        let value: usize = given.next().ok_or_else(|| format!("{name} wants a value"))?.parse()?;
        match name.as_str() {
            "--window" => window = value.max(4),
            "--threads" => threads = Some(value),
            _ => return Err(format!("{name} is none of --window, --threads").into()),
        }
    }
    let ids: Vec<u32> = fs::read_to_string(ids)?.split_whitespace().map(str::parse).collect::<Result<_, _>>()?;
    let assets = engine_assets::open(&model)?;
    let load = |dtype| {
        let kv = KvSize::Blocks(window.div_ceil(BLOCK_TOKENS));
        let options = CpuOptions { threads, dtype, kv, block_tokens: BLOCK_TOKENS, slots: CHUNK, ..CpuOptions::default() };
        CpuBackend::load(&assets, &options, &mut |_, _| {})
    };
    let (mut exact, mut rounded) = (load(CpuDtype::Float32)?, load(CpuDtype::Auto)?);
    let (mut divergences, mut same, mut losses) = (Vec::new(), 0, [0.0f64; 2]);
    for ids in ids.chunks_exact(window) {
        let (exact, rounded) = (run(&mut exact, ids)?, run(&mut rounded, ids)?);
        let targets = &ids[window / 2 + 1..];
        if exact.rows.len() != targets.len() || rounded.rows.len() != targets.len() {
            return Err(format!("{} positions were told of {}", exact.rows.len(), targets.len()).into());
        }
        for ((p, q), target) in exact.rows.iter().zip(&rounded.rows).zip(targets) {
            let terms = p.iter().zip(q).filter(|(p, _)| p.is_finite());
            let divergence: f64 = terms.map(|(p, q)| f64::from(*p).exp() * (f64::from(*p) - f64::from(*q))).sum();
            divergences.push(divergence);
            same += usize::from(best(p) == best(q));
            losses = [losses[0] - f64::from(p[*target as usize]), losses[1] - f64::from(q[*target as usize])];
        }
    }
    let count = divergences.len();
    if count == 0 {
        return Err(format!("the text has {} tokens; a window wants {window}", ids.len()).into());
    }
    divergences.sort_by(f64::total_cmp);
    let mean = divergences.iter().sum::<f64>() / count as f64;
    let variance = divergences.iter().map(|divergence| (divergence - mean).powi(2)).sum::<f64>() / count as f64;
    let error = (variance / count as f64).sqrt();
    let high = divergences[(count - 1) * 99 / 100];
    let [exact, rounded] = losses.map(|loss| (loss / count as f64).exp());
    println!(
        "{{\"positions\":{count},\"mean\":{mean:.3e},\"error\":{error:.1e},\"p99\":{high:.3e},\"same_top\":{:.4},\"perplexity_f32\":{exact:.4},\"perplexity\":{rounded:.4}}}",
        same as f64 / count as f64
    );
    Ok(())
}
