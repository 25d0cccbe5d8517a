//! What `config.json` says layer by layer: windows and experts.

use serde_json::Value;

use super::json::Json;
use crate::architecture::{Architecture, Experts, Windowed};
use crate::config::{ExpertsConfig, ModelConfig};
use crate::error::{AssetsError, ErrorKind, Quoted};

/// The window of each layer.
pub(super) fn windows(json: &Json, architecture: &Architecture, layers: usize) -> Result<Vec<Option<usize>>, AssetsError> {
    let used = match architecture.windowed {
        Windowed::Never => false,
        Windowed::All | Windowed::AllButEachSixth => true,
        Windowed::AllIfUsed | Windowed::LateIfUsed => json.optional_flag("use_sliding_window")?.unwrap_or(false),
    };
    let window = if used { json.optional_size("sliding_window")? } else { None };
    let Some(window) = window else { return Ok(vec![None; layers]) };
    let by_layer = |sees_window: &dyn Fn(usize) -> bool| (0..layers).map(|layer| sees_window(layer).then_some(window)).collect();
    if let Some(kinds) = json.get("layer_types").filter(|_| !matches!(architecture.windowed, Windowed::All | Windowed::AllIfUsed))
    {
        let kinds = kinds.as_array().filter(|kinds| kinds.len() == layers);
        let kinds = kinds.ok_or_else(|| json.wrong("layer_types", &format!("a list of {layers} kinds")))?;
        return kinds.iter().map(|kind| layer_type(json, kind, window)).collect();
    }
    Ok(match architecture.windowed {
        Windowed::LateIfUsed => {
            let first = json.optional_size("max_window_layers")?.unwrap_or(28);
            by_layer(&|layer| layer >= first)
        }
        Windowed::AllButEachSixth => {
            let pattern = json.optional_size("sliding_window_pattern")?.unwrap_or(6);
            if pattern == 0 {
                return Err(json.wrong("sliding_window_pattern", "at least 1"));
            }
            by_layer(&|layer| (layer + 1) % pattern != 0)
        }
        Windowed::Never | Windowed::All | Windowed::AllIfUsed => by_layer(&|_| true),
    })
}

fn layer_type(json: &Json, kind: &Value, window: usize) -> Result<Option<usize>, AssetsError> {
    match kind.as_str() {
        Some("full_attention") => Ok(None),
        Some("sliding_attention") => Ok(Some(window)),
        other => {
            let what = format!("layers of the kind {} are not supported", Quoted(other.unwrap_or("without a name")));
            Err(json.error(ErrorKind::Unsupported, "layer_types", what, "supported: full_attention, sliding_attention"))
        }
    }
}

/// The experts of an architecture that has them, under the names of Qwen or of Mixtral.
pub(super) fn experts(
    json: &Json,
    architecture: &Architecture,
    config: &ModelConfig,
) -> Result<Option<ExpertsConfig>, AssetsError> {
    if architecture.gguf.1 == Experts::None {
        return Ok(None);
    }
    let required = |keys: [&str; 2]| match (json.optional_size(keys[0])?, json.optional_size(keys[1])?) {
        (Some(size), _) | (None, Some(size)) => Ok(size),
        (None, None) => Err(json.error(ErrorKind::Missing, keys[0], "is missing", "fetch the file again")),
    };
    let layers = config.layers;
    let (intermediate_size, renormalise, sparse) = if architecture.gguf.1 == Experts::Configured {
        let step = json.optional_size("decoder_sparse_step")?.unwrap_or(1);
        if step == 0 {
            return Err(json.wrong("decoder_sparse_step", "at least 1"));
        }
        let dense = json.token_ids("mlp_only_layers")?;
        let sparse = |layer: usize| !dense.contains(&(layer as u32)) && (layer + 1).is_multiple_of(step);
        let renormalise = json.optional_flag("norm_topk_prob")?.unwrap_or(false);
        (json.size("moe_intermediate_size")?, renormalise, (0..layers).map(sparse).collect())
    } else {
        (config.intermediate_size, true, vec![true; layers])
    };
    Ok(Some(ExpertsConfig {
        count: required(["num_experts", "num_local_experts"])?,
        per_token: required(["num_experts_per_tok", "num_experts_per_token"])?,
        intermediate_size,
        renormalise,
        layers: sparse,
    }))
}
