//! Where a request is prepared: parsed, checked, tokenised, hashed and queued. A short one takes a millisecond at most and is done at
//! once; a long one goes to a thread of its own, so that other connections go on.

use std::sync::Arc;

use http::StatusCode;

use super::answer::ApiError;
use crate::edge::app::App;

/// Bodies up to this size are handled where they are.
const INLINE_BYTES_MAX: usize = 4 << 10;

/// Runs `work` for a request whose body has `bytes`. No more long ones run at once than there are processors.
pub async fn run<T: Send + 'static>(
    app: &Arc<App>,
    bytes: usize,
    work: impl FnOnce(&App) -> Result<T, ApiError> + Send + 'static,
) -> Result<T, ApiError> {
    if bytes <= INLINE_BYTES_MAX {
        return work(app);
    }
    let _place = app.workers.acquire().await;
    let app = Arc::clone(app);
    let done = tokio::task::spawn_blocking(move || work(&app)).await;
    done.unwrap_or_else(|_| Err(failed()))
}

/// A defect in one request is that request's alone.
pub fn failed() -> ApiError {
    ApiError::new(StatusCode::INTERNAL_SERVER_ERROR, "The server failed on this request; its log says where.")
}
