//! Grouped-query attention over paged keys and values (Ainslie et al. 2023; Kwon et al. 2023).

use engine_assets::ModelConfig;

use super::{Linear, QkNorm, Split};
use crate::device::{Causal, Device, Group, Heads, Rows};
use crate::model::{ModelError, Weights};

pub struct Attention<D: Device> {
    qkv: Linear<D>,
    norm: Option<QkNorm<D>>,
    out: Linear<D>,
    causal: Causal,
}

/// Activations between the operations of one attention layer; all layers share them.
pub struct AttentionScratch<D: Device> {
    qkv: D::Activation,
    mixed: D::Activation,
}

impl<D: Device> Attention<D> {
    /// Loads `{prefix}{q,k,v,o}_proj`; `norm` is of the architectures that have one.
    pub fn load(
        weights: &mut Weights<'_, D>,
        group: Group,
        config: &ModelConfig,
        layer: usize,
        prefix: &str,
        norm: Option<QkNorm<D>>,
    ) -> Result<Self, ModelError> {
        let heads = Self::heads(config, group)?;
        let window = config.windows.get(layer).copied().flatten();
        Ok(Self {
            qkv: Linear::load(weights, group, Split::Out, prefix, &["q_proj", "k_proj", "v_proj"], config.qkv_bias)?,
            norm,
            out: Linear::load(weights, group, Split::In, prefix, &["o_proj"], config.output_bias)?,
            causal: Causal { layer, heads, scale: config.attention_scale, window },
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

    /// What adapters can change.
    pub fn linears(&mut self) -> [&mut Linear<D>; 2] {
        [&mut self.qkv, &mut self.out]
    }

    /// Whether it sees the last positions only.
    pub fn is_local(&self) -> bool {
        self.causal.window.is_some()
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
        self.mix(device, rotation, scratch, x);
        self.out.add(device, &scratch.mixed, residual);
    }

    /// `out = attention(x)`.
    pub fn set(
        &self,
        device: &mut D,
        rotation: &D::Rotation,
        scratch: &mut AttentionScratch<D>,
        x: &D::Activation,
        out: &mut D::Activation,
    ) {
        self.mix(device, rotation, scratch, x);
        self.out.set(device, &scratch.mixed, out);
    }

    fn mix(&self, device: &mut D, rotation: &D::Rotation, scratch: &mut AttentionScratch<D>, x: &D::Activation) {
        let AttentionScratch { qkv, mixed } = scratch;
        self.qkv.set(device, x, qkv);
        if let Some(norm) = &self.norm {
            norm.apply(device, self.causal.heads, qkv);
        }
        device.rotate(rotation, self.causal.heads, qkv);
        device.attend(self.causal, qkv, mixed);
    }
}
