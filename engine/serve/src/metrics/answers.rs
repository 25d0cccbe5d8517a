//! HTTP answers in the names and buckets of prometheus-fastapi-instrumentator, which vLLM uses: statuses by class, durations to the last
//! byte. As there, questions that supervisors ask all the time are not counted.

use std::time::Instant;

use prometheus::{Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, Opts};

use super::Maker;

/// Routes that are counted by name, with the method that they take; whatever else is asked for is `none`.
const HANDLERS: [(&str, &str); 27] = [
    ("/v1/chat/completions", "POST"),
    ("/v1/completions", "POST"),
    ("/v1/responses", "POST"),
    ("/v1/responses/{response_id}", "GET"),
    ("/v1/responses/{response_id}/cancel", "POST"),
    ("/v1/messages", "POST"),
    ("/v1/messages/count_tokens", "POST"),
    ("/v1/embeddings", "POST"),
    ("/inference/v1/generate", "POST"),
    ("/inference/v1/abort_requests", "POST"),
    ("/invocations", "POST"),
    ("/v1/chat/completions/batch", "POST"),
    ("/v1/chat/completions/render", "POST"),
    ("/v1/completions/render", "POST"),
    ("/v1/messages/render", "POST"),
    ("/v1/responses/render", "POST"),
    ("/v1/chat/completions/derender", "POST"),
    ("/v1/completions/derender", "POST"),
    ("/v1/load_lora_adapter", "POST"),
    ("/v1/unload_lora_adapter", "POST"),
    ("/v1/models", "GET"),
    ("/tokenize", "POST"),
    ("/detokenize", "POST"),
    ("/tokenizer_info", "GET"),
    ("/kv_event_sources", "GET"),
    ("/trackside/v1/blocks", "GET"),
    ("none", "none"),
];
const NOT_COUNTED: [&str; 8] =
    ["/metrics", "/health", "/load", "/ping", "/version", "/server_info", "/readyz", "/trackside/v1/state"];
const STATUSES: [&str; 3] = ["2xx", "4xx", "5xx"];
/// Few buckets by handler, many over all.
const SECONDS: [f64; 3] = [0.1, 0.5, 1.0];
const SECONDS_FINE: [f64; 21] =
    [0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 1.5, 2.0, 2.5, 3.0, 3.5, 4.0, 4.5, 5.0, 7.5, 10.0, 30.0, 60.0];

/// Handles for every pair, so that an answer looks none up.
pub struct Answers {
    requests: [[IntCounter; STATUSES.len()]; HANDLERS.len()],
    seconds: [Histogram; HANDLERS.len()],
    seconds_fine: Histogram,
}

/// An answer whose body is on its way; its time is over when this is dropped.
pub struct Answering {
    began: Instant,
    seconds: [Histogram; 2],
}

impl Answers {
    pub fn new(make: &Maker<'_>) -> Self {
        let opts = Opts::new("http_requests_total", "HTTP requests by handler and class of status.");
        let requests = make.held(IntCounterVec::new(opts, &["handler", "method", "status"]));
        let opts = HistogramOpts::new("http_request_duration_seconds", "From a request's head to its answer's last byte.");
        let seconds = make.held(HistogramVec::new(opts.buckets(SECONDS.to_vec()), &["handler", "method"]));
        let opts = HistogramOpts::new("http_request_duration_highr_seconds", "The same, of all handlers, in finer buckets.");
        let seconds_fine = make.held(Histogram::with_opts(opts.buckets(SECONDS_FINE.to_vec())));
        Self {
            requests: HANDLERS
                .map(|(handler, method)| STATUSES.map(|status| requests.with_label_values(&[handler, method, status]))),
            seconds: HANDLERS.map(|(handler, method)| seconds.with_label_values(&[handler, method])),
            seconds_fine,
        }
    }

    /// Counts an answer of the route `path` to a request that came at `began`. `None`: it is not counted.
    pub fn count(&self, path: Option<&str>, status: u16, began: Instant) -> Option<Answering> {
        if path.is_some_and(|path| NOT_COUNTED.contains(&path)) {
            return None;
        }
        let handler = HANDLERS.iter().position(|(known, _)| Some(*known) == path).unwrap_or(HANDLERS.len() - 1);
        let class = match status {
            ..400 => 0,
            400..500 => 1,
            _ => 2,
        };
        self.requests[handler][class].inc();
        Some(Answering { began, seconds: [self.seconds[handler].clone(), self.seconds_fine.clone()] })
    }
}

impl Drop for Answering {
    fn drop(&mut self) {
        let seconds = self.began.elapsed().as_secs_f64();
        self.seconds.iter().for_each(|histogram| histogram.observe(seconds));
    }
}
