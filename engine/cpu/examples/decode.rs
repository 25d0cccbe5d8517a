//! How fast this machine reads prompts and generates: `decode MODEL [--threads N] [--dtype float32] [--prompt N] [--tokens N] [--rows N] [--repeats N]`.
//!
//! Prints one JSON line per repeat: prefill and decode tokens per second of `rows` requests together, all of the backend's work but
//! nothing of the engine's step, by the clock and by the process's own processor time (what a machine that others use would give if they
//! did not). Weights are in memory before the clock starts; the prompt's token ids are arbitrary.

use std::error::Error;
use std::path::PathBuf;
use std::time::Instant;

use engine::backend::{Backend, Batch, BlockId, Input, Outcomes, Row, Sample, Slot};
use engine::request::Sampling;
use engine_cpu::{CpuBackend, CpuDtype, CpuOptions, Isa, KvDtype, KvSize};

struct Arguments {
    model: PathBuf,
    threads: Option<usize>,
    prompt: usize,
    tokens: usize,
    rows: usize,
    repeats: usize,
    isa: Option<Isa>,
    kv_dtype: Option<KvDtype>,
    dtype: CpuDtype,
}

fn arguments() -> Result<Arguments, Box<dyn Error>> {
    let mut given = std::env::args().skip(1);
    let model = given.next().ok_or("which model? give a folder or a .gguf file")?.into();
    let mut arguments = Arguments {
        model,
        threads: None,
        prompt: 128,
        tokens: 64,
        rows: 1,
        repeats: 3,
        isa: None,
        kv_dtype: None,
        dtype: CpuDtype::Auto,
    };
    while let Some(name) = given.next() {
        let value = given.next().ok_or_else(|| format!("{name} wants a value"))?;
        match name.as_str() {
            "--threads" => arguments.threads = Some(value.parse()?),
            "--prompt" => arguments.prompt = value.parse()?,
            "--tokens" => arguments.tokens = value.parse()?,
            "--rows" => arguments.rows = value.parse()?,
            "--repeats" => arguments.repeats = value.parse()?,
            "--dtype" => arguments.dtype = if value == "float32" { CpuDtype::Float32 } else { CpuDtype::Auto },
            "--kv-dtype" => arguments.kv_dtype = Some(KvDtype::named(&value).ok_or("float32 or float16?")?),
            "--isa" => arguments.isa = Isa::available().into_iter().find(|isa| isa.to_string().eq_ignore_ascii_case(&value)),
            _ => {
                return Err(format!(
                    "{name} is none of --threads, --dtype, --prompt, --tokens, --rows, --repeats, --isa, --kv-dtype"
                )
                .into());
            }
        }
    }
    Ok(arguments)
}

fn main() -> Result<(), Box<dyn Error>> {
    let Arguments { model, threads, prompt, tokens, rows, repeats, kv_dtype, isa, dtype } = arguments()?;
    let assets = engine_assets::open(&model)?;
    let options = CpuOptions {
        threads,
        kv: KvSize::Blocks(rows * (prompt + tokens).div_ceil(16)),
        slots: rows,
        batch_tokens: (rows * prompt).max(512),
        isa,
        kv_dtype,
        dtype,
        ..CpuOptions::default()
    };
    let loading = Instant::now();
    let mut backend = CpuBackend::load(&assets, &options, &mut |_, _| {})?;
    eprintln!("loaded in {} ms: {} threads, {}", loading.elapsed().as_millis(), backend.threads(), backend.isa());
    let blocks = (prompt + tokens).div_ceil(16);
    let vocabulary = backend.capacity().vocabulary;
    let batch = |start: usize, len: usize| {
        let mut batch = Batch::default();
        for row in 0..rows {
            let input = if start < prompt {
                let first = batch.tokens.len();
                batch.tokens.extend((0..len).map(|i| ((start + i) * 7919 + row * 104_729) as u32 % vocabulary as u32));
                Input::Tokens(first..first + len)
            } else {
                Input::Last
            };
            let table: Vec<BlockId> = (0..blocks).map(|block| BlockId((row * blocks + block) as u32)).collect();
            batch.tables.replace(Slot(row as u32), 0, &table);
            let sample = Some(Sample { sampling: Sampling::GREEDY, index: 0, state: None });
            batch.rows.push(Row {
                slot: Slot(row as u32),
                input,
                start: start as u32,
                sample,
                drafts: 0,
                scored: None,
                adapter: None,
            });
        }
        batch
    };
    let mut sampled = Outcomes::default();
    let mut step = |batch: &Batch| -> Result<[f64; 2], Box<dyn Error>> {
        let (began, cpu_began) = (Instant::now(), cpu_s());
        let ticket = backend.launch(batch)?;
        backend.settle(ticket, &mut sampled)?;
        sampled.clear();
        Ok([began.elapsed().as_secs_f64(), cpu_s() - cpu_began])
    };
    for _ in 0..repeats {
        let prefill_s = step(&batch(0, prompt))?;
        let mut decode_s = [0.0; 2];
        for token in 0..tokens {
            let step_s = step(&batch(prompt + token, 1))?;
            decode_s = [decode_s[0] + step_s[0], decode_s[1] + step_s[1]];
        }
        let [prefill, prefill_cpu] = prefill_s.map(|s| (rows * prompt) as f64 / s);
        let [decode, decode_cpu] = decode_s.map(|s| (rows * tokens) as f64 / s);
        println!(
            "{{\"prompt\":{prompt},\"tokens\":{tokens},\"rows\":{rows},\"prefill_tok_s\":{prefill:.1},\"decode_tok_s\":{decode:.1},\
             \"prefill_tok_per_cpu_s\":{prefill_cpu:.1},\"decode_tok_per_cpu_s\":{decode_cpu:.1}}}"
        );
    }
    Ok(())
}

/// Processor time of all of this process's threads.
fn cpu_s() -> f64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the structure is ours; the call fails for no clock that Linux has.
    unsafe { libc::clock_gettime(libc::CLOCK_PROCESS_CPUTIME_ID, &mut time) };
    time.tv_sec as f64 + time.tv_nsec as f64 * 1e-9
}
