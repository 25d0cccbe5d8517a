//! Llama (Touvron et al. 2023; 3.1: Grattafiori et al. 2024): the architecture of Llama 1 to 3, SmolLM2 and their like.
//!
//! Matches `LlamaForCausalLM` of transformers 5: pre-norm blocks of grouped-query attention and SwiGLU, rotary positions,
//! embedding and head tied or not, biases where the configuration has them.

use engine_assets::ModelConfig;

use super::{Model, ModelError, Weights};
use crate::device::{Device, Group, Rows};
use crate::layer::attention::AttentionScratch;
use crate::layer::mlp::MlpScratch;
use crate::layer::{Attention, Embedding, Head, Mlp, RmsNorm, rope};

struct Llama<D: Device> {
    embedding: Embedding<D>,
    blocks: Vec<Block<D>>,
    norm: RmsNorm<D>,
    head: Head<D>,
    rotation: D::Rotation,
    scratch: Scratch<D>,
}

struct Block<D: Device> {
    attention_norm: RmsNorm<D>,
    attention: Attention<D>,
    mlp_norm: RmsNorm<D>,
    mlp: Mlp<D>,
}

struct Scratch<D: Device> {
    /// The residual stream, `[tokens, hidden]`.
    residual: D::Activation,
    normed: D::Activation,
    attention: AttentionScratch<D>,
    mlp: MlpScratch<D>,
    /// `[rows that sample, hidden]`, before and after the last norm.
    last: D::Activation,
    last_normed: D::Activation,
    logits: D::Activation,
}

pub(super) fn load<D: Device + 'static>(
    config: &ModelConfig,
    weights: &mut Weights<'_, D>,
) -> Result<Box<dyn Model<D>>, ModelError> {
    let group = Group::SINGLE;
    let table = rope::table(&config.rope, config.head_dim, weights.device.positions());
    Ok(Box::new(Llama {
        embedding: Embedding::load(weights, "model.embed_tokens.weight")?,
        blocks: (0..config.layers).map(|layer| Block::load(weights, group, config, layer)).collect::<Result<_, _>>()?,
        norm: RmsNorm::load(weights, "model.norm.weight", config.rms_norm_eps)?,
        head: Head::load(weights, (!config.tie_word_embeddings).then_some("lm_head.weight"))?,
        rotation: weights.device.rotation(table)?,
        scratch: Scratch::new(weights.device, config, group)?,
    }))
}

impl<D: Device> Block<D> {
    fn load(weights: &mut Weights<'_, D>, group: Group, config: &ModelConfig, layer: usize) -> Result<Self, ModelError> {
        let name = |part: &str| format!("model.layers.{layer}.{part}");
        Ok(Self {
            attention_norm: RmsNorm::load(weights, &name("input_layernorm.weight"), config.rms_norm_eps)?,
            attention: Attention::load(weights, group, config, layer, &name("self_attn."))?,
            mlp_norm: RmsNorm::load(weights, &name("post_attention_layernorm.weight"), config.rms_norm_eps)?,
            mlp: Mlp::load(weights, group, config, &name("mlp."))?,
        })
    }
}

impl<D: Device> Scratch<D> {
    fn new(device: &mut D, config: &ModelConfig, group: Group) -> Result<Self, ModelError> {
        Ok(Self {
            residual: device.activation(Rows::Tokens, config.hidden_size)?,
            normed: device.activation(Rows::Tokens, config.hidden_size)?,
            attention: Attention::scratch(device, config, group)?,
            mlp: Mlp::scratch(device, config, group)?,
            last: device.activation(Rows::Samples, config.hidden_size)?,
            last_normed: device.activation(Rows::Samples, config.hidden_size)?,
            logits: device.activation(Rows::Samples, config.vocab_size)?,
        })
    }
}

impl<D: Device> Model<D> for Llama<D> {
    fn forward(&mut self, device: &mut D) -> &mut D::Activation {
        let Scratch { residual, normed, attention, mlp, last, last_normed, logits } = &mut self.scratch;
        self.embedding.look_up(device, residual);
        for block in &self.blocks {
            block.attention_norm.apply(device, residual, normed);
            block.attention.add(device, &self.rotation, attention, normed, residual);
            block.mlp_norm.apply(device, residual, normed);
            block.mlp.add(device, mlp, normed, residual);
        }
        device.sampling_rows(residual, last);
        self.norm.apply(device, last, last_normed);
        self.head.logits(device, &self.embedding, last_normed, logits);
        logits
    }
}
