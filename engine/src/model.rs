//! Models: from tensors by name to logits. A new architecture is one file here and one line in [`load`]'s table.

mod gemma3;
mod llama;
mod mixtral;
mod qwen2;
mod qwen3;
mod qwen3_moe;

use engine_assets::{Adapter, ModelConfig, TensorIndex, TensorInfo};

use crate::backend::{AdapterSlot, DeviceError};
use crate::device::{Device, Part};

/// A loaded model with the activations that it computes in.
pub trait Model<D: Device>: Send {
    /// Computes the batch that `device` was given. The logits `[rows that sample, vocabulary]`, in row order; of a model without a head
    /// the last hidden states `[rows that sample, hidden]`, normed.
    fn forward(&mut self, device: &mut D) -> &mut D::Activation;

    /// Puts an adapter into a slot for the rows that name it, or empties the slot. After an error the slot has to be emptied.
    fn set_adapter(&mut self, device: &mut D, slot: AdapterSlot, adapter: Option<&Adapter>) -> Result<(), ModelError>;
}

type Load<D> = fn(&ModelConfig, &mut Weights<'_, D>) -> Result<Box<dyn Model<D>>, ModelError>;

/// Loads the model that `config` describes. Its weights stay on `device`.
pub fn load<D: Device + 'static>(
    config: &ModelConfig,
    tensors: &TensorIndex,
    device: &mut D,
) -> Result<Box<dyn Model<D>>, ModelError> {
    let table: [(&str, Load<D>); 6] = [
        ("llama", llama::load),
        ("qwen2", qwen2::load),
        ("qwen3", qwen3::load),
        ("qwen3_moe", qwen3_moe::load),
        ("mixtral", mixtral::load),
        ("gemma3", gemma3::load),
    ];
    match table.iter().find(|(architecture, _)| *architecture == config.architecture) {
        Some((_, load)) => load(config, &mut Weights { device, tensors }),
        None => Err(ModelError::Architecture {
            found: config.architecture.clone(),
            supported: table.map(|(architecture, _)| architecture).join(", "),
        }),
    }
}

/// The model's tensors, and the device on which layers put them.
pub struct Weights<'a, D> {
    pub device: &'a mut D,
    tensors: &'a TensorIndex,
}

/// Says which part of a tensor this rank holds, or why it cannot.
type Choose<'c, 'a> = &'c dyn Fn(&str, &'a TensorInfo) -> Result<Part<'a>, ModelError>;

impl<'a, D: Device> Weights<'a, D> {
    /// Stacks the chosen parts of the named tensors.
    pub fn matrix(
        &mut self,
        names: impl Iterator<Item = String>,
        choose: impl Fn(&str, &'a TensorInfo) -> Result<Part<'a>, ModelError>,
    ) -> Result<D::Matrix, ModelError> {
        let (names, parts) = self.parts(names, &choose)?;
        self.device.matrix(&parts).map_err(|error| ModelError::tensor(&names, error.to_string()))
    }

    /// Concatenates the chosen parts of the named tensors and adds `offset` to every value.
    pub fn vector(
        &mut self,
        names: impl Iterator<Item = String>,
        offset: f32,
        choose: impl Fn(&str, &'a TensorInfo) -> Result<Part<'a>, ModelError>,
    ) -> Result<D::Vector, ModelError> {
        let (names, parts) = self.parts(names, &choose)?;
        self.device.vector(&parts, offset).map_err(|error| ModelError::tensor(&names, error.to_string()))
    }

    /// Where the outputs of `{prefix}{name}` lie when they are stacked, by the modules' names.
    pub fn outputs(&self, prefix: &str, names: &[&str]) -> Result<Vec<(String, std::ops::Range<usize>)>, ModelError> {
        let mut end = 0;
        let module = |name: &&str| {
            let module = format!("{prefix}{name}");
            let (_, parts) = self.parts([format!("{module}.weight")].into_iter(), &|_, tensor| {
                Ok(Part { tensor, rows: 0..tensor.shape.first().copied().unwrap_or(0), columns: 0..0 })
            })?;
            let first = end;
            end += parts.iter().map(|part| part.rows.len()).sum::<usize>();
            Ok((module, first..end))
        };
        names.iter().map(module).collect()
    }

    fn parts(&self, names: impl Iterator<Item = String>, choose: Choose<'_, 'a>) -> Result<(String, Vec<Part<'a>>), ModelError> {
        let names: Vec<String> = names.collect();
        let parts = names.iter().map(|name| {
            let tensor =
                self.tensors.get(name).ok_or_else(|| ModelError::tensor(name, "is not among the model's tensors".to_owned()))?;
            choose(name, tensor)
        });
        let parts = parts.collect::<Result<_, _>>()?;
        Ok((names.join(", "), parts))
    }
}

/// Why a model cannot be loaded.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ModelError {
    #[error("architecture {found} is not supported; use one of: {supported}")]
    Architecture { found: String, supported: String },
    #[error("tensor {name}: {what}")]
    Tensor { name: String, what: String },
    #[error("{heads} query heads and {kv_heads} key/value heads do not divide by {ranks} ranks")]
    Ranks { heads: usize, kv_heads: usize, ranks: usize },
    #[error(transparent)]
    Device(#[from] DeviceError),
}

impl ModelError {
    pub fn tensor(name: &str, what: String) -> Self {
        Self::Tensor { name: name.to_owned(), what }
    }
}
