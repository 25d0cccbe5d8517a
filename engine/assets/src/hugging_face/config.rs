//! `config.json`, in the spellings of transformers 4 and 5.

use serde_json::Value;

use super::json::Json;
use super::{layers, rope};
use crate::architecture::{Architecture, Bias};
use crate::config::{ModelConfig, Spelling};
use crate::error::{AssetsError, ErrorKind, Quoted};

const KEYS: Spelling = Spelling {
    prefix: String::new(),
    vocab_size: "vocab_size",
    hidden_size: "hidden_size",
    intermediate_size: "intermediate_size",
    layers: "num_hidden_layers",
    heads: "num_attention_heads",
    kv_heads: "num_key_value_heads",
    head_dim: "head_dim",
    rms_norm_eps: "rms_norm_eps",
    context_length: "max_position_embeddings",
    rope_theta: "rope_theta",
    rope_scaling: "rope_scaling",
    window: "sliding_window",
    experts: "num_experts",
    experts_per_token: "num_experts_per_tok",
    expert_size: "moe_intermediate_size",
};

/// Reads `config.json`: the architecture, whether it is the body alone, its shape, and the end-of-sequence ids.
pub(super) fn read(json: &Json, warnings: &mut Vec<String>) -> Result<Read, AssetsError> {
    let (architecture, is_body) = architecture(json)?;
    refuse_what_changes_the_result(json, architecture)?;
    let hidden_size = json.size("hidden_size")?;
    let heads = json.size("num_attention_heads")?;
    let head_dim = match json.optional_size("head_dim")?.or(architecture.defaults.head_dim) {
        Some(head_dim) => head_dim,
        None => hidden_size.checked_div(heads).unwrap_or(0),
    };
    let bias = |bias: Bias| match bias {
        Bias::Never => Ok(false),
        Bias::Always => Ok(true),
        Bias::Configured => Ok(json.optional_flag("attention_bias")?.unwrap_or(false)),
    };
    let layers = json.size("num_hidden_layers")?;
    let context_length = json.optional_size("max_position_embeddings")?.unwrap_or(2048);
    let (rope, local_rope) = rope::read(json, architecture, context_length, warnings)?;
    let mut config = ModelConfig {
        architecture: architecture.name.to_owned(),
        vocab_size: json.size("vocab_size")?,
        hidden_size,
        intermediate_size: json.size("intermediate_size")?,
        layers,
        heads,
        kv_heads: json.optional_size("num_key_value_heads")?.unwrap_or(heads),
        head_dim,
        rms_norm_eps: json.optional_number("rms_norm_eps")?.unwrap_or(architecture.defaults.rms_norm_eps) as f32,
        // Gemma's own context is the stretched one.
        context_length: if architecture.gemma { context_length } else { rope.scaling.stretched(context_length) },
        tie_word_embeddings: json.optional_flag("tie_word_embeddings")?.unwrap_or(architecture.defaults.tied),
        head: true,
        qkv_bias: bias(architecture.qkv_bias)?,
        output_bias: bias(architecture.output_bias)?,
        mlp_bias: json.optional_flag("mlp_bias")?.unwrap_or(false),
        attention_scale: 1.0 / (head_dim as f32).sqrt(),
        windows: Vec::new(),
        embedding_scale: 1.0,
        norm_offset: 0.0,
        experts: None,
        rope,
        local_rope,
    };
    if architecture.gemma {
        let scalar = json.optional_number("query_pre_attn_scalar")?.unwrap_or(256.0);
        config.attention_scale = scalar.powf(-0.5) as f32;
        config.embedding_scale = (hidden_size as f32).sqrt();
        config.norm_offset = 1.0;
    }
    // The lists by layer come last: only a checked number of layers says how long they are.
    config.check(&json.path, &KEYS)?;
    config.windows = layers::windows(json, architecture, layers)?;
    config.experts = layers::experts(json, architecture, &config)?;
    config.check(&json.path, &KEYS)?;
    Ok(Read { architecture, is_body, config, eos: json.token_ids("eos_token_id")? })
}

/// What `config.json` says.
pub(super) struct Read {
    pub architecture: &'static Architecture,
    /// The class is that of a body without a head.
    pub is_body: bool,
    pub config: ModelConfig,
    /// End-of-sequence ids.
    pub eos: Vec<u32>,
}

/// The architecture, and whether its class is that of the body alone.
fn architecture(json: &Json) -> Result<(&'static Architecture, bool), AssetsError> {
    let class = json.get("architectures").and_then(|classes| classes.get(0)).and_then(Value::as_str);
    let model_type = json.get("model_type").and_then(Value::as_str);
    let (key, name, architecture) = match (class, model_type) {
        (Some(class), _) => {
            let whole = Architecture::by_class(class).map(|architecture| (architecture, false));
            ("architectures", class, whole.or_else(|| Architecture::by_body(class).map(|architecture| (architecture, true))))
        }
        (None, Some(model_type)) => {
            let found = Architecture::by_model_type(model_type).map(|architecture| (architecture, false));
            ("model_type", model_type, found)
        }
        (None, None) => {
            return Err(json.error(
                ErrorKind::Missing,
                "architectures",
                "is missing",
                "give the folder of a causal language model",
            ));
        }
    };
    architecture.ok_or_else(|| {
        let what = format!("architecture {} is not supported", Quoted(name));
        json.error(ErrorKind::Unsupported, key, what, format!("supported: {}", Architecture::supported()))
    })
}

/// Options that would change every number, and that nothing here computes.
fn refuse_what_changes_the_result(json: &Json, architecture: &Architecture) -> Result<(), AssetsError> {
    let refuse = |key, what: String| Err(json.error(ErrorKind::Unsupported, key, what, "use a model without it"));
    if let Some(quantization) = json.get("quantization_config") {
        let method = quantization.get("quant_method").and_then(Value::as_str).unwrap_or("unnamed");
        return Err(json.error(
            ErrorKind::Unsupported,
            "quantization_config",
            format!("quantisation {} is not supported", Quoted(method)),
            "use the model in F32, F16 or BF16, or a quantised GGUF",
        ));
    }
    for key in ["hidden_act", "hidden_activation"] {
        if let Some(activation) = json.get(key).and_then(Value::as_str)
            && activation != architecture.activation
        {
            return refuse(key, format!("activation {} is not supported for {}", Quoted(activation), architecture.name));
        }
    }
    for key in ["attn_logit_softcapping", "final_logit_softcapping"] {
        if json.get(key).is_some() {
            return refuse(key, "soft-capping is not supported".to_owned());
        }
    }
    if json.optional_flag("use_bidirectional_attention")? == Some(true) {
        return refuse("use_bidirectional_attention", "only causal attention is supported".to_owned());
    }
    for key in ["partial_rotary_factor", "logit_scale", "attention_multiplier"] {
        if json.optional_number(key)?.is_some_and(|factor| factor != 1.0) {
            return refuse(key, "a factor other than 1 is not supported".to_owned());
        }
    }
    Ok(())
}
