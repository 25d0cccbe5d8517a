//! Low-rank adapters (LoRA, Hu et al. 2021) beside a linear layer: several at once, each for the rows that name it.

use std::ops::Range;

use engine_assets::Adapter;

use crate::backend::AdapterSlot;
use crate::device::{Device, LowRank};
use crate::model::ModelError;

/// The adapters of one linear layer, by slot.
pub struct LowRanks<D: Device> {
    /// The matrices of the layer: their module's name and their outputs.
    modules: Vec<(String, Range<usize>)>,
    by_slot: Vec<Vec<LowRank<D::Vector>>>,
}

impl<D: Device> LowRanks<D> {
    pub fn new(modules: Vec<(String, Range<usize>)>) -> Self {
        Self { modules, by_slot: Vec::new() }
    }

    /// Puts `adapter` into a slot, or empties it. How many of the adapter's modules are here.
    pub fn set(&mut self, device: &mut D, slot: AdapterSlot, adapter: Option<&Adapter>) -> Result<usize, ModelError> {
        let mut parts = Vec::new();
        for (module, outputs) in &self.modules {
            let Some(weights) = adapter.and_then(|adapter| adapter.modules.get(module)) else { continue };
            if weights.outputs != outputs.len() {
                return Err(ModelError::tensor(
                    module,
                    format!("has {} outputs, its adapter {}", outputs.len(), weights.outputs),
                ));
            }
            parts.push(LowRank {
                a: device.values(&weights.a)?,
                b: device.values(&weights.b)?,
                rank: weights.rank,
                inputs: weights.inputs,
                outputs: outputs.clone(),
                scale: weights.scale,
            });
        }
        let (slot, used) = (slot.0 as usize, parts.len());
        if self.by_slot.len() <= slot {
            self.by_slot.resize_with(slot + 1, Vec::new);
        }
        self.by_slot[slot] = parts;
        Ok(used)
    }

    /// `out += scale · B (A x)` for the rows of each adapter.
    pub fn add(&self, device: &mut D, x: &D::Activation, out: &mut D::Activation) {
        if self.by_slot.iter().any(|parts| !parts.is_empty()) {
            device.low_rank(&self.by_slot, x, out);
        }
    }
}
