//! Answers to chat and completion requests, whole and in chunks. Keys whose value is always `null` here are written where vLLM's whole
//! answers have them, because clients index them; chunks carry only what changes.

use serde::{Deserialize, Serialize};
use serde_json::Value;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Usage {
    pub prompt_tokens: u32,
    pub total_tokens: u32,
    pub completion_tokens: u32,
    #[serde(default)]
    pub prompt_tokens_details: Option<PromptTokensDetails>,
}

impl Usage {
    pub fn new(prompt_tokens: u32, completion_tokens: u32) -> Self {
        let total_tokens = prompt_tokens.saturating_add(completion_tokens);
        Self { prompt_tokens, total_tokens, completion_tokens, prompt_tokens_details: None }
    }
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PromptTokensDetails {
    /// Prompt tokens whose keys and values the prefix cache held.
    pub cached_tokens: u32,
}

/// Whole answer of `/v1/chat/completions`.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ChatCompletion<'a> {
    pub id: &'a str,
    pub object: &'static str,
    pub created: u64,
    pub model: &'a str,
    pub choices: Vec<ChatChoice<'a>>,
    pub service_tier: (),
    pub system_fingerprint: (),
    pub usage: Usage,
    pub prompt_logprobs: (),
    pub prompt_token_ids: Option<&'a [u32]>,
    pub kv_transfer_params: Option<&'a Value>,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ChatChoice<'a> {
    pub index: u32,
    pub message: Message<'a>,
    pub logprobs: (),
    pub finish_reason: Option<&'a str>,
    /// The stop string or stop id that ended the text; `null` for end of sequence.
    pub stop_reason: Option<&'a Value>,
    pub token_ids: Option<&'a [u32]>,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Message<'a> {
    pub role: &'static str,
    pub content: Option<&'a str>,
    pub refusal: (),
    pub annotations: (),
    pub audio: (),
    pub function_call: (),
    pub tool_calls: [(); 0],
    pub reasoning: (),
}

impl<'a> Message<'a> {
    pub fn assistant(content: &'a str) -> Self {
        let content = Some(content);
        Self {
            role: "assistant",
            content,
            refusal: (),
            annotations: (),
            audio: (),
            function_call: (),
            tool_calls: [],
            reasoning: (),
        }
    }
}

/// One event of a streamed chat.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ChatChunk<'a> {
    pub id: &'a str,
    pub object: &'static str,
    pub created: u64,
    pub model: &'a str,
    /// Empty in the usage chunk.
    pub choices: &'a [ChatChunkChoice<'a>],
    #[serde(skip_serializing_if = "Option::is_none")]
    pub usage: Option<Usage>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prompt_token_ids: Option<&'a [u32]>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kv_transfer_params: Option<&'a Value>,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ChatChunkChoice<'a> {
    pub index: u32,
    pub delta: Delta<'a>,
    pub logprobs: (),
    pub finish_reason: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stop_reason: Option<&'a Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub token_ids: Option<&'a [u32]>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Delta<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub role: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub content: Option<&'a str>,
}

/// Answer of `/v1/completions`: whole, or one event of its stream.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Completion<'a> {
    pub id: &'a str,
    pub object: &'static str,
    pub created: u64,
    pub model: &'a str,
    /// Empty in the usage chunk.
    pub choices: &'a [CompletionChoice<'a>],
    #[serde(skip_serializing_if = "Option::is_none")]
    pub usage: Option<Usage>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kv_transfer_params: Option<&'a Value>,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct CompletionChoice<'a> {
    /// Which prompt of the request.
    pub index: u32,
    pub text: &'a str,
    pub logprobs: (),
    pub finish_reason: Option<&'a str>,
    pub stop_reason: Option<&'a Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub token_ids: Option<&'a [u32]>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prompt_token_ids: Option<&'a [u32]>,
}
