//! The shape of the network out of `ARCHITECTURE.*` metadata.

use std::collections::BTreeMap;

use super::metadata::Metadata;
use crate::architecture::{Architecture, Found, Names};
use crate::config::{ModelConfig, Rope, RopePairing, RopeScaling, Spelling};
use crate::error::{AssetsError, ErrorKind, Quoted};

const DEFAULT_ROPE_THETA: f64 = 10_000.0;

fn spelling(architecture: &str) -> Spelling {
    Spelling {
        prefix: format!("{architecture}."),
        vocab_size: "vocab_size",
        hidden_size: "embedding_length",
        intermediate_size: "feed_forward_length",
        layers: "block_count",
        heads: "attention.head_count",
        kv_heads: "attention.head_count_kv",
        head_dim: "attention.key_length",
        rms_norm_eps: "attention.layer_norm_rms_epsilon",
        context_length: "context_length",
        rope_theta: "rope.freq_base",
    }
}

/// Reads and checks the configuration. `tokens` is the length of the vocabulary.
pub(super) fn read(
    architecture: &Architecture,
    metadata: &Metadata,
    found: &BTreeMap<String, Found>,
    tokens: usize,
    factors: Option<Vec<f32>>,
) -> Result<ModelConfig, AssetsError> {
    let keys = spelling(architecture.name);
    let key = |name: &str| keys.key(name);
    let hidden_size = metadata.size(&key(keys.hidden_size))?;
    let heads = metadata.size(&key(keys.heads))?;
    let head_dim = match metadata.optional_size(&key(keys.head_dim))? {
        Some(head_dim) => head_dim,
        None => hidden_size.checked_div(heads).unwrap_or(0),
    };
    refuse_what_changes_the_result(metadata, &keys, head_dim)?;
    let embedding_rows = found.get("token_embd.weight").and_then(|tensor| tensor.shape.first().copied());
    let vocab_size = match embedding_rows {
        Some(rows) => rows,
        None => metadata.optional_size(&key(keys.vocab_size))?.unwrap_or(tokens),
    };
    let config = ModelConfig {
        architecture: architecture.name.to_owned(),
        vocab_size,
        hidden_size,
        intermediate_size: metadata.size(&key(keys.intermediate_size))?,
        layers: metadata.size(&key(keys.layers))?,
        heads,
        kv_heads: metadata.optional_size(&key(keys.kv_heads))?.unwrap_or(heads),
        head_dim,
        rms_norm_eps: metadata
            .optional_float(&key(keys.rms_norm_eps))?
            .ok_or_else(|| metadata.missing(&key(keys.rms_norm_eps)))? as f32,
        context_length: metadata.size(&key(keys.context_length))?,
        // GGUF has no flag: a file without a head is tied.
        tie_word_embeddings: !Architecture::has_head(found, Names::Gguf),
        attention_bias: found.contains_key("blk.0.attn_q.bias"),
        mlp_bias: found.contains_key("blk.0.ffn_gate.bias"),
        rope: Rope {
            theta: metadata.optional_float(&key(keys.rope_theta))?.unwrap_or(DEFAULT_ROPE_THETA),
            scaling: factors.map_or(RopeScaling::None, RopeScaling::Factors),
            // The converter permutes rows of q and k of this architecture so that neighbours turn together.
            pairing: RopePairing::Adjacent,
        },
    };
    config.check(metadata.path(), &keys).map_err(|error| metadata.locate(error))?;
    if let RopeScaling::Factors(factors) = &config.rope.scaling
        && factors.len() != head_dim / 2
    {
        let what = format!("rope_freqs.weight has {} numbers, a head of {head_dim} needs {}", factors.len(), head_dim / 2);
        return Err(AssetsError::new(ErrorKind::Mismatch, metadata.path(), what, "fetch or convert the file again")
            .tensor("rope_freqs.weight"));
    }
    if tokens > vocab_size {
        let what = format!("has {tokens} tokens, the embedding {vocab_size} rows");
        return Err(metadata.error(
            ErrorKind::Mismatch,
            "tokenizer.ggml.tokens",
            what,
            "tokenizer and weights are of different models; fetch or convert the file again",
        ));
    }
    Ok(config)
}

/// Options that would change every number, and that nothing here computes.
fn refuse_what_changes_the_result(metadata: &Metadata, keys: &Spelling, head_dim: usize) -> Result<(), AssetsError> {
    let refuse = |key: &str, what: String| Err(metadata.error(ErrorKind::Unsupported, key, what, "use a model without it"));
    let scaling = keys.key("rope.scaling.type");
    if let Some(kind) = metadata.optional_string(&scaling)?
        && kind != "none"
    {
        return refuse(&scaling, format!("rope scaling {} is not supported", Quoted(kind)));
    }
    for key in [keys.key("rope.scale_linear"), keys.key("rope.scaling.factor")] {
        if metadata.optional_float(&key)?.is_some_and(|factor| factor != 1.0 && factor != 0.0) {
            return refuse(&key, "linear rope scaling is not supported".to_owned());
        }
    }
    for key in [keys.key("rope.dimension_count"), keys.key("attention.value_length")] {
        if let Some(dims) = metadata.optional_size(&key)?
            && dims != head_dim
        {
            return refuse(&key, format!("is {dims}, other than the head's {head_dim}, which is not supported"));
        }
    }
    for key in [keys.key("expert_count"), keys.key("attention.sliding_window")] {
        if metadata.optional_unsigned(&key)?.is_some_and(|count| count > 0) {
            return refuse(&key, "is not supported for this architecture".to_owned());
        }
    }
    Ok(())
}
