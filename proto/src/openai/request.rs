//! Chat and completion requests: every field of vLLM 0.33's `ChatCompletionRequest` and `CompletionRequest` that means something here.

use serde::Deserialize;
use serde_json::{Map, Value};

use super::input::{Prompt, Stop};

/// A chat or completion request.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct Request {
    pub model: Option<String>,
    /// Chat: the conversation, as the model's template reads it.
    pub messages: Option<Vec<Value>>,
    /// Completions: one prompt or several, text or token ids.
    pub prompt: Option<Prompt>,

    // --- length
    /// Most tokens to generate. Completions generate 16 without it, chat what the context leaves.
    pub max_tokens: Option<i64>,
    /// Chat: wins over `max_tokens`.
    pub max_completion_tokens: Option<i64>,
    /// Fewest tokens before anything but the length may end the answer.
    pub min_tokens: Option<i64>,

    // --- sampling
    pub temperature: Option<f64>,
    pub top_p: Option<f64>,
    /// 0 and -1 keep all.
    pub top_k: Option<i64>,
    pub min_p: Option<f64>,
    pub seed: Option<i64>,
    pub frequency_penalty: Option<f64>,
    pub presence_penalty: Option<f64>,
    pub repetition_penalty: Option<f64>,
    /// Token id as a string, to bias.
    pub logit_bias: Option<Map<String, Value>>,
    pub allowed_token_ids: Option<Vec<i64>>,
    pub bad_words: Option<Vec<String>>,

    // --- ending
    pub stop: Option<Stop>,
    pub stop_token_ids: Option<Vec<i64>>,
    pub ignore_eos: Option<bool>,
    pub repetition_detection: Option<RepetitionDetection>,
    pub include_stop_str_in_output: Option<bool>,

    // --- shape of the answer
    pub n: Option<i64>,
    pub stream: Option<bool>,
    pub stream_options: Option<StreamOptions>,
    /// Tokens of one chunk.
    pub stream_interval: Option<i64>,
    pub skip_special_tokens: Option<bool>,
    pub spaces_between_special_tokens: Option<bool>,
    pub return_token_ids: Option<bool>,
    pub return_tokens_as_token_ids: Option<bool>,
    pub return_prompt_text: Option<bool>,
    /// `/render`: where in the text each token stands.
    pub return_token_offsets: Option<bool>,
    pub echo: Option<bool>,
    /// Chat: whether; completions: how many alternatives.
    pub logprobs: Option<Value>,
    pub top_logprobs: Option<i64>,
    pub prompt_logprobs: Option<i64>,
    pub logprob_token_ids: Option<Vec<i64>>,
    pub include_reasoning: Option<bool>,

    // --- prompt making
    pub add_generation_prompt: Option<bool>,
    pub continue_final_message: Option<bool>,
    pub add_special_tokens: Option<bool>,
    pub chat_template: Option<String>,
    pub chat_template_kwargs: Option<Map<String, Value>>,
    pub documents: Option<Vec<Value>>,
    pub tools: Option<Vec<Value>>,
    pub tool_choice: Option<Value>,
    pub parallel_tool_calls: Option<bool>,
    pub reasoning_effort: Option<String>,
    /// Tokens of the prompt to keep; -1: as many as the context takes.
    pub truncate_prompt_tokens: Option<i64>,
    /// "left" keeps the last tokens, "right" the first.
    pub truncation_side: Option<String>,

    // --- what the text must be
    pub response_format: Option<Value>,
    pub structured_outputs: Option<Value>,

    // --- serving
    pub request_id: Option<String>,
    pub session_id: Option<String>,
    pub cache_salt: Option<String>,
    pub priority: Option<i64>,
    /// Opaque between prefill and decode engines.
    pub kv_transfer_params: Option<Value>,

    // --- what changes an answer and is read to be refused
    pub length_penalty: Option<f64>,
    pub use_beam_search: Option<bool>,
    pub best_of: Option<i64>,
    pub suffix: Option<String>,
    pub prompt_embeds: Option<Value>,
    pub thinking_token_budget: Option<Value>,
    pub mm_processor_kwargs: Option<Value>,
    pub media_io_kwargs: Option<Value>,
    pub ec_transfer_params: Option<Value>,
    pub watermarking: Option<bool>,
    pub return_weight_versions: Option<bool>,
}

/// Ends an output that goes round in circles: with a pattern of tokens, several times in a row.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct RepetitionDetection {
    /// Longest pattern, in tokens; 0: nothing is looked for.
    pub max_pattern_size: Option<i64>,
    /// Shortest pattern; 0 is 1.
    pub min_pattern_size: Option<i64>,
    /// How often it must stand there; at least 2.
    pub min_count: Option<i64>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct StreamOptions {
    /// A last chunk without choices carries the usage.
    pub include_usage: Option<bool>,
    /// With `include_usage`: every chunk carries the usage so far.
    pub continuous_usage_stats: Option<bool>,
}

/// `POST /inference/v1/generate` of vLLM 0.33.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct GenerateRequest {
    pub request_id: Option<String>,
    pub token_ids: Option<Vec<i64>>,
    /// The keys of a completion's own parameters.
    pub sampling_params: Option<Map<String, Value>>,
    pub model: Option<String>,
    pub stream: Option<bool>,
    pub stream_options: Option<StreamOptions>,
    pub return_token_ids: Option<bool>,
    pub output_mode: Option<String>,
    pub cache_salt: Option<String>,
    pub priority: Option<i64>,
    pub kv_transfer_params: Option<Value>,
    pub ec_transfer_params: Option<Value>,
    pub features: Option<Value>,
    pub content_parts: Option<Value>,
}
