//! Log probabilities, in the three forms that clients know: chat's, completions', and vLLM's own for prompts.

use std::collections::BTreeMap;

use serde::Serialize;
use serde_json::{Map, Value};

/// Chat: one entry a token.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct ChatLogprobs {
    pub content: Vec<ChatLogprob>,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ChatLogprob {
    pub token: String,
    pub logprob: f32,
    /// The token's text as UTF-8.
    pub bytes: Option<Vec<u8>>,
    pub top_logprobs: Vec<TopLogprob>,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct TopLogprob {
    pub token: String,
    pub logprob: f32,
    pub bytes: Option<Vec<u8>>,
}

/// Completions: four lists of equal length.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct CompletionLogprobs {
    /// Where each token's text begins, in characters from the start of the choice's text.
    pub text_offset: Vec<usize>,
    pub token_logprobs: Vec<Option<f32>>,
    pub tokens: Vec<String>,
    /// By token text; `null` for the first token of an echoed prompt.
    pub top_logprobs: Vec<Option<Map<String, Value>>>,
}

/// One entry a prompt token, by token id; `null` for the first, which nothing comes before.
pub type PromptLogprobs = Vec<Option<BTreeMap<u32, PromptLogprob>>>;

#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct PromptLogprob {
    pub logprob: f32,
    /// 1 is the most likely token.
    pub rank: Option<u32>,
    pub decoded_token: Option<String>,
}
