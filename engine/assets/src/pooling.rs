//! How a model makes one vector of a text: which hidden states it takes, and what becomes of them.

/// Which of a text's last hidden states its vector is. vLLM's `seq_pooling_type`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Pooling {
    /// The first token's.
    Cls,
    /// The last token's.
    #[default]
    Last,
    /// The mean of all.
    Mean,
}

impl Pooling {
    /// By the names of vLLM and of sentence-transformers, old and new.
    pub fn by_name(name: &str) -> Option<Self> {
        Some(match name.to_ascii_lowercase().trim_start_matches("pooling_mode_") {
            "cls" | "cls_token" => Self::Cls,
            "last" | "lasttoken" | "last_token" => Self::Last,
            "mean" | "mean_tokens" => Self::Mean,
            _ => return None,
        })
    }

    /// Whether the vector can be had without the hidden states of what a prefix cache holds.
    pub const fn allows_cached(self) -> bool {
        matches!(self, Self::Last)
    }
}

/// To which sizes a client may have vectors cut (Kusupati et al. 2022): those that the model was trained for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Matryoshka {
    /// None but the whole.
    #[default]
    No,
    /// Any.
    Any,
    /// These.
    Sizes(Vec<usize>),
}

/// How vectors are made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PoolingConfig {
    pub pooling: Pooling,
    /// Whether a vector is divided by its length.
    pub normalise: bool,
    pub matryoshka: Matryoshka,
}

impl Default for PoolingConfig {
    /// vLLM 0.33's, for a language model that is made to embed.
    fn default() -> Self {
        Self { pooling: Pooling::Last, normalise: true, matryoshka: Matryoshka::No }
    }
}
