//! Bodies that load and unload adapters, as vLLM 0.33 takes them.

use serde::Deserialize;

/// `POST /v1/load_lora_adapter`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct LoadLora {
    pub lora_name: Option<String>,
    /// A folder as PEFT saves it.
    pub lora_path: Option<String>,
    /// An adapter of that name is replaced.
    pub load_inplace: Option<bool>,
}

/// `POST /v1/unload_lora_adapter`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct UnloadLora {
    pub lora_name: Option<String>,
}
