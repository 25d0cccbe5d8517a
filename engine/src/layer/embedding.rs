//! The two ends of a model: token ids to activations, activations to logits.

use crate::device::{Device, Part, Write};
use crate::model::{ModelError, Weights};

/// `[vocabulary, hidden]`. Whole on every rank.
pub struct Embedding<D: Device>(D::Matrix);

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
    pub fn load(weights: &mut Weights<'_, D>, name: &str) -> Result<Self, ModelError> {
        whole(weights, name).map(Self)
    }

    /// The activations of the batch's tokens.
    pub fn look_up(&self, device: &mut D, out: &mut D::Activation) {
        device.embed(&self.0, 1.0, out);
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
            Self::Tied => &embedding.0,
        };
        device.linear(matrix, None, x, out, Write::Set);
    }
}
