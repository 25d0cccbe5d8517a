//! What structured outputs cost: `masks [MODEL] [--threads N] [--tokens N]`.
//!
//! First the mask alone, over a made-up vocabulary of 128,256 tokens: outputs of some schemas are walked at random, and each form prints
//! its time to compile, and quartiles of the microseconds that a token's mask takes and of those that putting it on the logits takes. Then,
//! with a MODEL, decoding of 1 and of 16 requests without and with a schema, in alternation: tokens per second and the ratio's quartiles.

use std::error::Error;
use std::sync::{Arc, Mutex};
use std::time::Instant;

use engine::backend::Backend;
use engine::config::Config;
use engine::request::{FinishRules, NewRequest, Output, Sampling};
use engine::sample::{Accepted, LogitMask, SharedState};
use engine::step::{Activity, Engine, Ports};
use engine_assets::{ModelAssets, SpecialToken, TextAssets, TokenizerSource};
use engine_cpu::{CpuBackend, CpuOptions, KvSize};
use engine_serve::masks::{Guide, Guides, Spec};
use engine_text::Text;
use serde_json::{Map, Value, json};

/// As large as that of Llama 3.
const VOCABULARY: usize = 128_256;
const END: u32 = 128_000;
/// Rounds of each comparison; the first warms up.
const ROUNDS: usize = 5;

fn main() -> Result<(), Box<dyn Error>> {
    let (mut model, mut threads, mut tokens) = (None, None, 96);
    let mut given = std::env::args().skip(1);
    while let Some(argument) = given.next() {
        match argument.as_str() {
            "--threads" => threads = Some(given.next().ok_or("--threads wants a number")?.parse()?),
            "--tokens" => tokens = given.next().ok_or("--tokens wants a number")?.parse()?,
            _ => model = Some(argument),
        }
    }
    let text = Text::new(&made_up())?;
    let begun = Instant::now();
    let guides = Guides::start(text.clone(), VOCABULARY, vec![END]);
    for (name, form) in forms() {
        mask(&guides, &text, name, &form, begun)?;
    }
    match model {
        Some(model) => decode(&model, threads, tokens),
        None => Ok(()),
    }
}

fn runtime() -> std::io::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_current_thread().enable_time().build()
}

/// Requests' forms, each of another kind.
fn forms() -> Vec<(&'static str, Value)> {
    let person = json!({"type": "object", "properties": {
        "name": {"type": "string", "maxLength": 40}, "age": {"type": "integer", "minimum": 0, "maximum": 130},
        "mail": {"type": "string", "pattern": "^[a-z]{1,12}@[a-z]{1,12}\\.org$"}, "tags": {"type": "array", "items": {"enum": ["a", "b", "c"]}, "maxItems": 5},
    }, "required": ["name", "age", "mail", "tags"], "additionalProperties": false});
    let fields: Map<String, Value> =
        (0..40).map(|i| (format!("field_{i}"), json!({"type": ["string", "null"], "maxLength": 20}))).collect();
    let wide = json!({"type": "object", "required": fields.keys().collect::<Vec<_>>(), "properties": fields, "additionalProperties": false});
    vec![
        ("small object", json!({"json": person})),
        ("40 fields", json!({"json": wide})),
        ("any JSON object", json!({"json_object": true})),
        ("expression", json!({"regex": "[A-Z][a-z]+( [a-z]{2,9}){6,40}\\."})),
        ("1000 choices", json!({"choice": (0..1000).map(|i| format!("station {i} of the northern line")).collect::<Vec<_>>()})),
    ]
}

