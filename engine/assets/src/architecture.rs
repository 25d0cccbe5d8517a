//! The one table of what each architecture reads from a file, and the check of a file against it.

use std::collections::BTreeMap;
use std::path::Path;

use crate::config::ModelConfig;
use crate::error::{AssetsError, ErrorKind, Quoted};
use crate::tensors::{TensorIndex, TensorInfo};

/// A tensor of an architecture. `{}` in a name stands for the layer's number.
struct Tensor {
    /// Hugging Face's name.
    name: &'static str,
    /// llama.cpp's name.
    gguf: &'static str,
    shape: fn(&ModelConfig) -> Vec<usize>,
    /// Whether a model of this configuration must have it. A tensor that it must not have is not read, and warned of.
    wanted: fn(&ModelConfig) -> bool,
}

/// The names under which files call an architecture, and its tensors.
pub(crate) struct Architecture {
    /// As the engine calls it; GGUF's `general.architecture`, Hugging Face's `model_type`.
    pub name: &'static str,
    /// Hugging Face's `architectures[0]`.
    pub class: &'static str,
    /// Whether an absent `tie_word_embeddings` means tied.
    pub tied_by_default: bool,
    tensors: &'static [Tensor],
}

/// All architectures that the engine runs.
pub(crate) const ARCHITECTURES: &[Architecture] = &[LLAMA];

const LLAMA: Architecture =
    Architecture { name: "llama", class: "LlamaForCausalLM", tied_by_default: false, tensors: LLAMA_TENSORS };

const fn always(_: &ModelConfig) -> bool {
    true
}

fn attention_bias(config: &ModelConfig) -> bool {
    config.attention_bias
}

fn mlp_bias(config: &ModelConfig) -> bool {
    config.mlp_bias
}

const HEAD: &str = "lm_head.weight";

#[rustfmt::skip]
const LLAMA_TENSORS: &[Tensor] = &[
    Tensor { name: "model.embed_tokens.weight", gguf: "token_embd.weight", shape: |c| vec![c.vocab_size, c.hidden_size], wanted: always },
    Tensor { name: "model.norm.weight", gguf: "output_norm.weight", shape: |c| vec![c.hidden_size], wanted: always },
    Tensor { name: HEAD, gguf: "output.weight", shape: |c| vec![c.vocab_size, c.hidden_size], wanted: |c| !c.tie_word_embeddings },
    Tensor { name: "model.layers.{}.input_layernorm.weight", gguf: "blk.{}.attn_norm.weight", shape: |c| vec![c.hidden_size], wanted: always },
    Tensor { name: "model.layers.{}.self_attn.q_proj.weight", gguf: "blk.{}.attn_q.weight", shape: |c| vec![c.heads * c.head_dim, c.hidden_size], wanted: always },
    Tensor { name: "model.layers.{}.self_attn.k_proj.weight", gguf: "blk.{}.attn_k.weight", shape: |c| vec![c.kv_heads * c.head_dim, c.hidden_size], wanted: always },
    Tensor { name: "model.layers.{}.self_attn.v_proj.weight", gguf: "blk.{}.attn_v.weight", shape: |c| vec![c.kv_heads * c.head_dim, c.hidden_size], wanted: always },
    Tensor { name: "model.layers.{}.self_attn.o_proj.weight", gguf: "blk.{}.attn_output.weight", shape: |c| vec![c.hidden_size, c.heads * c.head_dim], wanted: always },
    Tensor { name: "model.layers.{}.self_attn.q_proj.bias", gguf: "blk.{}.attn_q.bias", shape: |c| vec![c.heads * c.head_dim], wanted: attention_bias },
    Tensor { name: "model.layers.{}.self_attn.k_proj.bias", gguf: "blk.{}.attn_k.bias", shape: |c| vec![c.kv_heads * c.head_dim], wanted: attention_bias },
    Tensor { name: "model.layers.{}.self_attn.v_proj.bias", gguf: "blk.{}.attn_v.bias", shape: |c| vec![c.kv_heads * c.head_dim], wanted: attention_bias },
    Tensor { name: "model.layers.{}.self_attn.o_proj.bias", gguf: "blk.{}.attn_output.bias", shape: |c| vec![c.hidden_size], wanted: attention_bias },
    Tensor { name: "model.layers.{}.post_attention_layernorm.weight", gguf: "blk.{}.ffn_norm.weight", shape: |c| vec![c.hidden_size], wanted: always },
    Tensor { name: "model.layers.{}.mlp.gate_proj.weight", gguf: "blk.{}.ffn_gate.weight", shape: |c| vec![c.intermediate_size, c.hidden_size], wanted: always },
    Tensor { name: "model.layers.{}.mlp.up_proj.weight", gguf: "blk.{}.ffn_up.weight", shape: |c| vec![c.intermediate_size, c.hidden_size], wanted: always },
    Tensor { name: "model.layers.{}.mlp.down_proj.weight", gguf: "blk.{}.ffn_down.weight", shape: |c| vec![c.hidden_size, c.intermediate_size], wanted: always },
    Tensor { name: "model.layers.{}.mlp.gate_proj.bias", gguf: "blk.{}.ffn_gate.bias", shape: |c| vec![c.intermediate_size], wanted: mlp_bias },
    Tensor { name: "model.layers.{}.mlp.up_proj.bias", gguf: "blk.{}.ffn_up.bias", shape: |c| vec![c.intermediate_size], wanted: mlp_bias },
    Tensor { name: "model.layers.{}.mlp.down_proj.bias", gguf: "blk.{}.ffn_down.bias", shape: |c| vec![c.hidden_size], wanted: mlp_bias },
];

