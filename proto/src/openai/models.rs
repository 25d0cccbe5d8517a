//! `/v1/models`.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};

/// `GET /v1/models`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ModelList {
    /// "list".
    pub object: Cow<'static, str>,
    pub data: Vec<ModelCard>,
}

impl ModelList {
    pub fn new(data: Vec<ModelCard>) -> Self {
        Self { object: Cow::Borrowed("list"), data }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ModelCard {
    pub id: String,
    /// "model".
    pub object: Cow<'static, str>,
    /// Unix time in seconds.
    pub created: u64,
    /// "vllm": clients tell servers that read vLLM's parameters by it.
    pub owned_by: Cow<'static, str>,
    /// Where the weights come from: a path, a Hub id, or an adapter's path.
    pub root: Option<String>,
    /// An adapter's base model.
    pub parent: Option<String>,
    pub max_model_len: Option<u32>,
    #[serde(default)]
    pub permission: Vec<Permission>,
}

impl ModelCard {
    pub fn new(id: String, created: u64, root: Option<String>, max_model_len: Option<u32>) -> Self {
        let (object, owned_by) = (Cow::Borrowed("model"), Cow::Borrowed("vllm"));
        let permission = vec![Permission::new(&id, created)];
        Self { id, object, created, owned_by, root, parent: None, max_model_len, permission }
    }
}

/// What OpenAI's first API said of every model; clients of that time index it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Permission {
    pub id: String,
    /// "model_permission".
    pub object: Cow<'static, str>,
    pub created: u64,
    pub allow_create_engine: bool,
    pub allow_sampling: bool,
    pub allow_logprobs: bool,
    pub allow_search_indices: bool,
    pub allow_view: bool,
    pub allow_fine_tuning: bool,
    pub organization: Cow<'static, str>,
    pub group: Option<String>,
    pub is_blocking: bool,
}

impl Permission {
    fn new(model: &str, created: u64) -> Self {
        Self {
            id: format!("modelperm-{model}"),
            object: Cow::Borrowed("model_permission"),
            created,
            allow_create_engine: false,
            allow_sampling: true,
            allow_logprobs: true,
            allow_search_indices: false,
            allow_view: true,
            allow_fine_tuning: false,
            organization: Cow::Borrowed("*"),
            group: None,
            is_blocking: false,
        }
    }
}
