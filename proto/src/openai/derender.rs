//! Bodies of `/derender`: generated token ids that are to become an answer, as vLLM 0.33 takes them.

use serde::Deserialize;
use serde_json::Value;

use super::request::Request;

/// `POST /v1/chat/completions/derender`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct DerenderChat {
    pub stream: Option<bool>,
    pub model: Option<String>,
    pub generate_response: Option<Generated>,
    /// For the usage.
    pub prompt_tokens: Option<u32>,
    /// The prompt, or its end.
    pub prompt_token_ids: Option<Vec<i64>>,
    /// What was rendered.
    pub chat_request: Option<Request>,
}

/// `POST /v1/completions/derender`: lists go along with the prompts.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct DerenderCompletion {
    pub stream: Option<bool>,
    pub model: Option<String>,
    pub generate_responses: Option<Vec<Generated>>,
    pub prompt_tokens: Option<Vec<u32>>,
    pub prompt_token_ids: Option<Vec<Option<Vec<i64>>>>,
    pub completion_request: Option<Request>,
}

/// An answer of `/inference/v1/generate` in token ids.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct Generated {
    pub request_id: Option<String>,
    pub output_mode: Option<String>,
    pub choices: Vec<GeneratedChoice>,
    pub prompt_token_ids: Option<Vec<i64>>,
    pub prompt_logprobs: Option<Value>,
    pub kv_transfer_params: Option<Value>,
    pub metrics: Option<Value>,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct GeneratedChoice {
    pub index: u32,
    pub token_ids: Option<Vec<i64>>,
    pub logprobs: Option<GeneratedLogprobs>,
    pub finish_reason: Option<String>,
    pub stop_reason: Option<Value>,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct GeneratedLogprobs {
    pub content: Option<Vec<GeneratedLogprob>>,
}

/// Of one position: the token, and the most likely ones.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct GeneratedLogprob {
    pub token_id: u32,
    pub logprob: f32,
    pub rank: Option<u32>,
    pub top_logprobs: Vec<GeneratedLogprob>,
}
