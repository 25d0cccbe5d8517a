//! `http_requests_total{handler, status}` in the form of prometheus-fastapi-instrumentator, which vLLM uses: statuses by class.

use prometheus::{IntCounter, IntCounterVec, Opts};

use super::Maker;

/// Routes that are counted by name; whatever else is asked for is `none`.
const HANDLERS: [&str; 8] =
    ["/v1/chat/completions", "/v1/completions", "/v1/models", "/tokenize", "/detokenize", "/health", "/metrics", "none"];
const STATUSES: [&str; 3] = ["2xx", "4xx", "5xx"];

/// A counter for every pair.
pub struct Answers([[IntCounter; STATUSES.len()]; HANDLERS.len()]);

impl Answers {
    pub fn new(make: &Maker<'_>) -> Self {
        let opts = Opts::new("http_requests_total", "HTTP requests by handler and class of status.");
        let family = make.held(IntCounterVec::new(opts, &["handler", "status"]));
        Self(HANDLERS.map(|handler| STATUSES.map(|status| family.with_label_values(&[handler, status]))))
    }

    pub fn count(&self, path: Option<&str>, status: u16) {
        let handler = HANDLERS.iter().position(|known| Some(*known) == path).unwrap_or(HANDLERS.len() - 1);
        let class = match status {
            ..400 => 0,
            400..500 => 1,
            _ => 2,
        };
        self.0[handler][class].inc();
    }
}