/// What a file calls its tensors.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Names {
    HuggingFace,
    Gguf,
}

/// A tensor as its file describes it, before anybody asks whether it can be read.
#[derive(Debug, Clone)]
pub(crate) struct Found {
    pub file: usize,
    /// What the file calls the element type, and whether it is one of ours.
    pub dtype: Result<crate::tensors::DType, String>,
    pub shape: Vec<usize>,
    pub offset: u64,
    pub bytes: u64,
    /// Where the header describes it, for errors.
    pub described_at: Option<u64>,
}

impl Architecture {
    /// By `general.architecture` or `model_type`.
    pub fn by_name(name: &str) -> Option<&'static Self> {
        ARCHITECTURES.iter().find(|architecture| architecture.name == name)
    }

    /// By the name of its class in transformers.
    pub fn by_class(class: &str) -> Option<&'static Self> {
        ARCHITECTURES.iter().find(|architecture| architecture.class == class)
    }

    /// `llama, …`: for the error that says what would have been supported.
    pub fn supported() -> String {
        ARCHITECTURES.iter().map(|architecture| architecture.name).collect::<Vec<_>>().join(", ")
    }

    /// Does the file hold a head of its own?
    pub fn has_head(found: &BTreeMap<String, Found>, names: Names) -> bool {
        found.contains_key(match names {
            Names::HuggingFace => HEAD,
            Names::Gguf => "output.weight",
        })
    }

    /// Takes what this architecture reads out of `found`, under Hugging Face names, each with the shape that the configuration implies.
    ///
    /// What remains in `found` afterwards is what nobody reads.
    pub fn select(
        &self,
        config: &ModelConfig,
        names: Names,
        files: Vec<std::path::PathBuf>,
        found: &mut BTreeMap<String, Found>,
        container: &Path,
    ) -> Result<TensorIndex, AssetsError> {
        let mut by_name = BTreeMap::new();
        for tensor in self.tensors.iter().filter(|tensor| (tensor.wanted)(config)) {
            let in_layers = tensor.name.contains("{}");
            for layer in 0..if in_layers { config.layers } else { 1 } {
                let name = tensor.name.replace("{}", &layer.to_string());
                let called = match names {
                    Names::HuggingFace => name.clone(),
                    Names::Gguf => tensor.gguf.replace("{}", &layer.to_string()),
                };
                let Some(found) = found.remove(&called) else {
                    return Err(missing(container, &called, config, tensor));
                };
                let file = files.get(found.file).map_or(container, |file| file.as_path());
                by_name.insert(name, readable(file, &called, found, &(tensor.shape)(config))?);
            }
        }
        Ok(TensorIndex { files, by_name })
    }
}

fn missing(container: &Path, called: &str, config: &ModelConfig, tensor: &Tensor) -> AssetsError {
    let (what, action) = if tensor.name == HEAD {
        (
            "is missing, and tie_word_embeddings is false",
            "incomplete download? or set tie_word_embeddings to true if the model has no head of its own".to_owned(),
        )
    } else {
        ("is missing", format!("incomplete download? the {} architecture cannot run without it", config.architecture))
    };
    AssetsError::new(ErrorKind::Missing, container, what, action).tensor(called)
}

fn readable(file: &Path, called: &str, found: Found, expected: &[usize]) -> Result<TensorInfo, AssetsError> {
    let error = |kind, what: String, action: &str| {
        let error = AssetsError::new(kind, file, what, action).tensor(called);
        match found.described_at {
            Some(offset) => error.at(offset),
            None => error,
        }
    };
    let dtype = match &found.dtype {
        Ok(dtype) => *dtype,
        Err(name) => {
            return Err(error(
                ErrorKind::Unsupported,
                format!("is stored as {}, which is not supported", Quoted(name)),
                "use a file in F32, F16, BF16, or (GGUF) Q8_0, Q4_0, Q4_1",
            ));
        }
    };
    if found.shape != expected {
        return Err(error(
            ErrorKind::Mismatch,
            format!("has shape {:?}, the configuration implies {expected:?}", found.shape),
            "configuration and weights are of different models, or one of them is damaged",
        ));
    }
    Ok(TensorInfo { file: found.file, dtype, shape: found.shape, offset: found.offset, bytes: found.bytes })
}

/// Most names that one warning lists.
const MAX_LISTED: usize = 5;

/// The warning for tensors that the file has and nothing reads.
pub(crate) fn unread_warning(file: &Path, unread: &BTreeMap<String, Found>) -> Option<String> {
    if unread.is_empty() {
        return None;
    }
    let listed: Vec<String> = unread.keys().take(MAX_LISTED).map(|name| Quoted(name).to_string()).collect();
    let more = unread.len().saturating_sub(MAX_LISTED);
    let more = if more > 0 { format!(" and {more} more") } else { String::new() };
    Some(format!(
        "{}: {} tensors are in the file but not read by this architecture: {}{more}",
        file.display(),
        unread.len(),
        listed.join(", ")
    ))
}
