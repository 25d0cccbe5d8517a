//! Llama (Touvron et al. 2023; 3.1: Grattafiori et al. 2024): the architecture of Llama 1 to 3, SmolLM2 and their like.
//!
//! Matches `LlamaForCausalLM` of transformers 5: pre-norm blocks of grouped-query attention and SwiGLU, rotary positions,
//! embedding and head tied or not, biases where the configuration has them.

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
