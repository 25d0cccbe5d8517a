//! The fleet as requests read it: engines by model, never locked, replaced as a whole when an engine comes, goes or changes its nature.

use std::collections::HashMap;
use std::sync::Arc;

use domain::ModelId;

use super::engine::Engine;

#[derive(Default)]
pub struct Roster {
    /// Sorted by id.
    engines: Vec<Arc<Engine>>,
    by_base: HashMap<Arc<str>, Vec<Arc<Engine>>>,
    /// By the name a client uses.
    models: HashMap<Arc<str>, ModelId>,
}

impl Roster {
    pub fn new(engines: Vec<Arc<Engine>>) -> Self {
        let mut roster = Self::default();
        // An engine that has not loaded its model yet may not know its name.
        for engine in engines.iter().filter(|engine| !engine.facts.model.is_empty()) {
            let base = &engine.facts.model;
            roster.by_base.entry(base.clone()).or_default().push(engine.clone());
        }
        for (base, serving) in &roster.by_base {
            for adapter in serving.iter().flat_map(|engine| &engine.facts.adapters) {
                let model = ModelId { base: base.clone(), adapter: Some(adapter.clone()) };
                roster.models.insert(adapter.clone(), model);
            }
        }
        // Last, so that an adapter that bears a base model's name does not hide the model.
        roster.models.extend(roster.by_base.keys().map(|base| (base.clone(), ModelId { base: base.clone(), adapter: None })));
        roster.engines = engines;
        roster
    }

    pub fn engines(&self) -> &[Arc<Engine>] {
        &self.engines
    }

    /// Engines that have the base model loaded.
    pub fn serving(&self, base: &str) -> &[Arc<Engine>] {
        self.by_base.get(base).map_or(&[], Vec::as_slice)
    }

    /// What a client's model name stands for.
    pub fn model(&self, name: &str) -> Option<&ModelId> {
        self.models.get(name)
    }

    /// Models by served name, sorted.
    pub fn models(&self) -> Vec<&ModelId> {
        let mut models: Vec<&ModelId> = self.models.values().collect();
        models.sort_by(|a, b| a.served_name().cmp(b.served_name()));
        models
    }
}
