//! What all decoders are around their blocks: embedding, last norm, head.

use engine_assets::{Adapter, ModelConfig};

use super::{Embedding, Head, Linear, RmsNorm, rope};
use crate::backend::AdapterSlot;
use crate::device::{Device, Group, Rows};
use crate::model::{Model, ModelError, Weights};

/// One block of a decoder.
pub trait Block<D: Device>: Send {
    /// Activations between its operations; all blocks share them.
    type Scratch: Send;

    fn scratch(device: &mut D, config: &ModelConfig, group: Group) -> Result<Self::Scratch, ModelError>;

    /// What adapters can change.
    fn linears(&mut self) -> Vec<&mut Linear<D>>;

    /// `residual += block(residual)`.
    fn add(&self, device: &mut D, rotations: &Rotations<D>, scratch: &mut Self::Scratch, residual: &mut D::Activation);
}

/// The rotations of a model.
pub struct Rotations<D: Device> {
    pub global: D::Rotation,
    /// Of the layers with a window, where theirs is another one.
    local: Option<D::Rotation>,
}

impl<D: Device> Rotations<D> {
    fn load(device: &mut D, config: &ModelConfig) -> Result<Self, ModelError> {
        let positions = device.positions();
        let global = device.rotation(rope::table(&config.rope, config.head_dim, positions))?;
        let local = match &config.local_rope {
            Some(rope) => Some(device.rotation(rope::table(rope, config.head_dim, positions))?),
            None => None,
        };
        Ok(Self { global, local })
    }

    pub fn local(&self) -> &D::Rotation {
        self.local.as_ref().unwrap_or(&self.global)
    }
}

/// Embedding, blocks, norm and, unless it makes vectors, a head.
pub struct Decoder<D: Device, B: Block<D>> {
    embedding: Embedding<D>,
    blocks: Vec<B>,
    norm: RmsNorm<D>,
    head: Option<Head<D>>,
    rotations: Rotations<D>,
    scratch: Scratch<D, B>,
}

struct Scratch<D: Device, B: Block<D>> {
    /// The residual stream, `[tokens, hidden]`.
    residual: D::Activation,
    block: B::Scratch,
    /// `[rows that sample, hidden]`, before and after the last norm.
    last: D::Activation,
    last_normed: D::Activation,
    /// `None` without a head.
    logits: Option<D::Activation>,
}

impl<D: Device + 'static, B: Block<D> + 'static> Decoder<D, B> {
    /// `block` loads the block of a layer.
    pub fn load(
        config: &ModelConfig,
        weights: &mut Weights<'_, D>,
        block: impl Fn(&mut Weights<'_, D>, Group, usize) -> Result<B, ModelError>,
    ) -> Result<Box<dyn Model<D>>, ModelError> {
        let group = Group::SINGLE;
        Ok(Box::new(Self {
            embedding: Embedding::load(weights, "model.embed_tokens.weight", config.embedding_scale)?,
            blocks: (0..config.layers).map(|layer| block(weights, group, layer)).collect::<Result<_, _>>()?,
            norm: RmsNorm::load(weights, "model.norm.weight", config)?,
            head: match config.head {
                true => Some(Head::load(weights, (!config.tie_word_embeddings).then_some("lm_head.weight"))?),
                false => None,
            },
            rotations: Rotations::load(weights.device, config)?,
            scratch: Scratch::new(weights.device, config, group)?,
        }))
    }
}

impl<D: Device, B: Block<D>> Scratch<D, B> {
    fn new(device: &mut D, config: &ModelConfig, group: Group) -> Result<Self, ModelError> {
        Ok(Self {
            residual: device.activation(Rows::Tokens, config.hidden_size)?,
            block: B::scratch(device, config, group)?,
            last: device.activation(Rows::Samples, config.hidden_size)?,
            last_normed: device.activation(Rows::Samples, config.hidden_size)?,
            logits: if config.head { Some(device.activation(Rows::Samples, config.vocab_size)?) } else { None },
        })
    }
}

impl<D: Device, B: Block<D>> Model<D> for Decoder<D, B> {
    fn set_adapter(&mut self, device: &mut D, slot: AdapterSlot, adapter: Option<&Adapter>) -> Result<(), ModelError> {
        let mut used = 0;
        for linear in self.blocks.iter_mut().flat_map(Block::linears) {
            used += linear.set_adapter(device, slot, adapter)?;
        }
        match adapter {
            Some(adapter) if used != adapter.modules.len() => {
                let what = format!("{used} of the adapter's {} modules are in this model", adapter.modules.len());
                Err(ModelError::tensor(&adapter.path.display().to_string(), what))
            }
            _ => Ok(()),
        }
    }

    fn forward(&mut self, device: &mut D) -> &mut D::Activation {
        let Scratch { residual, block: scratch, last, last_normed, logits } = &mut self.scratch;
        self.embedding.look_up(device, residual);
        for block in &self.blocks {
            block.add(device, &self.rotations, scratch, residual);
        }
        device.sampling_rows(residual, last);
        self.norm.apply(device, last, last_normed);
        match (&self.head, logits) {
            (Some(head), Some(logits)) => {
                head.logits(device, &self.embedding, last_normed, logits);
                logits
            }
            _ => last_normed,
        }
    }
}
