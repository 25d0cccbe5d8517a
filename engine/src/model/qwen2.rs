//! Qwen 2 and 2.5 (Yang et al. 2024): Llama with biases on queries, keys and values, and windows in late layers where asked for.
//!
//! Matches `Qwen2ForCausalLM` of transformers 5.

use engine_assets::ModelConfig;

use super::{Model, ModelError, Weights};
use crate::device::{Device, Gate};
use crate::layer::{Decoder, FeedForward, Mlp, PreNorm};

pub(super) fn load<D: Device + 'static>(
    config: &ModelConfig,
    weights: &mut Weights<'_, D>,
) -> Result<Box<dyn Model<D>>, ModelError> {
    Decoder::load(config, weights, |weights, group, layer| {
        let mlp = Mlp::load(weights, group, config, &format!("model.layers.{layer}.mlp."), Gate::Silu)?;
        PreNorm::load(weights, group, config, layer, None, FeedForward::Dense(mlp))
    })
}
