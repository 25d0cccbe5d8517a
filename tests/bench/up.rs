//! How long `trackside up` with the built-in model takes from its start to the end of its first answer.

use std::time::{Duration, Instant};

use serde_json::json;
use tests::http::Http;
use tests::process::Process;

use crate::report::{Figure, Machine};

const RUNS: usize = 9;

pub fn run() -> Figure {
    let machine = Machine::look();
    let program = crate::trackside();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let mut samples = Vec::new();
    // The first run unpacks the model and warms the page cache; it counts like a user's second start.
    for run in 0..=RUNS {
        let begun = Instant::now();
        let mut up = Process::start(&program, &["up", "--json", "--any-port"]);
        let gateway = up.address("/gateway");
        let body = json!({ "model": "builtin", "messages": [{ "role": "user", "content": "Hello!" }], "max_tokens": 16 });
        let answer = runtime.block_on(async {
            let http = Http::default();
            loop {
                match http.post(&format!("http://{gateway}/v1/chat/completions"), &body).await {
                    Ok(answer) if answer.status.is_success() => break answer,
                    _ => tokio::time::sleep(Duration::from_millis(2)).await,
                }
            }
        });
        assert!(!answer.content().is_empty(), "an empty answer");
        if run > 0 {
            samples.push(begun.elapsed().as_secs_f64());
        }
        up.signal(rustix::process::Signal::INT);
        up.wait();
    }
    Figure {
        name: "up: start to first answer, built-in model",
        samples,
        unit: "s",
        bar: "≤ 1".into(),
        beside: Vec::new(),
        machine,
    }
}
