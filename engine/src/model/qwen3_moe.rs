//! Qwen 3 with experts (Yang et al. 2025): in most or all layers a softmax router chooses a token's feed-forward layers.
//!
//! Matches `Qwen3MoeForCausalLM` of transformers 5: softmax, then the best, then their weights renormalised if `norm_topk_prob`.

use engine_assets::ModelConfig;

use super::{Model, ModelError, Weights};
use crate::device::{Device, Gate};
use crate::layer::experts::ExpertNames;
use crate::layer::{Decoder, Experts, FeedForward, Mlp, PreNorm, QkNorm};

const NAMES: ExpertNames =
    ExpertNames { router: "gate", experts: "experts.", gate: "gate_proj", up: "up_proj", down: "down_proj" };

pub(super) fn load<D: Device + 'static>(
    config: &ModelConfig,
    weights: &mut Weights<'_, D>,
) -> Result<Box<dyn Model<D>>, ModelError> {
    Decoder::load(config, weights, |weights, group, layer| {
        let norm = QkNorm::load(weights, &format!("model.layers.{layer}.self_attn."), config)?;
        let prefix = format!("model.layers.{layer}.mlp.");
        let feed_forward = match config.experts.as_ref().filter(|experts| experts.layers.get(layer) == Some(&true)) {
            Some(experts) => FeedForward::Sparse(Experts::load(weights, group, experts, &prefix, &NAMES)?),
            None => FeedForward::Dense(Mlp::load(weights, group, config, &prefix, Gate::Silu)?),
        };
        PreNorm::load(weights, group, config, layer, Some(norm), feed_forward)
    })
}
