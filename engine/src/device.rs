//! What a model needs of a device: weights, activations and a dozen operations on them.
//!
//! A [`Device`] computes one batch at a time. The backend takes the batch over first, so that models never see token ids, positions or
//! block tables: [`Device::embed`] looks up the batch's own tokens, [`Device::attend`] writes and reads the batch's own blocks.
//!
//! Every result is f32. For each output value the order of its sums may depend on the size of the operation alone (such as the number
//! of input features), never on how many rows are computed beside it: that is what makes a request's tokens independent of its batch.

use std::ops::Range;

use engine_assets::{RopePairing, TensorInfo};

use crate::backend::DeviceError;

/// The ranks among which a layer is split, and which of them this process is. Today always [`Group::SINGLE`]: a second rank needs the
/// collectives that come with `engine/link`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Group {
    rank: usize,
    size: usize,
}

impl Group {
    pub const SINGLE: Self = Self { rank: 0, size: 1 };

    /// This rank's part of `count` equal things: heads, output features, experts. `None`: they do not divide evenly.
    pub fn share(self, count: usize) -> Option<Range<usize>> {
        let each = count / self.size;
        (each * self.size == count).then(|| each * self.rank..each * (self.rank + 1))
    }

    pub fn size(self) -> usize {
        self.size
    }
}

/// A rectangle of a stored tensor: this rank's part of it. A vector is a matrix of one row.
#[derive(Clone, Debug)]
pub struct Part<'a> {
    pub tensor: &'a TensorInfo,
    pub rows: Range<usize>,
    pub columns: Range<usize>,
}

/// Attention heads of one rank. `query` is a multiple of `kv`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Heads {
    pub query: usize,
    pub kv: usize,
    /// Elements of one head.
    pub dim: usize,
}

impl Heads {
    /// Features of queries, keys and values of one token, side by side in this order.
    pub fn qkv_features(&self) -> usize {
        (self.query + 2 * self.kv) * self.dim
    }
}

/// For which rows of a batch an activation has room.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rows {
    /// Every input token of a batch.
    Tokens,
    /// Every row of a batch that samples.
    Samples,
}

/// Whether a result replaces what the output holds or is added to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Write {
    Set,
    Add,
}

/// Cosines and sines of the rotary embedding, `[positions, dim / 2]`, row-major.
#[derive(Clone, Debug, PartialEq)]
pub struct RotationTable {
    pub cos: Vec<f32>,
    pub sin: Vec<f32>,
    pub dim: usize,
    pub pairing: RopePairing,
}

/// A device that computes a model. An activation is `[rows, features]`, f32; it has the rows of the operation that last wrote it.
pub trait Device: Send {
    /// Weights `[out, in]`, possibly several tensors stacked along `out`, kept as they are stored.
    type Matrix: Send;
    /// Weights `[n]` in f32: norms, biases.
    type Vector: Send;
    type Rotation: Send;
    type Activation: Send;

    /// Positions that a request on this device can have.
    fn positions(&self) -> usize;

    /// Stacks `parts`, all with the same number of columns, from top to bottom.
    fn matrix(&mut self, parts: &[Part<'_>]) -> Result<Self::Matrix, DeviceError>;

    /// Concatenates `parts`, each of one row.
    fn vector(&mut self, parts: &[Part<'_>]) -> Result<Self::Vector, DeviceError>;

    fn rotation(&mut self, table: RotationTable) -> Result<Self::Rotation, DeviceError>;

    /// Room for the given rows of the largest batch. Contents are unspecified.
    fn activation(&mut self, rows: Rows, features: usize) -> Result<Self::Activation, DeviceError>;

    /// `out[t] = table[token t]` for every token of the batch.
    fn embed(&mut self, table: &Self::Matrix, out: &mut Self::Activation);

    /// `out = x · weightᵀ + bias`, set or added.
    fn linear(
        &mut self,
        weight: &Self::Matrix,
        bias: Option<&Self::Vector>,
        x: &Self::Activation,
        out: &mut Self::Activation,
        write: Write,
    );

    /// `out = x / sqrt(mean(x²) + epsilon) · weight`, the product with `weight` last.
    fn rms_norm(&mut self, x: &Self::Activation, weight: &Self::Vector, epsilon: f32, out: &mut Self::Activation);

    /// Turns the queries and keys in `qkv` by their positions.
    fn rotate(&mut self, rotation: &Self::Rotation, heads: Heads, qkv: &mut Self::Activation);

    /// Writes the keys and values in `qkv` to the batch's blocks of `layer`, then causal attention of every query over its request's
    /// positions. `out` is `[tokens, query heads × dim]`.
    fn attend(&mut self, layer: usize, heads: Heads, qkv: &Self::Activation, out: &mut Self::Activation);

    /// `out = silu(gate) · up`, where a row of `gate_up` is `gate` then `up`.
    fn silu_mul(&mut self, gate_up: &Self::Activation, out: &mut Self::Activation);

    /// The last token's activation of each row of the batch that samples, in row order.
    fn sampling_rows(&mut self, x: &Self::Activation, out: &mut Self::Activation);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_group_shares_what_divides() {
        let second = Group { rank: 1, size: 2 };
        assert_eq!(Group::SINGLE.share(9), Some(0..9));
        assert_eq!(second.share(8), Some(4..8));
        assert_eq!(second.share(9), None);
    }
}
