//! `X-data-parallel-rank`: which data-parallel rank a router means. This engine is one rank; a request for another has gone astray.

use http::HeaderMap;

use super::answer::ApiError;
use crate::edge::app::App;

const HEADER: &str = "x-data-parallel-rank";

/// Refuses a rank that is not this engine's own, or 0: a server of one rank counts it so whatever its place among others. As in vLLM,
/// a header that is no number is nothing.
pub fn check(app: &App, headers: &HeaderMap) -> Result<(), ApiError> {
    let asked = headers.get(HEADER).and_then(|value| value.to_str().ok()?.trim().parse::<i64>().ok());
    match asked {
        Some(rank) if rank != 0 && rank != i64::from(app.data_parallel_rank) => {
            let message = format!("X-data-parallel-rank is {rank}; this engine is rank {}.", app.data_parallel_rank);
            Err(ApiError::parameter("data_parallel_rank", message))
        }
        _ => Ok(()),
    }
}
