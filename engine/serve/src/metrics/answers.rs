//! `http_requests_total{handler, method, status}` in the form of prometheus-fastapi-instrumentator, which vLLM uses: statuses by class.

use prometheus::{IntCounter, IntCounterVec, Opts};

use super::Maker;

/// Routes that are counted by name, with the method that they take; whatever else is asked for is `none`.
const HANDLERS: [(&str, &str); 16] = [
    ("/v1/chat/completions", "POST"),
    ("/v1/completions", "POST"),
    ("/v1/responses", "POST"),
    ("/v1/messages", "POST"),
    ("/v1/messages/count_tokens", "POST"),
    ("/inference/v1/generate", "POST"),
    ("/v1/chat/completions/render", "POST"),
    ("/v1/completions/render", "POST"),
    ("/v1/messages/render", "POST"),
    ("/v1/models", "GET"),
    ("/tokenize", "POST"),
    ("/detokenize", "POST"),
    ("/health", "GET"),
    ("/metrics", "GET"),
    ("/kv_event_sources", "GET"),
    ("none", "none"),
];
const STATUSES: [&str; 3] = ["2xx", "4xx", "5xx"];

/// A counter for every pair.
pub struct Answers([[IntCounter; STATUSES.len()]; HANDLERS.len()]);

impl Answers {
    pub fn new(make: &Maker<'_>) -> Self {
        let opts = Opts::new("http_requests_total", "HTTP requests by handler and class of status.");
        let family = make.held(IntCounterVec::new(opts, &["handler", "method", "status"]));
        Self(HANDLERS.map(|(handler, method)| STATUSES.map(|status| family.with_label_values(&[handler, method, status]))))
    }

    pub fn count(&self, path: Option<&str>, status: u16) {
        let handler = HANDLERS.iter().position(|(known, _)| Some(*known) == path).unwrap_or(HANDLERS.len() - 1);
        let class = match status {
            ..400 => 0,
            400..500 => 1,
            _ => 2,
        };
        self.0[handler][class].inc();
    }
}
