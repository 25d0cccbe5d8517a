//! Rotary positions out of `ARCHITECTURE.rope.*` metadata.

use super::metadata::Metadata;
use crate::architecture::{Architecture, Windowed};
use crate::config::{Rope, RopeScaling, Spelling};
use crate::error::{AssetsError, ErrorKind, Quoted};

/// Gemma 3's base of the layers with a window.
const LOCAL_THETA: f64 = 10_000.0;

/// The rotation of all layers, or of those that see everything and of those with a window. `factors` are those of `rope_freqs.weight`.
pub(super) fn read(
    metadata: &Metadata,
    architecture: &Architecture,
    keys: &Spelling,
    context: usize,
    head_dim: usize,
    factors: Option<Vec<f32>>,
) -> Result<(Rope, Option<Rope>), AssetsError> {
    // Where the converter permutes rows of q and k, neighbours turn together.
    let pairing = architecture.gguf_pairing;
    let theta = metadata.optional_float(&keys.key(keys.rope_theta))?.unwrap_or(architecture.defaults.rope_theta);
    let scaling = match (scaling(metadata, keys, context)?, factors) {
        (scaling, None) => scaling,
        (RopeScaling::None, Some(factors)) => RopeScaling::Factors(factors),
        (_, Some(_)) => {
            let what = format!("and rope_freqs.weight scale the {head_dim} dimensions of a head both, which is not supported");
            return Err(metadata.error(ErrorKind::Unsupported, &keys.key(keys.rope_scaling), what, "use a model without it"));
        }
    };
    let local = match architecture.windowed {
        Windowed::AllButEachSixth => {
            let theta = metadata.optional_float(&keys.key("rope.freq_base_swa"))?.unwrap_or(LOCAL_THETA);
            Some(Rope { theta, scaling: RopeScaling::None, pairing })
        }
        _ => None,
    };
    Ok((Rope { theta, scaling, pairing }, local))
}

fn scaling(metadata: &Metadata, keys: &Spelling, context: usize) -> Result<RopeScaling, AssetsError> {
    let kind = keys.key(keys.rope_scaling);
    let factor_key = keys.key("rope.scaling.factor");
    let stretch = |factor: Option<f64>| factor.filter(|factor| *factor != 0.0 && *factor != 1.0);
    let factor = metadata.optional_float(&factor_key)?;
    // The older spelling of linear scaling.
    let linear = metadata.optional_float(&keys.key("rope.scale_linear"))?;
    let required = |factor: Option<f64>| factor.ok_or_else(|| metadata.missing(&factor_key));
    Ok(match metadata.optional_string(&kind)? {
        // llama.cpp takes a factor without a kind as linear.
        None => stretch(factor).or(stretch(linear)).map_or(RopeScaling::None, |factor| RopeScaling::Linear { factor }),
        Some("none") => RopeScaling::None,
        Some("linear") => RopeScaling::Linear { factor: required(factor.or(linear))? },
        Some("yarn") => {
            let number = |name: &str| metadata.optional_float(&keys.key(name));
            let factor = required(factor)?;
            if let Some(multiplier) = stretch(number("rope.scaling.yarn_log_multiplier")?) {
                let key = keys.key("rope.scaling.yarn_log_multiplier");
                let what = format!("is {multiplier}, which is not supported");
                return Err(metadata.error(ErrorKind::Unsupported, &key, what, "use a model without it"));
            }
            RopeScaling::Yarn {
                factor,
                original_context: metadata.optional_size(&keys.key("rope.scaling.original_context_length"))?.unwrap_or(context),
                beta_fast: number("rope.scaling.yarn_beta_fast")?.unwrap_or(32.0),
                beta_slow: number("rope.scaling.yarn_beta_slow")?.unwrap_or(1.0),
                truncate: true,
                // llama.cpp multiplies its own logarithm with the factor that the file may give.
                attention_factor: number("rope.scaling.attn_factor")?.unwrap_or(1.0) * (0.1 * factor.ln() + 1.0),
            }
        }
        Some(other) => {
            let what = format!("rope scaling {} is not supported", Quoted(other));
            return Err(metadata.error(ErrorKind::Unsupported, &kind, what, "supported: none, linear, yarn"));
        }
    })
}
