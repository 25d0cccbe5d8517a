//! The two ends of a model: token ids to activations, activations to logits.

use crate::device::{Device, Part, Write};
use crate::model::{ModelError, Weights};

/// `[vocabulary, hidden]`. Whole on every rank.
pub struct Embedding<D: Device> {
    table: D::Matrix,
    scale: f32,
}

/// Logits from the last activation: a matrix of its own, or the embedding's ("tied").
pub enum Head<D: Device> {
    Own(D::Matrix),
    Tied,
}

fn whole<D: Device>(weights: &mut Weights<'_, D>, name: &str) -> Result<D::Matrix, ModelError> {
    weights.matrix([name.to_owned()].into_iter(), |name, tensor| match tensor.shape[..] {
        [rows, columns] => Ok(Part { tensor, rows: 0..rows, columns: 0..columns }),
        _ => Err(ModelError::tensor(name, format!("has shape {:?}, a matrix was expected", tensor.shape))),
    })
}

impl<D: Device> Embedding<D> {
    /// What is looked up is multiplied by `scale`; what is tied to it as a head is not.
    pub fn load(weights: &mut Weights<'_, D>, name: &str, scale: f32) -> Result<Self, ModelError> {
        Ok(Self { table: whole(weights, name)?, scale })
    }

    /// The activations of the batch's tokens.
    pub fn look_up(&self, device: &mut D, out: &mut D::Activation) {
        device.embed(&self.table, self.scale, out);
    }
}

impl<D: Device> Head<D> {
    /// `name` is `None` where the embedding serves.
    pub fn load(weights: &mut Weights<'_, D>, name: Option<&str>) -> Result<Self, ModelError> {
        name.map_or(Ok(Self::Tied), |name| whole(weights, name).map(Self::Own))
    }

    pub fn logits(&self, device: &mut D, embedding: &Embedding<D>, x: &D::Activation, out: &mut D::Activation) {
        let matrix = match self {
            Self::Own(matrix) => matrix,
            Self::Tied => &embedding.table,
        };
        device.linear(matrix, None, x, out, Write::Set);
    }
}
