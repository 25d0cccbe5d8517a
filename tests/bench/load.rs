//! Open-loop load: requests leave at their time, whether or not earlier ones came back.

use std::time::Duration;

use serde_json::Value;
use tests::http::Http;
use tokio::task::JoinSet;
use tokio::time::{Instant, interval_at};

/// Sends `count` requests at `per_second` and gives the times to first byte in µs. Any failure ends the benchmark.
pub async fn first_byte_us(http: &Http, url: &str, per_second: u32, count: usize, body: impl Fn(usize) -> Value) -> Vec<f64> {
    let mut ticks = interval_at(Instant::now(), Duration::from_secs(1) / per_second);
    let mut open = JoinSet::new();
    for i in 0..count {
        ticks.tick().await;
        let (http, url, body) = (http.clone(), url.to_owned(), body(i));
        open.spawn(async move {
            let answer = http.post(&url, &body).await.unwrap_or_else(|error| panic!("{url}: {error}"));
            assert!(answer.status.is_success(), "{url}: {} {}", answer.status, answer.text());
            answer.first_byte.as_secs_f64() * 1e6
        });
    }
    open.join_all().await
}