/// One form's figures.
fn mask(guides: &Guides, text: &Text, name: &str, form: &Value, begun: Instant) -> Result<(), Box<dyn Error>> {
    let spec = Spec::of_request(None, Some(form))?.ok_or("a form")?;
    // The first waits for the vocabulary to be laid out.
    let (asked, laid_out) = (Instant::now(), begun.elapsed());
    let compiled = runtime()?.block_on(guides.compile(&spec)).map_err(|error| error.to_string())?;
    let compile_ms = asked.elapsed().as_secs_f64() * 1e3;
    let (mut mask_us, mut apply_us) = (Vec::new(), Vec::new());
    let mut logits = vec![0.0f32; VOCABULARY];
    let mut random = 88_172_645_463_325_252u64;
    for _ in 0..8 {
        let mut guide = Guide::new(guides, &compiled, text, VOCABULARY, None);
        for _ in 0..200 {
            let began = Instant::now();
            guide.begin();
            let words = guide.join()?;
            mask_us.push(began.elapsed().as_secs_f64() * 1e6);
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            let allowed: u32 = words.iter().map(|word| word.count_ones()).sum();
            let mut left = (random % u64::from(allowed.max(1))) as u32;
            let token = (0..VOCABULARY as u32).find(|token| {
                let bit = words[*token as usize / 32] >> (token % 32) & 1;
                let found = bit == 1 && left == 0;
                left -= bit.min(left);
                found
            });
            if token.is_none_or(|token| token == END) || guide.accept(token.unwrap_or_default())? == Accepted::Ended {
                break;
            }
        }
        // On the logits: what a step pays whatever thread made the mask.
        let guide = Guide::new(guides, &compiled, text, VOCABULARY, None);
        let state = SharedState::new(None, Some(Box::new(guide)), &FinishRules::default(), &[]).ok_or("a state")?;
        let mut state = state.lock();
        state.mask(&mut logits)?;
        let began = Instant::now();
        state.mask(&mut logits)?;
        apply_us.push(began.elapsed().as_secs_f64() * 1e6);
    }
    let (mask, apply) = (quartiles(&mut mask_us), quartiles(&mut apply_us));
    println!(
        "{{\"form\":\"{name}\",\"vocabulary\":{VOCABULARY},\"begun_ms\":{:.0},\"compile_ms\":{compile_ms:.2},\"masks\":{},\"mask_us\":{mask:.1?},\
         \"mask_us_max\":{:.0},\"apply_us\":{apply:.1?}}}",
        laid_out.as_secs_f64() * 1e3,
        mask_us.len(),
        mask_us.last().copied().unwrap_or_default(),
    );
    Ok(())
}

/// Sorts and gives the quartiles.
fn quartiles(values: &mut [f64]) -> [f64; 3] {
    values.sort_by(f64::total_cmp);
    [1, 2, 3].map(|quartile| values[quartile * (values.len() - 1) / 4])
}

