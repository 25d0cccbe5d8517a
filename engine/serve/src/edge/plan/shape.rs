//! How the answer looks.

use proto::openai::Request;

use super::Endpoint;
use crate::config::AnswerOptions;
use crate::edge::answer::ApiError;

/// Most tokens of one chunk.
const STREAM_INTERVAL_MAX: i64 = 1 << 20;

/// What an answer carries.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Shape {
    pub stream: bool,
    pub include_usage: bool,
    pub continuous_usage: bool,
    pub token_ids: bool,
    /// The prompt before the text (completions), or the last message (chat).
    pub echo: bool,
    /// The prompt's text is kept, for one reason or the other.
    pub prompt_text: bool,
    /// Chat: the rendered prompt is shown.
    pub returns_prompt_text: bool,
    /// Tokens of one chunk, at least 1.
    pub interval: u32,
    /// Usage says what the cache held.
    pub prompt_details: bool,
    pub metrics: bool,
}

impl Shape {
    pub fn new(endpoint: Endpoint, request: &Request, options: &AnswerOptions) -> Result<Self, ApiError> {
        let stream = request.stream.unwrap_or(false);
        if request.stream_options.is_some() && !stream {
            return Err(ApiError::parameter(
                "stream_options",
                "`stream_options` belongs to a stream; set `stream` to true or leave it out.",
            ));
        }
        let asked = request.stream_options.unwrap_or_default();
        let include_usage = options.force_include_usage || asked.include_usage.unwrap_or(false);
        let continuous = options.force_include_usage || asked.continuous_usage_stats.unwrap_or(false);
        let interval = match request.stream_interval.unwrap_or(1) {
            interval @ 1.. => interval.min(STREAM_INTERVAL_MAX) as u32,
            interval => {
                let message = format!("`stream_interval` is {interval}; it must be at least 1.");
                return Err(ApiError::parameter("stream_interval", message));
            }
        };
        let echo = request.echo.unwrap_or(false);
        let returns_prompt_text = endpoint == Endpoint::Chat && request.return_prompt_text.unwrap_or(false);
        Ok(Self {
            stream,
            include_usage,
            // As vLLM: usage on every chunk comes with the usage at the end.
            continuous_usage: include_usage && continuous,
            token_ids: request.return_token_ids.unwrap_or(false),
            echo,
            prompt_text: returns_prompt_text || (endpoint == Endpoint::Completion && echo),
            returns_prompt_text,
            interval,
            prompt_details: options.prompt_tokens_details,
            metrics: options.per_request_metrics,
        })
    }
}
