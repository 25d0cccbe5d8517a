//! What each architecture reads from a file, and the check of a file against it.

mod table;

use std::collections::BTreeMap;
use std::path::Path;

use self::table::ARCHITECTURES;
use crate::config::{ModelConfig, RopePairing};
use crate::error::{AssetsError, ErrorKind, Quoted};
use crate::tensors::{TensorIndex, TensorInfo};

/// A tensor of an architecture. `{}` in a name stands for the layer's number, `{e}` for the expert's.
struct Tensor {
    /// Hugging Face's name. With `{e}` there is one for each expert.
    name: &'static str,
    /// llama.cpp's name. With no `{e}` where `name` has one, all experts lie in one tensor, one after the other.
    gguf: &'static str,
    shape: fn(&ModelConfig) -> Vec<usize>,
    /// Whether this layer of a model of this configuration must have it. A tensor that it must not have is not read, and warned of.
    wanted: fn(&ModelConfig, usize) -> bool,
}

/// Whether projections of an architecture have biases.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Bias {
    Never,
    Always,
    /// `attention_bias` of the configuration says.
    Configured,
}

/// Which layers see only the last `sliding_window` positions, where the configuration has no list of `layer_types`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Windowed {
    Never,
    /// All, if the configuration has a `sliding_window`.
    All,
    /// All, if `use_sliding_window`.
    AllIfUsed,
    /// Those from `max_window_layers` on, if `use_sliding_window`.
    LateIfUsed,
    /// All but each sixth, or as `sliding_window_pattern` says.
    AllButEachSixth,
}

/// The names under which files call an architecture, what it takes for granted, and its tensors.
pub(crate) struct Architecture {
    /// As the engine calls it.
    pub name: &'static str,
    /// Hugging Face's `model_type`.
    pub model_type: &'static str,
    /// Hugging Face's `architectures[0]`.
    pub class: &'static str,
    /// GGUF's `general.architecture`, with or without experts.
    pub gguf: (&'static str, Experts),
    /// What a file may leave out.
    pub defaults: Defaults,
    pub qkv_bias: Bias,
    pub output_bias: Bias,
    pub windowed: Windowed,
    /// `hidden_act` that its feed-forward layers compute.
    pub activation: &'static str,
    /// Whether GGUF files permute the rows of q and k.
    pub gguf_pairing: RopePairing,
    /// Whether embeddings are multiplied by the root of their width, and norms by 1 + their weight.
    pub gemma: bool,
    tensors: &'static [&'static [Tensor]],
}

/// Which layers of an architecture are mixtures of experts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Experts {
    None,
    /// All, as wide as dense layers would be.
    Everywhere,
    /// Those that the configuration names, with a width of their own.
    Configured,
}

/// What transformers takes where `config.json` is silent.
pub(crate) struct Defaults {
    /// Whether an absent `tie_word_embeddings` means tied.
    pub tied: bool,
    /// `None`: `hidden_size / num_attention_heads`.
    pub head_dim: Option<usize>,
    pub rms_norm_eps: f64,
    pub rope_theta: f64,
}

/// The output head.
pub(crate) const HEAD: &str = "lm_head.weight";

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
    /// By `model_type`.
    pub fn by_model_type(name: &str) -> Option<&'static Self> {
        ARCHITECTURES.iter().find(|architecture| architecture.model_type == name)
    }

    /// By the name of its class in transformers.
    pub fn by_class(class: &str) -> Option<&'static Self> {
        ARCHITECTURES.iter().find(|architecture| architecture.class == class)
    }

    /// By the class of its body alone, such as `LlamaModel`: a model without a head, which embeds.
    pub fn by_body(class: &str) -> Option<&'static Self> {
        let family = class.strip_suffix("Model")?;
        ARCHITECTURES.iter().find(|architecture| architecture.class.strip_suffix("ForCausalLM") == Some(family))
    }

    /// By `general.architecture`, which can be the same with and without experts.
    pub fn by_gguf(name: &str, experts: bool) -> Option<&'static Self> {
        ARCHITECTURES.iter().find(|architecture| architecture.gguf.0 == name && (architecture.gguf.1 != Experts::None) == experts)
    }

    /// `llama, …`: for the error that says what would have been supported.
    pub fn supported() -> String {
        ARCHITECTURES.iter().map(|architecture| architecture.model_type).collect::<Vec<_>>().join(", ")
    }

    /// Can a layer have this tensor, by its GGUF name?
    pub fn reads(&self, gguf: &str) -> bool {
        self.tensors.iter().copied().flatten().any(|tensor| tensor.gguf == gguf)
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
        let experts = config.experts.as_ref().map_or(0, |experts| experts.count);
        let file_of = |found: &Found| files.get(found.file).map_or(container, |file| file.as_path());
        for tensor in self.tensors.iter().copied().flatten() {
            let layers = if tensor.name.contains("{}") { config.layers } else { 1 };
            for layer in (0..layers).filter(|layer| (tensor.wanted)(config, *layer)) {
                let in_layer = |name: &str| name.replace("{}", &layer.to_string());
                let of_expert = |name: &str, expert: usize| in_layer(name).replace("{e}", &expert.to_string());
                let written = match names {
                    Names::HuggingFace => tensor.name,
                    Names::Gguf => tensor.gguf,
                };
                // Until April 2024 llama.cpp's converter wrote a tensor for each expert.
                let apart = written.replace("_exps.", ".{e}.");
                let pattern = if found.contains_key(&of_expert(&apart, 0)) { apart.as_str() } else { written };
                let mut take = |called: &str| found.remove(called).ok_or_else(|| missing(container, called, config, tensor));
                let shape = (tensor.shape)(config);
                match (tensor.name.contains("{e}"), pattern.contains("{e}")) {
                    (false, _) => {
                        let called = in_layer(pattern);
                        let found = take(&called)?;
                        by_name.insert(in_layer(tensor.name), readable(file_of(&found), &called, found, &shape)?);
                    }
                    (true, true) => {
                        for expert in 0..experts {
                            let called = of_expert(pattern, expert);
                            let found = take(&called)?;
                            by_name.insert(of_expert(tensor.name, expert), readable(file_of(&found), &called, found, &shape)?);
                        }
                    }
                    (true, false) => {
                        let called = in_layer(pattern);
                        let found = take(&called)?;
                        let merged: Vec<usize> = [experts].into_iter().chain(shape.iter().copied()).collect();
                        let whole = readable(file_of(&found), &called, found, &merged)?;
                        for (expert, part) in whole.split(experts).enumerate() {
                            by_name.insert(of_expert(tensor.name, expert), part);
                        }
                    }
                }
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
                "use a file in F32, F16, BF16, or (GGUF) Q8_0, Q4_0, Q4_1, Q5_0, Q5_1, Q4_K, Q5_K, Q6_K",
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
