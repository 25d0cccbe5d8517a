//! What can go wrong between text and tokens, and whose fault it is.

/// An error of tokenizer, template or request.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TextError {
    /// The model's tokenizer is broken or of a kind that is not supported.
    #[error("the model's tokenizer cannot be used: {0}")]
    Tokenizer(String),
    /// Chat with a model that has no template.
    #[error("the model has no chat template; use /v1/completions, or pass chat_template")]
    NoChatTemplate,
    /// The template refused the messages, is broken, or asked for too much.
    #[error("the chat template failed: {0}")]
    Template(String),
    /// A part of the request is wrong.
    #[error("{place}: {what}")]
    Request {
        /// Such as `messages[1].tool_calls[0]`.
        place: String,
        what: String,
    },
}

impl TextError {
    pub(crate) fn request(place: impl Into<String>, what: impl Into<String>) -> Self {
        Self::Request { place: place.into(), what: what.into() }
    }

    /// Whether the client can mend it (HTTP 400); else the model is at fault.
    pub const fn is_client_error(&self) -> bool {
        match self {
            Self::Tokenizer(_) => false,
            Self::NoChatTemplate | Self::Template(_) | Self::Request { .. } => true,
        }
    }
}
