//! Adapters come and go between steps.

use std::sync::Arc;

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
            None => Err(FinishReason::AdapterGone(Arc::clone(&key.name))),
        }
    }

    /// With `replaces`, in the place of one of the same name, if there is one: beside it where there is room, so that requests that have it
    /// go on.
    pub(super) fn load_adapter(&mut self, key: AdapterKey, adapter: &Adapter, replaces: bool) -> Result<(), AdapterError> {
        self.sweep_adapters();
        let old = self.adapters.named(&key.name);
        if old.is_some() && !replaces {
            return Err(AdapterError::NameTaken(key.name.to_string()));
        }
        if let Some(old) = old
            && self.adapters.free_slot().is_none()
        {
            self.adapters.unload(&key.name);
            self.sweep_adapters();
            self.adapters.stay(old);
        }
        let slot = self.adapters.free_slot().ok_or_else(|| self.adapters.full())?;
        self.backend.set_adapter(slot, Some(adapter)).map_err(|error| AdapterError::Device(error.to_string()))?;
        self.adapters.unload(&key.name);
        self.adapters.load(slot, key);
        Ok(())
    }

    /// Takes unloaded adapters off the device once no batch in flight and no request can name them, and what was computed with them out of
    /// the cache.
    pub(super) fn sweep_adapters(&mut self) {
        if !self.in_flight.is_empty() {
            return;
        }
        let table = &self.schedule.table;
        let in_use = |slot: &AdapterSlot| table.iter().any(|sequence| sequence.adapter == Some(*slot));
        let unused: Vec<AdapterSlot> = self.adapters.leaving().filter(|slot| !in_use(slot)).collect();
        for slot in unused {
            // What the device cannot let go of keeps its slot; the next step tries again.
            if self.backend.set_adapter(slot, None).is_ok()
                && let Some(key) = self.adapters.free(slot)
            {
                self.schedule.kv.forget_adapter(&key);
            }
        }
    }
}
