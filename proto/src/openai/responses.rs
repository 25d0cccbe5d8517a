//! `POST /v1/responses`.

use serde::Deserialize;
use serde_json::{Map, Value};

use super::input::Stop;

/// The fields of vLLM 0.33's `ResponsesRequest` that mean something here.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct ResponsesRequest {
    pub model: Option<String>,
    /// A text, or a list of items: messages, calls, results of calls.
    pub input: Option<Value>,
    /// A system message for this response alone.
    pub instructions: Option<String>,
    pub previous_response_id: Option<String>,
    pub store: Option<bool>,
    pub background: Option<bool>,
    pub stream: Option<bool>,
    pub max_output_tokens: Option<i64>,
    pub temperature: Option<f64>,
    pub top_p: Option<f64>,
    pub top_k: Option<i64>,
    pub min_p: Option<f64>,
    pub seed: Option<i64>,
    pub presence_penalty: Option<f64>,
    pub frequency_penalty: Option<f64>,
    pub repetition_penalty: Option<f64>,
    pub logit_bias: Option<Map<String, Value>>,
    pub stop: Option<Stop>,
    pub stop_token_ids: Option<Vec<i64>>,
    pub ignore_eos: Option<bool>,
    pub include_stop_str_in_output: Option<bool>,
    pub skip_special_tokens: Option<bool>,
    /// `"message.output_text.logprobs"` asks for log probabilities.
    pub include: Option<Vec<String>>,
    pub top_logprobs: Option<i64>,
    pub tools: Option<Vec<Value>>,
    pub tool_choice: Option<Value>,
    pub parallel_tool_calls: Option<bool>,
    /// `{"format": {"type": "text" | "json_object" | "json_schema", …}}`.
    pub text: Option<Value>,
    pub reasoning: Option<Value>,
    pub include_reasoning: Option<bool>,
    pub structured_outputs: Option<Value>,
    pub metadata: Option<Map<String, Value>>,
    pub user: Option<String>,
    pub truncation: Option<String>,
    pub service_tier: Option<String>,
    pub prompt: Option<Value>,
    pub max_tool_calls: Option<i64>,
    pub prompt_cache_key: Option<String>,
    pub request_id: Option<String>,
    pub session_id: Option<String>,
    pub cache_salt: Option<String>,
    pub priority: Option<i64>,
    pub chat_template_kwargs: Option<Map<String, Value>>,
    pub kv_transfer_params: Option<Value>,
    pub ec_transfer_params: Option<Value>,
    pub mm_processor_kwargs: Option<Value>,
    pub media_io_kwargs: Option<Value>,
    pub watermarking: Option<bool>,
}
