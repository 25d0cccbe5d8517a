//! Root-mean-square normalisation (Zhang and Sennrich 2019), in the order of Hugging Face's: normalise, then multiply by the weight.

use engine_assets::ModelConfig;

use crate::device::{Device, Heads, Part};
use crate::model::{ModelError, Weights};

pub struct RmsNorm<D: Device> {
    weight: D::Vector,
    epsilon: f32,
}

impl<D: Device> RmsNorm<D> {
    pub fn load(weights: &mut Weights<'_, D>, name: &str, config: &ModelConfig) -> Result<Self, ModelError> {
        let weight = weights.vector([name.to_owned()].into_iter(), config.norm_offset, |_, tensor| {
            Ok(Part { tensor, rows: 0..1, columns: 0..tensor.shape.iter().product() })
        })?;
        Ok(Self { weight, epsilon: config.rms_norm_eps })
    }

    pub fn apply(&self, device: &mut D, x: &D::Activation, out: &mut D::Activation) {
        device.rms_norm(x, &self.weight, self.epsilon, out);
    }
}

/// A norm of each query head and one of each key head, before they are turned (Henry et al. 2020; Qwen 3, Gemma 3).
pub struct QkNorm<D: Device> {
    query: RmsNorm<D>,
    key: RmsNorm<D>,
}

impl<D: Device> QkNorm<D> {
    /// Loads `{prefix}{q,k}_norm`.
    pub fn load(weights: &mut Weights<'_, D>, prefix: &str, config: &ModelConfig) -> Result<Self, ModelError> {
        Ok(Self {
            query: RmsNorm::load(weights, &format!("{prefix}q_norm.weight"), config)?,
            key: RmsNorm::load(weights, &format!("{prefix}k_norm.weight"), config)?,
        })
    }

    pub fn apply(&self, device: &mut D, heads: Heads, qkv: &mut D::Activation) {
        device.norm_heads(&self.query.weight, &self.key.weight, self.query.epsilon, heads, qkv);
    }
}
