//! The shape of a network, one spelling for what Hugging Face and GGUF spell differently.

use std::path::Path;

use crate::error::{AssetsError, ErrorKind};

/// The shape of a decoder-only transformer. All sizes are numbers of elements.
#[derive(Debug, Clone, PartialEq)]
pub struct ModelConfig {
    /// `llama`: the name under which the engine finds its model.
    pub architecture: String,
    /// Rows of the embedding and of the output head.
    pub vocab_size: usize,
    pub hidden_size: usize,
    pub intermediate_size: usize,
    pub layers: usize,
    pub heads: usize,
    pub kv_heads: usize,
    pub head_dim: usize,
    pub rms_norm_eps: f32,
    /// Positions that the model was made for (`max_position_embeddings`).
    pub context_length: usize,
    /// True when logits come from the embedding matrix. This is what holds after looking at the files: a head that lies in
    /// them is used, whatever the configuration says (as transformers 5 does).
    pub tie_word_embeddings: bool,
    /// Whether there are logits at all: false of a model that has neither a head nor ties one, and of one that is loaded to make vectors.
    pub head: bool,
    /// Biases on the q, k and v projections.
    pub qkv_bias: bool,
    /// A bias on the o projection.
    pub output_bias: bool,
    /// Biases on gate, up and down projections.
    pub mlp_bias: bool,
    /// What the scores of attention are multiplied by.
    pub attention_scale: f32,
    /// For each layer, how many positions a query sees, its own included; `None`: all before it.
    pub windows: Vec<Option<usize>>,
    /// What embeddings are multiplied by.
    pub embedding_scale: f32,
    /// What is added to the stored weights of norms: 1 where a model stores their distance from 1.
    pub norm_offset: f32,
    /// `None`: every feed-forward layer is dense.
    pub experts: Option<ExpertsConfig>,
    pub rope: Rope,
    /// Of the layers with a window, where theirs is another one.
    pub local_rope: Option<Rope>,
}

/// Feed-forward layers of which a token uses a few (Shazeer et al. 2017): a router's softmax chooses them.
#[derive(Debug, Clone, PartialEq)]
pub struct ExpertsConfig {
    pub count: usize,
    /// Experts that a token goes to.
    pub per_token: usize,
    pub intermediate_size: usize,
    /// Whether the weights of a token's experts are divided by their sum.
    pub renormalise: bool,
    /// For each layer, whether it has experts; the others are dense.
    pub layers: Vec<bool>,
}

/// Rotary position embedding.
#[derive(Debug, Clone, PartialEq)]
pub struct Rope {
    /// Base of the frequencies: `theta^(-2i/head_dim)`.
    pub theta: f64,
    pub scaling: RopeScaling,
    pub pairing: RopePairing,
}

/// How frequencies are stretched for contexts beyond the original.
#[derive(Debug, Clone, PartialEq)]
pub enum RopeScaling {
    None,
    /// All positions divided by `factor`.
    Linear {
        factor: f64,
    },
    /// YaRN (Peng et al. 2023): frequencies that turn less than `beta_slow` times within the original context are divided by `factor`,
    /// those that turn more than `beta_fast` times kept, a linear ramp over pairs between.
    Yarn {
        factor: f64,
        original_context: usize,
        beta_fast: f64,
        beta_slow: f64,
        /// Whether the ramp begins and ends at whole pairs.
        truncate: bool,
        /// What cosines and sines are multiplied by.
        attention_factor: f64,
    },
    /// Llama 3.1's: long wavelengths divided by `factor`, short ones kept, a smooth ramp between.
    Llama3 {
        factor: f64,
        low_freq_factor: f64,
        high_freq_factor: f64,
        original_context: usize,
    },
    /// The same thing as numbers: inverse frequency `i` is divided by `factors[i]`; `head_dim / 2` of them (GGUF's `rope_freqs.weight`).
    Factors(Vec<f32>),
}

/// Which two elements of a head turn together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RopePairing {
    /// `i` with `i + head_dim/2` (Hugging Face's rotate-half).
    Halves,
    /// `2i` with `2i + 1`: rows of q and k are permuted so in a llama GGUF.
    Adjacent,
}

/// Sizes beyond these are a broken or hostile file; the largest open models stay well below.
const MAX_LAYERS: usize = 1024;
const MAX_HEADS: usize = 4096;
const MAX_HEAD_DIM: usize = 1024;
const MAX_WIDTH: usize = 1 << 20;
const MAX_VOCAB: usize = 1 << 24;
const MAX_CONTEXT: usize = 1 << 30;
const MAX_EXPERTS: usize = 4096;

/// The keys of one format, so that an error names what the reader finds in the file.
pub(crate) struct Spelling {
    /// What stands before each key.
    pub prefix: String,
    pub vocab_size: &'static str,
    pub hidden_size: &'static str,
    pub intermediate_size: &'static str,
    pub layers: &'static str,
    pub heads: &'static str,
    pub kv_heads: &'static str,
    pub head_dim: &'static str,
    pub rms_norm_eps: &'static str,
    pub context_length: &'static str,
    pub rope_theta: &'static str,
    pub rope_scaling: &'static str,
    pub window: &'static str,
    pub experts: &'static str,
    pub experts_per_token: &'static str,
    pub expert_size: &'static str,
}

impl Spelling {
    /// The whole key.
    pub fn key(&self, name: &str) -> String {
        format!("{}{name}", self.prefix)
    }
}

