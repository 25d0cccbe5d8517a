//! What a model needs of a device: weights, activations and some twenty operations on them.
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

/// Causal attention of one layer.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Causal {
    pub layer: usize,
    pub heads: Heads,
    /// What scores are multiplied by.
    pub scale: f32,
    /// A query at position `p` sees the positions above `p - window` up to its own; `None`: all up to its own.
    pub window: Option<usize>,
}

/// What a gate goes through before it is multiplied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Gate {
    /// `x / (1 + exp(-x))` (SwiGLU).
    Silu,
    /// `x / 2 · (1 + tanh(√(2/π) · (x + 0.044715 x³)))` (GeGLU with the approximate GELU).
    GeluTanh,
}

/// For which rows of a batch an activation has room.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rows {
    /// Every input token of a batch.
    Tokens,
    /// Every position of a batch whose logits are computed.
    Samples,
    /// Every pair of an input token and one of its experts, of which each token has this many.
    Assignments(usize),
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

/// An adapter's part of a linear layer, on a device: `out += scale · B (A x)`.
#[derive(Clone, Debug)]
pub struct LowRank<V> {
    /// `[rank, inputs]`, row-major.
    pub a: V,
    /// `[outputs, rank]`, row-major.
    pub b: V,
    pub rank: usize,
    pub inputs: usize,
    /// Which of the layer's outputs it adds to.
    pub outputs: Range<usize>,
    pub scale: f32,
}

/// A device that computes a model. An activation is `[rows, features]`, f32; it has the rows of the operation that last wrote it.
pub trait Device: Send {
    /// Weights `[out, in]`, possibly several tensors stacked along `out`, kept as they are stored.
    type Matrix: Send;
    /// Weights `[n]` in f32: norms, biases.
    type Vector: Send;
    type Rotation: Send;
    type Activation: Send;
    /// Which experts the batch's tokens go to. Rows by assignment are grouped by expert, in rising order; within one, by token.
    type Routing: Send;

    /// Positions that a request on this device can have.
    fn positions(&self) -> usize;

    /// Stacks `parts`, all with the same number of columns, from top to bottom.
    fn matrix(&mut self, parts: &[Part<'_>]) -> Result<Self::Matrix, DeviceError>;

    /// Concatenates `parts`, each of one row, and adds `offset` to every value.
    fn vector(&mut self, parts: &[Part<'_>], offset: f32) -> Result<Self::Vector, DeviceError>;

    /// Takes values over as they are.
    fn values(&mut self, values: &[f32]) -> Result<Self::Vector, DeviceError>;

    fn rotation(&mut self, table: RotationTable) -> Result<Self::Rotation, DeviceError>;

    /// Room for the given rows of the largest batch. Contents are unspecified.
    fn activation(&mut self, rows: Rows, features: usize) -> Result<Self::Activation, DeviceError>;

    /// Room for the choice of `per_token` out of `experts` for every token of the largest batch.
    fn routing(&mut self, experts: usize, per_token: usize) -> Result<Self::Routing, DeviceError>;

    /// `out[t] = table[token t] · scale` for every token of the batch.
    fn embed(&mut self, table: &Self::Matrix, scale: f32, out: &mut Self::Activation);

    /// `out = x · weightᵀ + bias`, set or added.
    fn linear(
        &mut self,
        weight: &Self::Matrix,
        bias: Option<&Self::Vector>,
        x: &Self::Activation,
        out: &mut Self::Activation,
        write: Write,
    );

    /// `out += scale · B (A x)` for every token whose row names an adapter: the parts in its place of `adapters`, none if it has none there.
    fn low_rank(&mut self, adapters: &[Vec<LowRank<Self::Vector>>], x: &Self::Activation, out: &mut Self::Activation);

    /// `out = x / sqrt(mean(x²) + epsilon) · weight`, the product with `weight` last.
    fn rms_norm(&mut self, x: &Self::Activation, weight: &Self::Vector, epsilon: f32, out: &mut Self::Activation);

    /// Normalises each head of the queries in `qkv` with `query`, each head of the keys with `key`, as [`Device::rms_norm`] does a row.
    fn norm_heads(&mut self, query: &Self::Vector, key: &Self::Vector, epsilon: f32, heads: Heads, qkv: &mut Self::Activation);

    /// Turns the queries and keys in `qkv` by their positions.
    fn rotate(&mut self, rotation: &Self::Rotation, heads: Heads, qkv: &mut Self::Activation);

    /// Writes the keys and values in `qkv` to the batch's blocks of the layer, then attention of every query over its request's
    /// positions. `out` is `[tokens, query heads × dim]`.
    fn attend(&mut self, causal: Causal, qkv: &Self::Activation, out: &mut Self::Activation);

    /// `out = f(gate) · up`, where a row of `gate_up` is `gate` then `up`, and `f` is what `gate` says.
    fn gate_mul(&mut self, gate: Gate, gate_up: &Self::Activation, out: &mut Self::Activation);

    /// `out += x`.
    fn add(&mut self, x: &Self::Activation, out: &mut Self::Activation);

    /// Chooses each token's experts: softmax over its `logits`, the largest of them (of equals the first), and as their weights their
    /// probabilities, divided by their sum if `renormalise`.
    fn route(&mut self, logits: &Self::Activation, renormalise: bool, routing: &mut Self::Routing);

    /// A row of `x` for each assignment: `out[a] = x[token of a]`.
    fn dispatch(&mut self, routing: &Self::Routing, x: &Self::Activation, out: &mut Self::Activation);

    /// `out[a] = x[a] · weights[expert of a]ᵀ`. Reads the weights of an expert once, and not at all if no token goes there.
    fn linear_experts(
        &mut self,
        routing: &Self::Routing,
        weights: &[Self::Matrix],
        x: &Self::Activation,
        out: &mut Self::Activation,
    );

    /// `out[token] += Σ weight · x[a]` over the token's assignments, summed in rising order of their experts.
    fn combine(&mut self, routing: &Self::Routing, x: &Self::Activation, out: &mut Self::Activation);

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
