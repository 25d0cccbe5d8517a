//! What gateway and scheduler add to the time to first byte: 500 requests a second of 200-token prompts, reused connections, one fake
//! engine; through the gateway, then straight to the engine, alternated.

use serde_json::{Value, json};
use tests::http::Http;

use crate::fleet::Fleet;
use crate::load::first_byte_us;
use crate::report::{Figure, Machine, quantile};

const PER_SECOND: u32 = 500;
const COUNT: usize = 2_500;
const PAIRS: usize = 9;

pub fn run() -> Figure {
    let machine = Machine::look();
    let mut fleet = Fleet::start(", args: [--backend, fake, --prefill-tok-s, \"10000000\", --step-ms, \"0\"]");
    let gateway = fleet.scheduler.address("/gateway");
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("a runtime");
    let samples = runtime.block_on(async {
        let http = Http::default();
        let engine = fleet.engine(&http).await;
        let url = |address: &str| format!("http://{address}/v1/chat/completions");
        let mut pairs = Vec::new();
        for pair in 0..=PAIRS {
            let body = |i: usize| chat(pair * COUNT + i);
            let through = first_byte_us(&http, &url(&gateway), PER_SECOND, COUNT, body).await;
            let alone = first_byte_us(&http, &url(&engine), PER_SECOND, COUNT, body).await;
            // The first pair warms caches and connections.
            if pair > 0 {
                pairs.push((through, alone));
            }
        }
        pairs
    });
    let through: Vec<f64> = samples.iter().flat_map(|pair| pair.0.iter().copied()).collect();
    let alone: Vec<f64> = samples.iter().flat_map(|pair| pair.1.iter().copied()).collect();
    Figure {
        name: "gateway: p50 of time to first byte, through it minus engine alone",
        samples: samples.iter().map(|(through, alone)| quantile(through, 0.5) - quantile(alone, 0.5)).collect(),
        unit: "µs",
        bar: "≤ 300".into(),
        beside: vec![
            ("through, p50 µs".into(), quantile(&through, 0.5)),
            ("through, p99 µs".into(), quantile(&through, 0.99)),
            ("engine alone, p50 µs".into(), quantile(&alone, 0.5)),
            ("engine alone, p99 µs".into(), quantile(&alone, 0.99)),
        ],
        machine,
    }
}

/// A chat of about 200 tokens that no other request shares more than its first words with.
fn chat(i: usize) -> Value {
    let words = ["train", "track", "signal", "switch", "engine", "node", "block", "token", "cache", "queue"];
    let text: String = (0..85).map(|k| words[(i * 7919 + k * k * 31 + k * i) % words.len()].to_owned() + " ").collect();
    json!({ "model": "builtin", "messages": [{ "role": "user", "content": format!("{i} {text}") }], "max_tokens": 2, "stream": true })
}