impl ModelConfig {
    /// Refuses sizes that are zero, absurd, or contradict each other.
    pub(crate) fn check(&self, file: &Path, keys: &Spelling) -> Result<(), AssetsError> {
        let sizes = [
            (keys.vocab_size, self.vocab_size, MAX_VOCAB),
            (keys.hidden_size, self.hidden_size, MAX_WIDTH),
            (keys.intermediate_size, self.intermediate_size, MAX_WIDTH),
            (keys.layers, self.layers, MAX_LAYERS),
            (keys.heads, self.heads, MAX_HEADS),
            (keys.kv_heads, self.kv_heads, MAX_HEADS),
            (keys.head_dim, self.head_dim, MAX_HEAD_DIM),
            (keys.context_length, self.context_length, MAX_CONTEXT),
        ];
        for (key, size, max) in sizes {
            if size == 0 || size > max {
                return Err(wrong(file, &keys.key(key), format!("{size} is not between 1 and {max}")));
            }
        }
        if !self.heads.is_multiple_of(self.kv_heads) {
            return Err(wrong(
                file,
                &keys.key(keys.kv_heads),
                format!("{} heads are not a multiple of {} key/value heads", self.heads, self.kv_heads),
            ));
        }
        if !self.head_dim.is_multiple_of(2) {
            return Err(wrong(file, &keys.key(keys.head_dim), format!("{} is odd, rotary embedding needs pairs", self.head_dim)));
        }
        if !(self.rms_norm_eps > 0.0 && self.rms_norm_eps < 1.0) {
            return Err(wrong(file, &keys.key(keys.rms_norm_eps), format!("{} is not between 0 and 1", self.rms_norm_eps)));
        }
        for rope in [Some(&self.rope), self.local_rope.as_ref()].into_iter().flatten() {
            if !(rope.theta.is_finite() && rope.theta >= 1.0) {
                return Err(wrong(file, &keys.key(keys.rope_theta), format!("{} is no base of frequencies", rope.theta)));
            }
            rope.scaling.check().map_err(|what| wrong(file, &keys.key(keys.rope_scaling), what))?;
        }
        if !(self.attention_scale.is_finite() && self.embedding_scale.is_finite()) {
            let what = format!("attention is scaled by {}, embeddings by {}", self.attention_scale, self.embedding_scale);
            return Err(wrong(file, &keys.key(keys.hidden_size), what));
        }
        if self.windows.contains(&Some(0)) {
            return Err(wrong(file, &keys.key(keys.window), "a window of 0 positions shows nothing".to_owned()));
        }
        self.check_experts(file, keys)
    }

    fn check_experts(&self, file: &Path, keys: &Spelling) -> Result<(), AssetsError> {
        let Some(experts) = &self.experts else { return Ok(()) };
        let sizes = [
            (keys.experts, experts.count, MAX_EXPERTS),
            (keys.experts_per_token, experts.per_token, experts.count),
            (keys.expert_size, experts.intermediate_size, MAX_WIDTH),
        ];
        match sizes.into_iter().find(|(_, size, max)| *size == 0 || size > max) {
            Some((key, size, max)) => Err(wrong(file, &keys.key(key), format!("{size} is not between 1 and {max}"))),
            None => Ok(()),
        }
    }
}

impl RopeScaling {
    /// `original` positions become so many.
    pub(crate) fn stretched(&self, context: usize) -> usize {
        let stretch = |context: usize, factor: f64| (context as f64 * factor).min(MAX_CONTEXT as f64) as usize;
        match self {
            Self::Linear { factor } => stretch(context, *factor),
            Self::Yarn { factor, original_context, .. } => stretch(*original_context, *factor).max(context),
            Self::None | Self::Llama3 { .. } | Self::Factors(_) => context,
        }
    }

    fn check(&self) -> Result<(), String> {
        let stretches = |factor: f64| factor.is_finite() && factor >= 1.0;
        match *self {
            Self::None | Self::Factors(_) => Ok(()),
            Self::Linear { factor } if stretches(factor) => Ok(()),
            Self::Linear { factor } => Err(format!("linear scaling by {factor}; at least 1 is needed")),
            Self::Yarn { factor, original_context, beta_fast, beta_slow, attention_factor, .. } => {
                let ordered = beta_slow > 0.0 && beta_fast >= beta_slow && beta_fast.is_finite();
                if stretches(factor) && original_context > 0 && ordered && attention_factor.is_finite() && attention_factor > 0.0
                {
                    return Ok(());
                }
                Err("yarn scaling needs factor ≥ 1, 0 < beta_slow ≤ beta_fast, attention_factor > 0 and original_max_position_embeddings > 0".to_owned())
            }
            Self::Llama3 { factor, low_freq_factor, high_freq_factor, original_context } => {
                let ordered = low_freq_factor > 0.0 && high_freq_factor > low_freq_factor && high_freq_factor.is_finite();
                if stretches(factor) && ordered && original_context > 0 {
                    return Ok(());
                }
                Err("llama3 scaling needs factor ≥ 1, 0 < low_freq_factor < high_freq_factor and original_max_position_embeddings > 0".to_owned())
            }
        }
    }
}

fn wrong(file: &Path, key: &str, what: String) -> AssetsError {
    AssetsError::new(ErrorKind::Mismatch, file, what, "correct the value, or fetch the file again").key(key)
}
