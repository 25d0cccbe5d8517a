//! Grouped-query attention over paged keys and values (Ainslie et al. 2023; Kwon et al. 2023).

use engine_assets::ModelConfig;

use super::{Linear, Split};
use crate::device::{Causal, Device, Group, Heads, Rows};
use crate::model::{ModelError, Weights};

pub struct Attention<D: Device> {
    qkv: Linear<D>,
    out: Linear<D>,
    heads: Heads,
    causal: Causal,
}

/// Activations between the operations of one attention layer; all layers share them.
pub struct AttentionScratch<D: Device> {
    qkv: D::Activation,
    mixed: D::Activation,
}

impl<D: Device> Attention<D> {
    /// Loads `{prefix}{q,k,v,o}_proj`.
    pub fn load(
        weights: &mut Weights<'_, D>,
        group: Group,
        config: &ModelConfig,
        layer: usize,
        prefix: &str,
    ) -> Result<Self, ModelError> {
        let heads = Self::heads(config, group)?;
        Ok(Self {
            qkv: Linear::load(weights, group, Split::Out, prefix, &["q_proj", "k_proj", "v_proj"], config.attention_bias)?,
            out: Linear::load(weights, group, Split::In, prefix, &["o_proj"], config.attention_bias)?,
            heads,
            causal: Causal { layer, heads, scale: 1.0 / (config.head_dim as f32).sqrt(), window: None },
        })
    }

    fn heads(config: &ModelConfig, group: Group) -> Result<Heads, ModelError> {
        match (group.share(config.heads), group.share(config.kv_heads)) {
            (Some(query), Some(kv)) => Ok(Heads { query: query.len(), kv: kv.len(), dim: config.head_dim }),
            _ => Err(ModelError::Ranks { heads: config.heads, kv_heads: config.kv_heads, ranks: group.size() }),
        }
    }

    pub fn scratch(device: &mut D, config: &ModelConfig, group: Group) -> Result<AttentionScratch<D>, ModelError> {
        let heads = Self::heads(config, group)?;
        Ok(AttentionScratch {
            qkv: device.activation(Rows::Tokens, heads.qkv_features())?,
            mixed: device.activation(Rows::Tokens, heads.query * heads.dim)?,
        })
    }

    /// `residual += attention(x)`.
    pub fn add(
        &self,
        device: &mut D,
        rotation: &D::Rotation,
        scratch: &mut AttentionScratch<D>,
        x: &D::Activation,
        residual: &mut D::Activation,
    ) {
        self.qkv.set(device, x, &mut scratch.qkv);
        device.rotate(rotation, self.heads, &mut scratch.qkv);
        device.attend(self.causal, &scratch.qkv, &mut scratch.mixed);
        self.out.add(device, &scratch.mixed, residual);
    }
}
