//! The ORCA load report: a router that asks with `endpoint-load-metrics-format: TEXT` or `JSON` gets the engine's load beside the answer
//! (xDS `orca_load_report.proto`; names and order of vLLM 0.33). Streams carry it too, as of their head.

use axum::response::Response;
use http::{HeaderMap, HeaderName, HeaderValue};

use super::answer::ApiError;
use crate::edge::app::App;

const ASKED: &str = "endpoint-load-metrics-format";
const REPORT: HeaderName = HeaderName::from_static("endpoint-load-metrics");

/// Adds the report to an answer whose request asked for one. A format that does not exist is passed over.
pub fn report(app: &App, headers: &HeaderMap, answered: Result<Response, ApiError>) -> Result<Response, ApiError> {
    let mut response = answered?;
    if let Some(value) = headers.get(ASKED).and_then(|format| value(app, format.to_str().ok()?)) {
        response.headers_mut().insert(REPORT, value);
    }
    Ok(response)
}

fn value(app: &App, format: &str) -> Option<HeaderValue> {
    let stats = app.stats()?;
    let usage = stats.used_blocks as f64 / stats.total_blocks.max(1) as f64;
    let waiting = stats.waiting as f64;
    let text = if format.eq_ignore_ascii_case("text") {
        format!("TEXT named_metrics.num_requests_waiting={waiting:?}, named_metrics.kv_cache_usage_perc={usage:?}")
    } else if format.eq_ignore_ascii_case("json") {
        format!("JSON {{\"named_metrics\": {{\"num_requests_waiting\": {waiting:?}, \"kv_cache_usage_perc\": {usage:?}}}}}")
    } else {
        return None;
    };
    HeaderValue::from_str(&text).ok()
}
