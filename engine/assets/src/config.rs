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
    /// Biases on q, k, v and o projections.
    pub attention_bias: bool,
    /// Biases on gate, up and down projections.
    pub mlp_bias: bool,
    pub rope: Rope,
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
        if !(self.rope.theta.is_finite() && self.rope.theta >= 1.0) {
            return Err(wrong(file, &keys.key(keys.rope_theta), format!("{} is no base of frequencies", self.rope.theta)));
        }
        if let RopeScaling::Llama3 { factor, low_freq_factor, high_freq_factor, original_context } = self.rope.scaling {
            let ordered = factor >= 1.0
                && low_freq_factor > 0.0
                && high_freq_factor > low_freq_factor
                && high_freq_factor.is_finite()
                && factor.is_finite();
            if !ordered || original_context == 0 {
                return Err(wrong(
                    file,
                    &keys.key(keys.rope_theta),
                    "llama3 scaling needs factor ≥ 1, 0 < low_freq_factor < high_freq_factor and original_max_position_embeddings > 0".to_owned(),
                ));
            }
        }
        Ok(())
    }
}

fn wrong(file: &Path, key: &str, what: String) -> AssetsError {
    AssetsError::new(ErrorKind::Mismatch, file, what, "correct the value, or fetch the file again").key(key)
}
