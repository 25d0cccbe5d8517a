//! Root-mean-square normalisation (Zhang and Sennrich 2019), in the order of Hugging Face's: normalise, then multiply by the weight.

use crate::device::{Device, Part};
use crate::model::{ModelError, Weights};

pub struct RmsNorm<D: Device> {
    weight: D::Vector,
    epsilon: f32,
}

impl<D: Device> RmsNorm<D> {
    pub fn load(weights: &mut Weights<'_, D>, name: &str, epsilon: f32) -> Result<Self, ModelError> {
        let weight = weights.vector([name.to_owned()].into_iter(), |_, tensor| {
            Ok(Part { tensor, rows: 0..1, columns: 0..tensor.shape.iter().product() })
        })?;
        Ok(Self { weight, epsilon })
    }

    pub fn apply(&self, device: &mut D, x: &D::Activation, out: &mut D::Activation) {
        device.rms_norm(x, &self.weight, self.epsilon, out);
    }
}
