//! Finds a model and parses its headers: config, safetensors, GGUF, tokenizer and template bytes; no tensors.
//!
//! One door, [`open`], takes a Hugging Face folder or a `.gguf` file and answers with everything that is known before a weight is read:
//! the shape of the network ([`ModelConfig`]), where each tensor lies ([`TensorIndex`], under its Hugging Face name whatever the file
//! calls it), how to sample by default ([`Generation`]) and what turns text into tokens ([`TextAssets`]).
//!
//! Model files come from strangers. Every length is compared with what the file still holds before anything is allocated, every list
//! has a named maximum, and every refusal is an [`AssetsError`]: one line that names the file, the place in it, and what to do.
#![forbid(unsafe_code)]

mod adapter;
mod architecture;
mod config;
mod error;
mod file;
mod gguf;
mod hugging_face;
mod pooling;
mod safetensors;
mod tensors;
mod text;

use std::path::{Path, PathBuf};

pub use crate::adapter::{Adapter, LowRankWeights, MAX_ADAPTER_RANK};
pub use crate::config::{ExpertsConfig, ModelConfig, Rope, RopePairing, RopeScaling};
pub use crate::error::{AssetsError, ErrorKind, Place};
pub use crate::pooling::{Matryoshka, Pooling, PoolingConfig};
pub use crate::tensors::{DType, TensorIndex, TensorInfo};
pub use crate::text::{Digest, GgufTokenizer, MAX_UPLOAD_BYTES, SpecialToken, TextAssets, TokenKind, TokenizerSource};

/// How a model is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// A folder as `save_pretrained` writes it: `config.json`, safetensors, `tokenizer.json`.
    HuggingFace,
    /// One GGUF file (versions 2 and 3, little-endian).
    Gguf,
}

/// Sampling defaults and end-of-sequence ids that come with the model (`generation_config.json`). `None`: the model does not say.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Generation {
    /// Token ids that end a generation, without repetition, in the order in which the model lists them.
    pub eos: Vec<u32>,
    pub temperature: Option<f32>,
    pub top_p: Option<f32>,
    pub top_k: Option<u32>,
    pub min_p: Option<f32>,
    pub repetition_penalty: Option<f32>,
    pub max_new_tokens: Option<u32>,
}

impl Generation {
    /// Adds an end-of-sequence id, if it is one and not there yet.
    pub(crate) fn add_eos(&mut self, id: Option<u32>) {
        self.eos.extend(id.filter(|id| !self.eos.contains(id)));
    }
}

/// All that is known of a model before its weights are read.
#[derive(Debug, Clone)]
pub struct ModelAssets {
    /// The path that was opened.
    pub path: PathBuf,
    pub format: Format,
    pub config: ModelConfig,
    /// How it makes vectors, where it does.
    pub pooling: PoolingConfig,
    /// Whether its maker meant it to make vectors, not text.
    pub pools: bool,
    pub generation: Generation,
    pub tensors: TensorIndex,
    pub text: TextAssets,
    /// What is odd but not wrong: to be logged once, one line each.
    pub warnings: Vec<String>,
}

impl ModelAssets {
    /// The same model without its head: what is left makes vectors.
    pub fn without_head(mut self) -> Self {
        self.config.head = false;
        self.tensors.by_name.remove(architecture::HEAD);
        self
    }
}

/// Opens a Hugging Face folder or a `.gguf` file and checks that its headers agree with each other.
pub fn open(path: &Path) -> Result<ModelAssets, AssetsError> {
    let found = std::fs::metadata(path).map_err(|error| AssetsError::io(path, "open", &error))?;
    if found.is_dir() {
        return hugging_face::open(path);
    }
    if path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("gguf")) {
        return gguf::open(path);
    }
    Err(AssetsError::new(
        ErrorKind::Unsupported,
        path,
        "is neither a folder nor a .gguf file",
        "give a Hugging Face folder (with config.json) or a .gguf file",
    ))
}
