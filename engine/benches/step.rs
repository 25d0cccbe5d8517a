//! Host time of the engine's step, apart from any computing: `cargo bench -p engine --bench step`.
//!
//! The device is one that computes nothing, so that what is measured is admission, planning, the batch, settling and the prefix
//! cache. Prints one line per case: requests running, tokens of context, medians and quartiles of microseconds per step.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use domain::ExtraKeys;
use engine::backend::{Backend, Batch, Capacity, DeviceError, Outcomes, Sampled, Ticket};
use engine::config::Config;
use engine::request::{FinishRules, NewRequest, Output, Sampling};
use engine::step::{Engine, Ports};

const ROUNDS: usize = 7;
const STEPS: usize = 1000;

/// Yields the same token for every row, at once, one step late.
struct Nothing {
    capacity: Capacity,
    launched: std::collections::VecDeque<(u64, Outcomes)>,
    spare: Vec<Outcomes>,
    tickets: u64,
}

impl Backend for Nothing {
    fn capacity(&self) -> Capacity {
        self.capacity
    }

    fn lag(&self) -> usize {
        1
    }

    fn launch(&mut self, batch: &Batch) -> Result<Ticket, DeviceError> {
        let mut sampled = self.spare.pop().unwrap_or_default();
        sampled.clear();
        let sampling = batch.rows.iter().filter(|row| row.sample.is_some());
        sampled.sampled.extend(sampling.map(|row| Sampled::plain(row.slot, 1)));
        self.tickets += 1;
        self.launched.push_back((self.tickets, sampled));
        Ok(Ticket(self.tickets))
    }

    fn settle(&mut self, ticket: Ticket, out: &mut Outcomes) -> Result<(), DeviceError> {
        let (launched, mut sampled) = self.launched.pop_front().expect("a batch is in flight");
        assert_eq!(launched, ticket.0);
        out.sampled.append(&mut sampled.sampled);
        self.spare.push(sampled);
        Ok(())
    }
}

/// Microseconds per step while `running` requests decode behind prompts of `prompt_tokens`.
fn decode_step_us(running: usize, prompt_tokens: usize) -> f64 {
    let context_length = prompt_tokens + STEPS + 64;
    let kv_blocks = running * context_length.div_ceil(16);
    let capacity = Capacity {
        vocabulary: 32_000,
        context_length,
        block_tokens: 16,
        kv_blocks,
        slots: running,
        batch_tokens: 8192,
        logit_rows: running,
    };
    let nothing = Nothing { capacity, launched: Default::default(), spare: Vec::new(), tickets: 0 };
    let config = Config { pinned_blocks_max: 0, ..Config::for_device(&capacity) };
    let (mut engine, handle) =
        Engine::new(Box::new(nothing), config, Ports::new(Instant::now)).expect("the limits suit the device");
    let (tokens, begun) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
    for request in 0..running as u32 {
        let (seen, begins, mut first) = (Arc::clone(&tokens), Arc::clone(&begun), true);
        let sink = move |output: Output| {
            if let Output::Token { .. } = output {
                seen.fetch_add(1, Ordering::Relaxed);
                begins.fetch_add(u64::from(std::mem::take(&mut first)), Ordering::Relaxed);
            }
            true
        };
        let request = NewRequest {
            prompt: (0..prompt_tokens as u32).map(|i| (i + request * 7) % 32_000).collect(),
            extra: ExtraKeys::default(),
            sampling: Sampling::GREEDY,
            extras: None,
            mask: None,
            finish: FinishRules { tokens_max: u32::MAX, eos: vec![2], stop: Vec::new(), repetition: None },
            priority: 0,
            kv_transfer: None,
            remote_kv: false,
            arrived: Instant::now(),
            sink: Box::new(sink),
        };
        handle.submit(request).expect("there is room");
    }
    // Until all have their first token.
    while begun.load(Ordering::Relaxed) < running as u64 {
        engine.step().expect("the device does not fail");
    }
    let (before, began) = (tokens.load(Ordering::Relaxed), Instant::now());
    for _ in 0..STEPS / 2 {
        engine.step().expect("the device does not fail");
    }
    let seconds = began.elapsed().as_secs_f64();
    assert_eq!(
        tokens.load(Ordering::Relaxed) - before,
        (running * (STEPS / 2)) as u64,
        "every request got a token in every step"
    );
    seconds * 1e6 / (STEPS / 2) as f64
}

/// Requests running and prompt tokens of the cases, unless the command line names one: `cargo bench -p engine --bench step -- 256 128`.
const CASES: [(usize, usize); 5] = [(1, 128), (64, 128), (256, 128), (256, 1024), (1000, 1024)];

fn main() {
    let named: Vec<usize> = std::env::args().skip(1).filter_map(|argument| argument.parse().ok()).collect();
    let cases = match named[..] {
        [running, prompt_tokens] => vec![(running, prompt_tokens)],
        _ => CASES.to_vec(),
    };
    for (running, prompt_tokens) in cases {
        let mut us: Vec<f64> = (0..ROUNDS).map(|_| decode_step_us(running, prompt_tokens)).collect();
        us.sort_by(f64::total_cmp);
        let [low, median, high] = [1, 3, 5].map(|quartile| us[quartile]);
        println!("{running:5} running, {prompt_tokens:5} tokens: {median:8.1} µs per step ({low:.1} to {high:.1})");
    }
}
