//! The block of most decoders: attention, then a feed-forward layer, a norm before each (Xiong et al. 2020).

use engine_assets::ModelConfig;

use super::attention::AttentionScratch;
use super::decoder::{Block, Rotations};
use super::experts::ExpertsScratch;
use super::mlp::MlpScratch;
use super::{Attention, Experts, Linear, Mlp, QkNorm, RmsNorm};
use crate::device::{Device, Group, Rows};
use crate::model::{ModelError, Weights};

pub struct PreNorm<D: Device> {
    attention_norm: RmsNorm<D>,
    attention: Attention<D>,
    feed_forward_norm: RmsNorm<D>,
    feed_forward: FeedForward<D>,
}

/// A feed-forward layer.
pub enum FeedForward<D: Device> {
    Dense(Mlp<D>),
    Sparse(Experts<D>),
}

pub struct PreNormScratch<D: Device> {
    normed: D::Activation,
    attention: AttentionScratch<D>,
    dense: Option<MlpScratch<D>>,
    sparse: Option<ExpertsScratch<D>>,
}

impl<D: Device> PreNorm<D> {
    /// Loads the norms and the attention of a layer under their usual names, around its `feed_forward`.
    pub fn load(
        weights: &mut Weights<'_, D>,
        group: Group,
        config: &ModelConfig,
        layer: usize,
        qk_norm: Option<QkNorm<D>>,
        feed_forward: FeedForward<D>,
    ) -> Result<Self, ModelError> {
        let name = |part: &str| format!("model.layers.{layer}.{part}");
        Ok(Self {
            attention_norm: RmsNorm::load(weights, &name("input_layernorm.weight"), config)?,
            attention: Attention::load(weights, group, config, layer, &name("self_attn."), qk_norm)?,
            feed_forward_norm: RmsNorm::load(weights, &name("post_attention_layernorm.weight"), config)?,
            feed_forward,
        })
    }
}

impl<D: Device> Block<D> for PreNorm<D> {
    type Scratch = PreNormScratch<D>;

    fn scratch(device: &mut D, config: &ModelConfig, group: Group) -> Result<PreNormScratch<D>, ModelError> {
        let has_dense = config.experts.as_ref().is_none_or(|experts| experts.layers.contains(&false));
        Ok(PreNormScratch {
            normed: device.activation(Rows::Tokens, config.hidden_size)?,
            attention: Attention::scratch(device, config, group)?,
            dense: if has_dense { Some(Mlp::scratch(device, config, group)?) } else { None },
            sparse: match &config.experts {
                Some(experts) => Some(Experts::scratch(device, config, experts, group)?),
                None => None,
            },
        })
    }

    fn linears(&mut self) -> Vec<&mut Linear<D>> {
        let mut linears = Vec::from(self.attention.linears());
        if let FeedForward::Dense(mlp) = &mut self.feed_forward {
            linears.extend(mlp.linears());
        }
        linears
    }

    fn add(&self, device: &mut D, rotations: &Rotations<D>, scratch: &mut PreNormScratch<D>, residual: &mut D::Activation) {
        let PreNormScratch { normed, attention, dense, sparse } = scratch;
        self.attention_norm.apply(device, residual, normed);
        self.attention.add(device, &rotations.global, attention, normed, residual);
        self.feed_forward_norm.apply(device, residual, normed);
        match (&self.feed_forward, dense, sparse) {
            (FeedForward::Dense(mlp), Some(scratch), _) => mlp.add(device, scratch, normed, residual),
            (FeedForward::Sparse(experts), _, Some(scratch)) => experts.add(device, scratch, normed, residual),
            _ => unreachable!("`scratch` made room for the kinds of layers that the configuration names"),
        }
    }
}
