//! What tokenising a chat of 100,000 tokens takes, cold and at its next turn, beside Hugging Face's library alone.
//!
//!     cargo bench -p engine-text --bench encode [-- FOLDER]      FOLDER holds a tokenizer.json; default: the tiny Llama of the tests

use std::error::Error;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

use engine_text::{ChatRequest, Text};
use serde_json::{Value, json};
use tokenizers::Tokenizer;

const PROMPT_TOKENS: usize = 100_000;
const TURN_WORDS: usize = 300;
const ROUNDS: usize = 7;

/// Words of the repository's own text, in turns.
fn turn(words: &[&str], number: usize) -> Value {
    let text: Vec<&str> =
        (0..TURN_WORDS).map(|at| words[(number * TURN_WORDS * 7 + at * (1 + number % 5)) % words.len()]).collect();
    json!({"role": if number.is_multiple_of(2) { "user" } else { "assistant" }, "content": text.join(" ")})
}

/// The median of what `run` takes.
fn median(
    mut run: impl FnMut(usize) -> Result<Duration, Box<dyn Error + Send + Sync>>,
) -> Result<Duration, Box<dyn Error + Send + Sync>> {
    let mut times = (0..ROUNDS).map(&mut run).collect::<Result<Vec<_>, _>>()?;
    times.sort();
    Ok(times[ROUNDS / 2])
}

fn main() -> Result<(), Box<dyn Error + Send + Sync>> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let folder = std::env::args().skip(1).find(|argument| !argument.starts_with("--")).map(PathBuf::from);
    let tiny = root.join("tests/fixtures/models/llama");
    let folder = folder.unwrap_or_else(|| tiny.clone());
    // All but the tokenizer is the tiny model's: templates cost the same for all.
    let mut assets = engine_assets::open(&tiny)?.text;
    let json = std::fs::read(folder.join("tokenizer.json"))?;
    assets.tokenizer = engine_assets::TokenizerSource::HuggingFace(json.clone());
    let library = Tokenizer::from_bytes(&json)?;
    let corpus = std::fs::read_to_string(root.join("docs/ARCHITECTURE.md"))? + &std::fs::read_to_string(root.join("README.md"))?;
    let words: Vec<&str> = corpus.split_whitespace().collect();
    let text = Text::new(&assets)?;
    let render = |turns: &[Value]| text.render_chat(&ChatRequest::new(turns, SystemTime::UNIX_EPOCH));
    let mut turns: Vec<Value> = Vec::new();
    while turns.len().is_multiple_of(2) || text.encode(&render(&turns)?, false)?.len() < PROMPT_TOKENS {
        for _ in 0..1 + turns.len() / 8 * 2 {
            turns.push(turn(&words, turns.len()));
        }
    }
    let prompt = render(&turns)?;
    let tokens = text.encode(&prompt, false)?.len();

    // Every round another prompt, which both see for the first time; the words in it both have seen.
    let mut colder = Vec::with_capacity(ROUNDS);
    let alone = median(|round| {
        let other: Vec<Value> = (0..turns.len()).map(|number| turn(&words, number + (round + 1) * 1009)).collect();
        let prompt = render(&other)?;
        if round == 0 {
            library.encode_fast(prompt.as_str(), false)?;
        }
        let start = Instant::now();
        std::hint::black_box(library.encode_fast(prompt.as_str(), false)?);
        let alone = start.elapsed();
        let start = Instant::now();
        std::hint::black_box(text.encode(&prompt, false)?);
        colder.push(start.elapsed());
        Ok(alone)
    })?;
    colder.sort();
    let cold = colder[ROUNDS / 2];
    text.encode(&prompt, false)?;
    let mut rendering = Vec::new();
    let next = median(|_| {
        turns.extend([turn(&words, turns.len()), turn(&words, turns.len() + 1)]);
        let start = Instant::now();
        let prompt = render(&turns)?;
        rendering.push(start.elapsed());
        let start = Instant::now();
        std::hint::black_box(text.encode(&prompt, false)?);
        Ok(start.elapsed())
    })?;
    rendering.sort();
    let ms = |time: Duration| time.as_secs_f64() * 1e3;
    println!("{tokens} tokens, {} bytes, {} turns of {}", prompt.len(), turns.len(), folder.display());
    println!(
        "the library alone {:.1} ms; cold {:.1} ms, {:.2} of it",
        ms(alone),
        ms(cold),
        cold.as_secs_f64() / alone.as_secs_f64()
    );
    println!("next turn: rendered in {:.2} ms, encoded in {:.2} ms; {:?}", ms(rendering[ROUNDS / 2]), ms(next), text.recall());
    Ok(())
}
