//! Mixture of experts: each token goes through the few feed-forward layers that its router chooses (Shazeer et al. 2017; Jiang et al. 2024).

use engine_assets::{ExpertsConfig, ModelConfig};

use super::linear::{self, Linear, Split};
use crate::device::{Device, Gate, Group, Rows};
use crate::model::{ModelError, Weights};

pub struct Experts<D: Device> {
    router: Linear<D>,
    renormalise: bool,
    /// One for each expert, as all below.
    gate_up: Vec<D::Matrix>,
    down: Vec<D::Matrix>,
}

/// What an architecture calls the tensors of one layer.
pub struct ExpertNames {
    pub router: &'static str,
    /// What stands before an expert's number, and after it the names of its three projections.
    pub experts: &'static str,
    pub gate: &'static str,
    pub up: &'static str,
    pub down: &'static str,
}

/// Activations between the operations of one layer; all layers share them.
pub struct ExpertsScratch<D: Device> {
    /// `[tokens, experts]`.
    logits: D::Activation,
    routing: D::Routing,
    /// `[assignments, hidden]`: what goes into the experts, and later what comes out.
    assigned: D::Activation,
    gate_up: D::Activation,
    gated: D::Activation,
}

impl<D: Device> Experts<D> {
    /// Loads the router and all experts of the layer whose tensors' names begin with `prefix`.
    pub fn load(
        weights: &mut Weights<'_, D>,
        group: Group,
        config: &ExpertsConfig,
        prefix: &str,
        names: &ExpertNames,
    ) -> Result<Self, ModelError> {
        let ExpertNames { router, experts, gate, up, down } = names;
        let name = |expert: usize, part: &str| format!("{prefix}{experts}{expert}.{part}.weight");
        let (mut gate_ups, mut downs) = (Vec::with_capacity(config.count), Vec::with_capacity(config.count));
        for expert in 0..config.count {
            let names = [name(expert, gate), name(expert, up)];
            gate_ups.push(linear::matrix(weights, group, Split::Out, names.into_iter())?);
            downs.push(linear::matrix(weights, group, Split::In, [name(expert, down)].into_iter())?);
        }
        // Every rank chooses for itself, and all choose alike.
        let router = Linear::load(weights, Group::SINGLE, Split::Out, prefix, &[router], false)?;
        Ok(Self { router, renormalise: config.renormalise, gate_up: gate_ups, down: downs })
    }

    pub fn scratch(
        device: &mut D,
        config: &ModelConfig,
        experts: &ExpertsConfig,
        group: Group,
    ) -> Result<ExpertsScratch<D>, ModelError> {
        let (features, rows) = (experts.intermediate_size / group.size(), Rows::Assignments(experts.per_token));
        Ok(ExpertsScratch {
            logits: device.activation(Rows::Tokens, experts.count)?,
            routing: device.routing(experts.count, experts.per_token)?,
            assigned: device.activation(rows, config.hidden_size)?,
            gate_up: device.activation(rows, 2 * features)?,
            gated: device.activation(rows, features)?,
        })
    }

    /// `residual += Σ weight · expert(x)` over each token's experts.
    pub fn add(&self, device: &mut D, scratch: &mut ExpertsScratch<D>, x: &D::Activation, residual: &mut D::Activation) {
        let ExpertsScratch { logits, routing, assigned, gate_up, gated } = scratch;
        self.router.set(device, x, logits);
        device.route(logits, self.renormalise, routing);
        device.dispatch(routing, x, assigned);
        device.linear_experts(routing, &self.gate_up, assigned, gate_up);
        device.gate_mul(Gate::Silu, gate_up, gated);
        device.linear_experts(routing, &self.down, gated, assigned);
        device.combine(routing, assigned, residual);
    }
}
