//! Linear layers, split among the ranks of a group.

use engine_assets::Adapter;

use super::low_rank::LowRanks;
use crate::backend::AdapterSlot;
use crate::device::{Device, Group, Part, Write};
use crate::model::{ModelError, Weights};

/// Along which side of `[out, in]` the ranks of a group divide a layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Split {
    /// Each rank computes some of the outputs.
    Out,
    /// Each rank sees some of the inputs; the outputs are summed over the group.
    In,
}

/// This rank's part of the named matrices, their outputs side by side.
pub fn matrix<D: Device>(
    weights: &mut Weights<'_, D>,
    group: Group,
    split: Split,
    names: impl Iterator<Item = String>,
) -> Result<D::Matrix, ModelError> {
    // Partial sums want an all-reduce, which the layers will do once a group can have a second rank.
    debug_assert!(group.size() == 1 || split == Split::Out, "no collectives yet");
    weights.matrix(names, |name, tensor| {
        let [out, inputs] = tensor.shape[..] else {
            return Err(ModelError::tensor(name, format!("has shape {:?}, a matrix was expected", tensor.shape)));
        };
        let part = match split {
            Split::Out => group.share(out).map(|rows| Part { tensor, rows, columns: 0..inputs }),
            Split::In => group.share(inputs).map(|columns| Part { tensor, rows: 0..out, columns }),
        };
        part.ok_or_else(|| ModelError::tensor(name, format!("{:?} does not divide by {} ranks", tensor.shape, group.size())))
    })
}

/// One or several matrices over the same input, their outputs side by side.
pub struct Linear<D: Device> {
    weight: D::Matrix,
    bias: Option<D::Vector>,
    adapters: LowRanks<D>,
}

impl<D: Device> Linear<D> {
    /// Loads `{prefix}{name}.weight`, and `.bias` if `biased`, for each name.
    pub fn load(
        weights: &mut Weights<'_, D>,
        group: Group,
        split: Split,
        prefix: &str,
        names: &[&str],
        biased: bool,
    ) -> Result<Self, ModelError> {
        let weight = matrix(weights, group, split, names.iter().map(|name| format!("{prefix}{name}.weight")))?;
        let bias = if biased {
            let names = names.iter().map(|name| format!("{prefix}{name}.bias"));
            Some(weights.vector(names, 0.0, |name, tensor| {
                let length = tensor.shape.iter().product();
                let share = match split {
                    Split::Out => group.share(length),
                    Split::In => Some(0..length),
                };
                let columns =
                    share.ok_or_else(|| ModelError::tensor(name, format!("{length} do not divide by {} ranks", group.size())))?;
                Ok(Part { tensor, rows: 0..1, columns })
            })?)
        } else {
            None
        };
        let adapters = LowRanks::new(weights.outputs(prefix, names)?);
        Ok(Self { weight, bias, adapters })
    }

    /// Puts an adapter into a slot, or empties it. How many of the adapter's modules are here.
    pub fn set_adapter(&mut self, device: &mut D, slot: AdapterSlot, adapter: Option<&Adapter>) -> Result<usize, ModelError> {
        self.adapters.set(device, slot, adapter)
    }

    /// `out = x · Wᵀ + b`.
    pub fn set(&self, device: &mut D, x: &D::Activation, out: &mut D::Activation) {
        device.linear(&self.weight, self.bias.as_ref(), x, out, Write::Set);
        self.adapters.add(device, x, out);
    }

    /// `out += x · Wᵀ + b`: how a block's result joins the residual stream.
    pub fn add(&self, device: &mut D, x: &D::Activation, out: &mut D::Activation) {
        device.linear(&self.weight, self.bias.as_ref(), x, out, Write::Add);
        self.adapters.add(device, x, out);
    }
}
