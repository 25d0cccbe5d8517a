//! Mixtral (Jiang et al. 2024): Llama whose feed-forward layers are experts, of which a token uses two.
//!
//! Matches `MixtralForCausalLM` of transformers 5: softmax over all experts, the best, renormalised.

use engine_assets::ModelConfig;

use super::{Model, ModelError, Weights};
use crate::device::Device;
use crate::layer::experts::ExpertNames;
use crate::layer::{Decoder, Experts, FeedForward, PreNorm};

const NAMES: ExpertNames = ExpertNames { router: "gate", experts: "experts.", gate: "w1", up: "w3", down: "w2" };

pub(super) fn load<D: Device + 'static>(
    config: &ModelConfig,
    weights: &mut Weights<'_, D>,
) -> Result<Box<dyn Model<D>>, ModelError> {
    Decoder::load(config, weights, |weights, group, layer| {
        let prefix = format!("model.layers.{layer}.block_sparse_moe.");
        let Some(experts) = &config.experts else {
            return Err(ModelError::tensor(&format!("{prefix}gate.weight"), "the configuration names no experts".to_owned()));
        };
        let experts = Experts::load(weights, group, experts, &prefix, &NAMES)?;
        PreNorm::load(weights, group, config, layer, None, FeedForward::Sparse(experts))
    })
}
