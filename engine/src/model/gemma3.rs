//! Gemma 3 (Kamath et al. 2025), text only.
//!
//! Matches `Gemma3ForCausalLM` of transformers 5: norms before and after attention and feed-forward layer, norms of each query and key
//! head, GeGLU, embeddings times the root of their width, and five layers with a window to each that sees everything, with a base of
//! rotation of their own.

use engine_assets::ModelConfig;

use super::{Model, ModelError, Weights};
use crate::device::{Device, Gate, Group, Rows};
use crate::layer::attention::AttentionScratch;
use crate::layer::decoder::{Block, Rotations};
use crate::layer::mlp::MlpScratch;
use crate::layer::{Attention, Decoder, Linear, Mlp, QkNorm, RmsNorm};

struct Gemma3Block<D: Device> {
    before_attention: RmsNorm<D>,
    attention: Attention<D>,
    after_attention: RmsNorm<D>,
    before_mlp: RmsNorm<D>,
    mlp: Mlp<D>,
    after_mlp: RmsNorm<D>,
}

struct Scratch<D: Device> {
    normed: D::Activation,
    /// What a layer answers, before its norm.
    answer: D::Activation,
    attention: AttentionScratch<D>,
    mlp: MlpScratch<D>,
}

pub(super) fn load<D: Device + 'static>(
    config: &ModelConfig,
    weights: &mut Weights<'_, D>,
) -> Result<Box<dyn Model<D>>, ModelError> {
    Decoder::load(config, weights, |weights, group, layer| {
        let name = |part: &str| format!("model.layers.{layer}.{part}");
        let norm = QkNorm::load(weights, &name("self_attn."), config)?;
        Ok(Gemma3Block {
            before_attention: RmsNorm::load(weights, &name("input_layernorm.weight"), config)?,
            attention: Attention::load(weights, group, config, layer, &name("self_attn."), Some(norm))?,
            after_attention: RmsNorm::load(weights, &name("post_attention_layernorm.weight"), config)?,
            before_mlp: RmsNorm::load(weights, &name("pre_feedforward_layernorm.weight"), config)?,
            mlp: Mlp::load(weights, group, config, &name("mlp."), Gate::GeluTanh)?,
            after_mlp: RmsNorm::load(weights, &name("post_feedforward_layernorm.weight"), config)?,
        })
    })
}

impl<D: Device> Block<D> for Gemma3Block<D> {
    type Scratch = Scratch<D>;

    fn scratch(device: &mut D, config: &ModelConfig, group: Group) -> Result<Scratch<D>, ModelError> {
        Ok(Scratch {
            normed: device.activation(Rows::Tokens, config.hidden_size)?,
            answer: device.activation(Rows::Tokens, config.hidden_size)?,
            attention: Attention::scratch(device, config, group)?,
            mlp: Mlp::scratch(device, config, group)?,
        })
    }

    fn linears(&mut self) -> Vec<&mut Linear<D>> {
        self.attention.linears().into_iter().chain(self.mlp.linears()).collect()
    }

    fn add(&self, device: &mut D, rotations: &Rotations<D>, scratch: &mut Scratch<D>, residual: &mut D::Activation) {
        let Scratch { normed, answer, attention, mlp } = scratch;
        let rotation = if self.attention.is_local() { rotations.local() } else { &rotations.global };
        self.before_attention.apply(device, residual, normed);
        self.attention.set(device, rotation, attention, normed, answer);
        self.after_attention.apply(device, answer, normed);
        device.add(normed, residual);
        self.before_mlp.apply(device, residual, normed);
        self.mlp.set(device, mlp, normed, answer);
        self.after_mlp.apply(device, answer, normed);
        device.add(normed, residual);
    }
}
