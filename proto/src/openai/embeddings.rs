//! `/v1/embeddings` and `/pooling`.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{Prompt, Usage};

/// `POST /v1/embeddings` and `POST /pooling`: of texts, of token ids, or of a conversation through the chat template.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct EmbeddingRequest {
    pub model: Option<String>,
    pub input: Option<Prompt>,
    pub messages: Option<Vec<Value>>,
    /// `float` or `base64`: little-endian f32.
    pub encoding_format: Option<String>,
    pub embed_dtype: Option<String>,
    /// `little`, `big` or `native`, of `base64`.
    pub endianness: Option<String>,
    pub dimensions: Option<i64>,
    /// Whether vectors are divided by their lengths; the model says by default.
    pub use_activation: Option<bool>,
    /// What `use_activation` was called once; vLLM refuses it.
    pub normalize: Option<bool>,
    /// `/pooling`: `embed`.
    pub task: Option<String>,
    pub truncate_prompt_tokens: Option<i64>,
    pub truncation_side: Option<String>,
    pub padding: Option<String>,
    /// Defaults to true for a text and to false for a conversation, whose template writes its own.
    pub add_special_tokens: Option<bool>,
    pub add_generation_prompt: Option<bool>,
    pub continue_final_message: Option<bool>,
    pub chat_template: Option<String>,
    pub chat_template_kwargs: Option<serde_json::Map<String, Value>>,
    pub request_id: Option<String>,
    pub priority: Option<i64>,
    pub cache_salt: Option<String>,
    pub mm_processor_kwargs: Option<Value>,
    pub media_io_kwargs: Option<Value>,
}

/// The answer of either: `data` holds [`Embedding`]s or [`Pooled`]s.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct EmbeddingAnswer<'a, T> {
    pub id: &'a str,
    pub object: &'static str,
    pub created: u64,
    pub model: &'a str,
    pub data: Vec<T>,
    pub usage: Usage,
}

/// One vector of `/v1/embeddings`.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Embedding {
    pub index: usize,
    pub object: &'static str,
    pub embedding: EncodedVector,
}

/// One vector of `/pooling`.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Pooled {
    pub index: usize,
    pub object: &'static str,
    pub data: EncodedVector,
}

/// A vector as numbers, or as base64 of their bytes.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(untagged)]
pub enum EncodedVector {
    Float(Vec<f32>),
    Base64(String),
}
