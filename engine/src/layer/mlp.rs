//! The gated feed-forward layer (SwiGLU and GeGLU, Shazeer 2020).

use engine_assets::ModelConfig;

use super::{Linear, Split};
use crate::device::{Device, Gate, Group, Rows};
use crate::model::{ModelError, Weights};

pub struct Mlp<D: Device> {
    gate_up: Linear<D>,
    gate: Gate,
    down: Linear<D>,
}

/// Activations between the operations of one feed-forward layer; all layers share them.
pub struct MlpScratch<D: Device> {
    gate_up: D::Activation,
    gated: D::Activation,
}

impl<D: Device> Mlp<D> {
    /// Loads `{prefix}{gate,up,down}_proj`.
    pub fn load(
        weights: &mut Weights<'_, D>,
        group: Group,
        config: &ModelConfig,
        prefix: &str,
        gate: Gate,
    ) -> Result<Self, ModelError> {
        Ok(Self {
            gate_up: Linear::load(weights, group, Split::Out, prefix, &["gate_proj", "up_proj"], config.mlp_bias)?,
            gate,
            down: Linear::load(weights, group, Split::In, prefix, &["down_proj"], config.mlp_bias)?,
        })
    }

    pub fn scratch(device: &mut D, config: &ModelConfig, group: Group) -> Result<MlpScratch<D>, ModelError> {
        let features = config.intermediate_size / group.size();
        Ok(MlpScratch {
            gate_up: device.activation(Rows::Tokens, 2 * features)?,
            gated: device.activation(Rows::Tokens, features)?,
        })
    }

    /// What adapters can change.
    pub fn linears(&mut self) -> [&mut Linear<D>; 2] {
        [&mut self.gate_up, &mut self.down]
    }

    /// `residual += down(gate(x) · up(x))`.
    pub fn add(&self, device: &mut D, scratch: &mut MlpScratch<D>, x: &D::Activation, residual: &mut D::Activation) {
        self.gated(device, scratch, x);
        self.down.add(device, &scratch.gated, residual);
    }

    /// `out = down(gate(x) · up(x))`.
    pub fn set(&self, device: &mut D, scratch: &mut MlpScratch<D>, x: &D::Activation, out: &mut D::Activation) {
        self.gated(device, scratch, x);
        self.down.set(device, &scratch.gated, out);
    }

    fn gated(&self, device: &mut D, scratch: &mut MlpScratch<D>, x: &D::Activation) {
        let MlpScratch { gate_up, gated } = scratch;
        self.gate_up.set(device, x, gate_up);
        device.gate_mul(self.gate, gate_up, gated);
    }
}
