//! Adapters come and go between steps.

use domain::{AdapterKey, ExtraKeys};
use engine_assets::Adapter;

use super::Engine;
use crate::adapters::AdapterError;
use crate::backend::AdapterSlot;
use crate::request::FinishReason;

impl Engine {
    /// Where the adapter lies that a request names, or how the request ends.
    pub(super) fn adapter_of(&self, extra: &ExtraKeys) -> Result<Option<AdapterSlot>, FinishReason> {
        let Some(key) = &extra.adapter else { return Ok(None) };
        match self.adapters.find(key) {
            Some(slot) => Ok(Some(slot)),
            None => Err(FinishReason::Error(format!("the adapter {} is not loaded", key.name))),
        }
    }

    pub(super) fn load_adapter(&mut self, key: AdapterKey, adapter: &Adapter) -> Result<(), AdapterError> {
        self.sweep_adapters();
        let slot = self.adapters.place(&key)?;
        self.backend.set_adapter(slot, Some(adapter)).map_err(|error| AdapterError::Device(error.to_string()))?;
        self.adapters.load(slot, key);
        Ok(())
    }

    /// Takes unloaded adapters off the device once no batch in flight and no request can name them.
    pub(super) fn sweep_adapters(&mut self) {
        if !self.in_flight.is_empty() {
            return;
        }
        let table = &self.schedule.table;
        let in_use = |slot: &AdapterSlot| table.iter().any(|sequence| sequence.adapter == Some(*slot));
        let unused: Vec<AdapterSlot> = self.adapters.leaving().filter(|slot| !in_use(slot)).collect();
        for slot in unused {
            // What the device cannot let go of keeps its slot; the next step tries again.
            if self.backend.set_adapter(slot, None).is_ok() {
                self.adapters.free(slot);
            }
        }
    }
}
