//! The client's side of a load: every request and what became of it, so that "none failed" is counted where it is felt.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use serde_json::{Value, json};
use tokio::task::JoinSet;

use crate::http::{Answer, Http};

/// One request that a load sends.
#[derive(Clone, Debug)]
pub struct Shot {
    pub user: String,
    pub stream: bool,
    pub tokens_max: u32,
}

impl Shot {
    pub fn body(&self) -> Value {
        json!({
            "model": "builtin",
            "messages": [{ "role": "user", "content": self.user }],
            "max_tokens": self.tokens_max,
            "temperature": 0,
            "stream": self.stream,
        })
    }
}

/// What became of one request.
#[derive(Debug)]
pub enum Fate {
    /// Its text, and the answer it came in.
    Answered(String, Answer),
    /// Failed before a byte of its answer was there.
    Refused(String),
    /// Began and broke off, or ended with an error event.
    Broken(String),
}

impl Fate {
    fn of(answer: Result<Answer, String>) -> Self {
        match answer {
            Err(error) => Self::Refused(error),
            Ok(answer) if !answer.status.is_success() => Self::Refused(format!("{}: {}", answer.status, answer.text())),
            Ok(answer) if answer.text().contains("{\"error\"") => Self::Broken(answer.text()),
            Ok(answer) => Self::Answered(answer.content(), answer),
        }
    }
}

/// Counts of fates, for assertions and panics.
pub fn summary(fates: &[Fate]) -> BTreeMap<&'static str, usize> {
    let mut counts = BTreeMap::new();
    for fate in fates {
        let name = match fate {
            Fate::Answered(..) => "answered",
            Fate::Refused(_) => "refused",
            Fate::Broken(_) => "broken",
        };
        *counts.entry(name).or_insert(0) += 1;
    }
    counts
}

/// Sends all shots, `at_once` of them open at any time, and gives their fates in order. `done` counts finished ones, so that a test
/// can act in the midst of the load.
pub async fn fire(url: &str, shots: &[Shot], at_once: usize, done: Arc<AtomicUsize>) -> Vec<Fate> {
    let next = Arc::new(AtomicUsize::new(0));
    let shots: Arc<[Shot]> = shots.into();
    let mut lanes = JoinSet::new();
    for _ in 0..at_once {
        let (next, shots, done, url, http) = (next.clone(), shots.clone(), done.clone(), url.to_owned(), Http::default());
        lanes.spawn(async move {
            let mut fates = Vec::new();
            loop {
                let i = next.fetch_add(1, Ordering::Relaxed);
                let Some(shot) = shots.get(i) else { return fates };
                fates.push((i, Fate::of(http.post(&url, &shot.body()).await)));
                done.fetch_add(1, Ordering::Relaxed);
            }
        });
    }
    let mut fates: Vec<(usize, Fate)> = lanes.join_all().await.into_iter().flatten().collect();
    fates.sort_by_key(|(i, _)| *i);
    fates.into_iter().map(|(_, fate)| fate).collect()
}
