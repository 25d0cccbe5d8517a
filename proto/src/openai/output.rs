//! Answers to chat and completion requests, whole and in chunks. Keys whose value is always `null` here are written where vLLM's whole
//! answers have them, because clients index them; chunks carry only what changes.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::logprobs::{ChatLogprobs, CompletionLogprobs, PromptLogprobs};

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Usage {
    pub prompt_tokens: u32,
    pub total_tokens: u32,
    pub completion_tokens: u32,
    #[serde(default)]
    pub prompt_tokens_details: Option<PromptTokensDetails>,
    /// Where the model's answers have reasoning in them.
    #[serde(default)]
    pub completion_tokens_details: Option<CompletionTokensDetails>,
}

impl Usage {
    pub fn new(prompt_tokens: u32, completion_tokens: u32) -> Self {
        let total_tokens = prompt_tokens.saturating_add(completion_tokens);
        Self { prompt_tokens, total_tokens, completion_tokens, ..Self::default() }
    }
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PromptTokensDetails {
    /// Prompt tokens whose keys and values the prefix cache held.
    pub cached_tokens: u32,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CompletionTokensDetails {
    /// Generated tokens that are reasoning and not answer.
    pub reasoning_tokens: u32,
}

/// Where the time of an answer went, in milliseconds; `null` where an interval did not come to pass.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct RequestMetrics {
    /// From the batch's first work on the request to its first token.
    pub time_to_first_token_ms: Option<f64>,
    /// From the first token to the last.
    pub generation_time_ms: Option<f64>,
    pub queue_time_ms: Option<f64>,
    pub mean_itl_ms: Option<f64>,
    /// All tokens over the time from the first work to the last token.
    pub tokens_per_second: Option<f64>,
    /// vLLM's acceptance figures; not told here.
    pub speculative_decoding: (),
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
    pub system_fingerprint: Option<&'a str>,
    pub usage: Usage,
    pub prompt_logprobs: Option<&'a PromptLogprobs>,
    pub prompt_token_ids: Option<&'a [u32]>,
    pub prompt_text: Option<&'a str>,
    pub kv_transfer_params: Option<&'a Value>,
    pub ec_transfer_params: (),
    pub metrics: Option<RequestMetrics>,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ChatChoice<'a> {
    pub index: u32,
    pub message: Message<'a>,
    pub logprobs: Option<ChatLogprobs>,
    pub finish_reason: Option<&'a str>,
    /// The stop string or stop id that ended the text; `null` for end of sequence.
    pub stop_reason: Option<&'a Value>,
    pub token_ids: Option<&'a [u32]>,
    pub routed_experts: (),
    pub weight_versions: (),
}

#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Message<'a> {
    pub role: &'a str,
    pub content: Option<&'a str>,
    pub refusal: (),
    pub annotations: (),
    pub audio: (),
    pub function_call: (),
    #[serde(skip_serializing_if = "<[ToolCall]>::is_empty")]
    pub tool_calls: &'a [ToolCall],
    pub reasoning: Option<&'a str>,
}

impl<'a> Message<'a> {
    pub fn new(role: &'a str, content: Option<&'a str>) -> Self {
        let none = ();
        Self {
            role,
            content,
            refusal: none,
            annotations: none,
            audio: none,
            function_call: none,
            tool_calls: &[],
            reasoning: None,
        }
    }
}

/// A call of a function that the model asks for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ToolCall {
    pub id: String,
    /// "function".
    #[serde(rename = "type")]
    pub kind: std::borrow::Cow<'static, str>,
    pub function: FunctionCall,
}

impl ToolCall {
    pub fn new(id: String, name: String, arguments: String) -> Self {
        Self { id, kind: std::borrow::Cow::Borrowed("function"), function: FunctionCall { name, arguments } }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FunctionCall {
    pub name: String,
    /// JSON text.
    pub arguments: String,
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
    /// In the last chunk alone.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub system_fingerprint: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prompt_token_ids: Option<&'a [u32]>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prompt_text: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub metrics: Option<RequestMetrics>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kv_transfer_params: Option<&'a Value>,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ChatChunkChoice<'a> {
    pub index: u32,
    pub delta: Delta<'a>,
    pub logprobs: Option<ChatLogprobs>,
    pub finish_reason: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stop_reason: Option<&'a Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub token_ids: Option<&'a [u32]>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Delta<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub role: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub content: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reasoning: Option<&'a str>,
    #[serde(skip_serializing_if = "<[ToolCallDelta<'_>]>::is_empty")]
    pub tool_calls: &'a [ToolCallDelta<'a>],
}

/// A piece of a tool call: its first carries id, type and name, the others more of the arguments.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct ToolCallDelta<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id: Option<&'a str>,
    #[serde(rename = "type", skip_serializing_if = "Option::is_none")]
    pub kind: Option<&'static str>,
    pub index: u32,
    pub function: FunctionDelta<'a>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct FunctionDelta<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<&'a str>,
    pub arguments: &'a str,
}

/// Whole answer of `/v1/completions`.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Completion<'a> {
    pub id: &'a str,
    pub object: &'static str,
    pub created: u64,
    pub model: &'a str,
    pub choices: Vec<CompletionChoice<'a>>,
    pub service_tier: (),
    pub system_fingerprint: Option<&'a str>,
    pub usage: Usage,
    pub kv_transfer_params: Option<&'a Value>,
    pub ec_transfer_params: (),
    pub metrics: Option<RequestMetrics>,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct CompletionChoice<'a> {
    /// Prompt's number · n + number of the choice.
    pub index: u32,
    pub text: &'a str,
    pub logprobs: Option<CompletionLogprobs>,
    pub finish_reason: Option<&'a str>,
    pub stop_reason: Option<&'a Value>,
    pub token_ids: Option<&'a [u32]>,
    pub prompt_logprobs: Option<&'a PromptLogprobs>,
    pub prompt_token_ids: Option<&'a [u32]>,
    pub routed_experts: (),
    pub weight_versions: (),
}

/// One event of a streamed completion.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct CompletionChunk<'a> {
    pub id: &'a str,
    pub object: &'static str,
    pub created: u64,
    pub model: &'a str,
    /// Empty in the usage chunk.
    pub choices: &'a [CompletionChunkChoice<'a>],
    #[serde(skip_serializing_if = "Option::is_none")]
    pub usage: Option<Usage>,
    /// In the last chunk alone.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub system_fingerprint: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub metrics: Option<RequestMetrics>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kv_transfer_params: Option<&'a Value>,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct CompletionChunkChoice<'a> {
    pub index: u32,
    pub text: &'a str,
    pub logprobs: Option<CompletionLogprobs>,
    pub finish_reason: Option<&'a str>,
    pub stop_reason: Option<&'a Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub token_ids: Option<&'a [u32]>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prompt_token_ids: Option<&'a [u32]>,
}
