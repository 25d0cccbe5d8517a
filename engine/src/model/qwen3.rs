//! Qwen 3 (Yang et al. 2025): Llama with a norm of each query and key head; a head's size is its own.
//!
//! Matches `Qwen3ForCausalLM` of transformers 5.

use engine_assets::ModelConfig;

use super::{Model, ModelError, Weights};
use crate::device::{Device, Gate};
use crate::layer::{Decoder, FeedForward, Mlp, PreNorm, QkNorm};

pub(super) fn load<D: Device + 'static>(
    config: &ModelConfig,
    weights: &mut Weights<'_, D>,
) -> Result<Box<dyn Model<D>>, ModelError> {
    Decoder::load(config, weights, |weights, group, layer| {
        let norm = QkNorm::load(weights, &format!("model.layers.{layer}.self_attn."), config)?;
        let mlp = Mlp::load(weights, group, config, &format!("model.layers.{layer}.mlp."), Gate::Silu)?;
        PreNorm::load(weights, group, config, layer, Some(norm), FeedForward::Dense(mlp))
    })
}
