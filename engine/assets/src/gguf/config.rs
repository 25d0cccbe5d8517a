//! The shape of the network out of `ARCHITECTURE.*` metadata.

use std::collections::BTreeMap;

use super::metadata::Metadata;
use super::rope;
use crate::architecture::{Architecture, Bias, Experts, Found, Names, Windowed};
use crate::config::{ExpertsConfig, ModelConfig, RopeScaling, Spelling};
use crate::error::{AssetsError, ErrorKind};

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
        rope_scaling: "rope.scaling.type",
        window: "attention.sliding_window",
        experts: "expert_count",
        experts_per_token: "expert_used_count",
        expert_size: "expert_feed_forward_length",
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
    let keys = spelling(architecture.gguf.0);
    let key = |name: &str| keys.key(name);
    let hidden_size = metadata.size(&key(keys.hidden_size))?;
    let heads = metadata.size(&key(keys.heads))?;
    let head_dim = match metadata.optional_size(&key(keys.head_dim))? {
        Some(head_dim) => head_dim,
        None => hidden_size.checked_div(heads).unwrap_or(0),
    };
    refuse_what_changes_the_result(metadata, architecture, &keys, head_dim)?;
    let embedding_rows = found.get("token_embd.weight").and_then(|tensor| tensor.shape.first().copied());
    let vocab_size = match embedding_rows {
        Some(rows) => rows,
        None => metadata.optional_size(&key(keys.vocab_size))?.unwrap_or(tokens),
    };
    let context_length = metadata.size(&key(keys.context_length))?;
    let layers = metadata.size(&key(keys.layers))?;
    let (rope, local_rope) = rope::read(metadata, architecture, &keys, context_length, head_dim, factors)?;
    let bias = |bias: Bias, tensor: &str| match bias {
        Bias::Never => false,
        Bias::Always => true,
        Bias::Configured => found.contains_key(tensor),
    };
    // GGUF has no size of dense layers where there are none, and no size of experts where Mixtral's have that of dense layers.
    let dense_size = metadata.optional_size(&key(keys.intermediate_size))?;
    let expert_size = metadata.optional_size(&key(keys.expert_size))?;
    let size = dense_size.or(expert_size).ok_or_else(|| metadata.missing(&key(keys.intermediate_size)))?;
    let mut config = ModelConfig {
        architecture: architecture.name.to_owned(),
        vocab_size,
        hidden_size,
        intermediate_size: size,
        layers,
        heads,
        kv_heads: metadata.optional_size(&key(keys.kv_heads))?.unwrap_or(heads),
        head_dim,
        rms_norm_eps: metadata
            .optional_float(&key(keys.rms_norm_eps))?
            .ok_or_else(|| metadata.missing(&key(keys.rms_norm_eps)))? as f32,
        context_length: if architecture.gemma { context_length } else { rope.scaling.stretched(context_length) },
        // GGUF has no flag: a file without a head is tied.
        head: true,
        tie_word_embeddings: !Architecture::has_head(found, Names::Gguf),
        qkv_bias: bias(architecture.qkv_bias, "blk.0.attn_q.bias"),
        output_bias: bias(architecture.output_bias, "blk.0.attn_output.bias"),
        mlp_bias: found.contains_key("blk.0.ffn_gate.bias"),
        attention_scale: 1.0 / (head_dim as f32).sqrt(),
        windows: Vec::new(),
        embedding_scale: 1.0,
        // The converter has added Gemma's 1 to its norms.
        norm_offset: 0.0,
        experts: None,
        rope,
        local_rope,
    };
    if architecture.gemma {
        config.embedding_scale = (hidden_size as f32).sqrt();
        if layers == GEMMA_27B_LAYERS && heads > 0 {
            config.attention_scale = 1.0 / ((hidden_size / heads) as f32).sqrt();
        }
    }
    let check = |config: &ModelConfig| config.check(metadata.path(), &keys).map_err(|error| metadata.locate(error));
    // The lists by layer come last: only a checked number of layers says how long they are.
    check(&config)?;
    config.windows = windows(metadata, architecture, &keys, layers)?;
    if architecture.gguf.1 != Experts::None {
        let holds = |layer: usize, name: &str| found.contains_key(&format!("blk.{layer}.{name}.weight"));
        let dense = |layer: usize| architecture.reads("blk.{}.ffn_gate.weight") && holds(layer, "ffn_gate");
        config.experts = Some(ExpertsConfig {
            count: metadata.size(&key(keys.experts))?,
            per_token: metadata.size(&key(keys.experts_per_token))?,
            intermediate_size: expert_size.unwrap_or(size),
            // llama.cpp does so for all of these architectures, and the format has no key for it.
            renormalise: true,
            // A layer with neither kind of tensors is one with experts that misses them.
            layers: (0..layers).map(|layer| holds(layer, "ffn_gate_inp") || !dense(layer)).collect(),
        });
    }
    check(&config)?;
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

/// Gemma 3 27B alone scales by the root of `embedding_length / head_count`; the format has no key for it, and llama.cpp knows it by this.
const GEMMA_27B_LAYERS: usize = 62;

/// The window of each layer: every sixth of Gemma 3 has none, unless the file says otherwise.
fn windows(
    metadata: &Metadata,
    architecture: &Architecture,
    keys: &Spelling,
    layers: usize,
) -> Result<Vec<Option<usize>>, AssetsError> {
    let window = metadata.optional_size(&keys.key(keys.window))?.filter(|window| *window > 0);
    let (Some(window), Windowed::AllButEachSixth) = (window, architecture.windowed) else { return Ok(vec![None; layers]) };
    let pattern = metadata.optional_size(&keys.key("attention.sliding_window_pattern"))?.unwrap_or(6);
    if pattern == 0 {
        let key = keys.key("attention.sliding_window_pattern");
        return Err(metadata.error(ErrorKind::Malformed, &key, "is 0", "the file is damaged; fetch it again"));
    }
    Ok((0..layers).map(|layer| (!(layer + 1).is_multiple_of(pattern)).then_some(window)).collect())
}

/// Options that would change every number, and that nothing here computes.
fn refuse_what_changes_the_result(
    metadata: &Metadata,
    architecture: &Architecture,
    keys: &Spelling,
    head_dim: usize,
) -> Result<(), AssetsError> {
    let refuse = |key: &str, what: String| Err(metadata.error(ErrorKind::Unsupported, key, what, "use a model without it"));
    for key in [keys.key("rope.dimension_count"), keys.key("attention.value_length")] {
        if let Some(dims) = metadata.optional_size(&key)?
            && dims != head_dim
        {
            return refuse(&key, format!("is {dims}, other than the head's {head_dim}, which is not supported"));
        }
    }
    for key in [keys.key("attn_logit_softcapping"), keys.key("final_logit_softcapping"), keys.key("logit_scale")] {
        if metadata.optional_float(&key)?.is_some_and(|factor| factor != 0.0) {
            return refuse(&key, "is not supported for this architecture".to_owned());
        }
    }
    let window = keys.key(keys.window);
    if architecture.windowed != Windowed::AllButEachSixth && metadata.optional_unsigned(&window)?.is_some_and(|size| size > 0) {
        return refuse(&window, "is not supported for this architecture".to_owned());
    }
    for key in [keys.key("expert_shared_count"), keys.key("expert_group_count")] {
        if metadata.optional_unsigned(&key)?.is_some_and(|count| count > 0) {
            return refuse(&key, "is not supported for this architecture".to_owned());
        }
    }
    Ok(())
}