/// A vocabulary that is spread as real ones are: bytes, then words of one to four syllables, with and without a space before them.
fn made_up() -> TextAssets {
    let alphabet: Vec<char> = (33..=126u32).chain(161..=172).chain(174..=255).filter_map(char::from_u32).collect();
    let hidden = (256 - alphabet.len() as u32..=255).filter_map(|n| char::from_u32(256 + n - (256 - alphabet.len() as u32)));
    let mut words: Vec<String> = alphabet.iter().copied().chain(hidden).map(String::from).collect();
    let syllables: Vec<String> =
        "bcdfghjklmnprstvwz".chars().flat_map(|c| "aeiou".chars().map(move |v| format!("{c}{v}"))).collect();
    let mut at = 0usize;
    let mut seen: std::collections::HashSet<String> = words.iter().cloned().collect();
    while words.len() < END as usize {
        at += 1;
        let mut number = at.wrapping_mul(2_654_435_761) % 200_000_000;
        let mut word = if number.is_multiple_of(2) { "\u{120}".to_owned() } else { String::new() };
        for _ in 0..1 + number % 4 {
            word += &syllables[number % syllables.len()];
            number /= syllables.len();
        }
        if seen.insert(word.clone()) {
            words.push(word);
        }
    }
    let vocabulary: Map<String, Value> = words.into_iter().zip(0u32..).map(|(word, id)| (word, id.into())).collect();
    let tokenizer = json!({
        "version": "1.0", "truncation": null, "padding": null, "normalizer": null, "post_processor": null,
        "added_tokens": [{"id": END, "content": "<|end|>", "single_word": false, "lstrip": false, "rstrip": false, "normalized": false, "special": true}],
        "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true},
        "decoder": {"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true},
        "model": {"type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null, "end_of_word_suffix": null,
                  "fuse_unk": false, "byte_fallback": false, "ignore_merges": false, "vocab": vocabulary, "merges": []},
    });
    TextAssets {
        tokenizer: TokenizerSource::HuggingFace(tokenizer.to_string().into_bytes()),
        chat_template: None,
        tool_template: None,
        template_kwargs: None,
        content_parts: None,
        bos: None,
        eos: Some(SpecialToken { text: "<|end|>".to_owned(), id: Some(END) }),
        pad: None,
        unk: None,
        add_bos: None,
        add_eos: None,
    }
}

fn decode(model: &str, threads: Option<usize>, tokens_max: u32) -> Result<(), Box<dyn Error>> {
    let assets = engine_assets::open(model.as_ref())?;
    let text = Text::new(&assets.text)?;
    let options = CpuOptions { threads, kv: KvSize::Blocks(512), slots: 16, context_length: Some(1024), ..CpuOptions::default() };
    let guides = Guides::start(text.clone(), assets.config.vocab_size, assets.generation.eos.clone());
    // Words without end, so that both runs make as many tokens.
    let form = json!({"json": {"type": "array", "items": {"type": "string", "minLength": 3, "maxLength": 20}, "minItems": 500}});
    let spec = Spec::of_request(None, Some(&form))?.ok_or("a form")?;
    let compiled = runtime()?.block_on(guides.compile(&spec)).map_err(|error| error.to_string())?;
    let prompt: Arc<[u32]> = text.encode("A list of the stations between the mountains and the sea, as JSON:", true)?.into();
    for requests in [1, 16] {
        let (mut ratios, mut plain_tok_s) = (Vec::new(), Vec::new());
        for round in 0..=ROUNDS {
            let run = |bound: bool| -> Result<f64, Box<dyn Error>> {
                let masks: Vec<_> = (0..requests)
                    .map(|_| {
                        bound.then(|| -> Box<dyn LogitMask> {
                            Box::new(Guide::new(&guides, &compiled, &text, assets.config.vocab_size, None))
                        })
                    })
                    .collect();
                tok_s(&assets, &options, &prompt, tokens_max, masks)
            };
            let (plain, bound) = (run(false)?, run(true)?);
            if round > 0 {
                ratios.push(bound / plain);
                plain_tok_s.push(plain);
            }
        }
        println!(
            "{{\"requests\":{requests},\"vocabulary\":{},\"tok_s\":{:.1},\"ratio\":{:.3?}}}",
            assets.config.vocab_size,
            quartiles(&mut plain_tok_s)[1],
            quartiles(&mut ratios)
        );
    }
    Ok(())
}

/// Tokens per second of all requests together, from the first token of the last of them on.
fn tok_s(
    assets: &ModelAssets,
    options: &CpuOptions,
    prompt: &Arc<[u32]>,
    tokens_max: u32,
    masks: Vec<Option<Box<dyn LogitMask>>>,
) -> Result<f64, Box<dyn Error>> {
    let backend = CpuBackend::load(assets, options, &mut |_, _| {})?;
    let config = Config { pinned_blocks_max: 0, ..Config::for_device(&backend.capacity()) };
    let (mut engine, handle) = Engine::new(Box::new(backend), config, Ports::new(Instant::now))?;
    let seen: Arc<Mutex<Vec<u32>>> = Arc::new(Mutex::new(vec![0; masks.len()]));
    for (index, mask) in masks.into_iter().enumerate() {
        let seen = Arc::clone(&seen);
        let sink = move |output: Output| {
            if let (Output::Token { .. }, Ok(mut seen)) = (output, seen.lock()) {
                seen[index] += 1;
            }
            true
        };
        let sampling = Sampling { temperature: 0.7, seed: index as u64, ..Sampling::GREEDY };
        let finish = FinishRules { tokens_max, eos: Vec::new(), stop: Vec::new(), repetition: None };
        let mut request = NewRequest::new(Arc::clone(prompt), sampling, finish, Instant::now(), Box::new(sink));
        request.mask = mask;
        handle.submit(request)?;
    }
    let count = || seen.lock().map_or(0, |seen| seen.iter().sum::<u32>());
    while seen.lock().is_ok_and(|seen| seen.contains(&0)) {
        engine.step()?;
    }
    let (began, first) = (Instant::now(), count());
    while engine.step()? == Activity::Busy {}
    Ok(f64::from(count() - first) / began.elapsed().as_secs_f64())
}
