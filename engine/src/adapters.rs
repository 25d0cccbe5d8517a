//! Which adapters are loaded, in which slots of the device.

use domain::AdapterKey;

use crate::backend::AdapterSlot;

/// A bounded set of names. An adapter that was unloaded keeps its slot until the last request that computes with it has ended.
pub struct Adapters {
    places: Vec<Place>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Place {
    Free,
    Loaded(AdapterKey),
    Leaving(AdapterKey),
}

/// Why an adapter was not loaded.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AdapterError {
    #[error("an adapter named {0} is loaded already")]
    NameTaken(String),
    #[error("{loaded} adapters are loaded or in use; at most {loaded_max} may be")]
    Full { loaded: usize, loaded_max: usize },
    #[error("{0}")]
    Device(String),
}

impl Adapters {
    pub fn new(loaded_max: usize) -> Self {
        Self { places: vec![Place::Free; loaded_max] }
    }

    /// A slot that nobody has.
    pub fn free_slot(&self) -> Option<AdapterSlot> {
        self.slots().find(|(_, place)| **place == Place::Free).map(|(slot, _)| slot)
    }

    pub fn full(&self) -> AdapterError {
        let loaded = self.places.len();
        AdapterError::Full { loaded, loaded_max: loaded }
    }

    /// Where the adapter of this name lies.
    pub fn named(&self, name: &str) -> Option<AdapterSlot> {
        self.slots().find(|(_, place)| matches!(place, Place::Loaded(loaded) if &*loaded.name == name)).map(|(slot, _)| slot)
    }

    /// The device has it.
    pub fn load(&mut self, slot: AdapterSlot, key: AdapterKey) {
        self.places[slot.0 as usize] = Place::Loaded(key);
    }

    /// Where an adapter lies. Of two that had one name, the path tells them apart.
    pub fn find(&self, key: &AdapterKey) -> Option<AdapterSlot> {
        self.slots().find(|(_, place)| matches!(place, Place::Loaded(loaded) if loaded == key)).map(|(slot, _)| slot)
    }

    /// No new request finds it. `false`: there was none.
    pub fn unload(&mut self, name: &str) -> bool {
        let Some(slot) = self.named(name) else { return false };
        let place = &mut self.places[slot.0 as usize];
        if let Place::Loaded(key) = std::mem::replace(place, Place::Free) {
            *place = Place::Leaving(key);
        }
        true
    }

    /// An adapter that was to leave stays after all.
    pub fn stay(&mut self, slot: AdapterSlot) {
        let place = &mut self.places[slot.0 as usize];
        if let Place::Leaving(key) = std::mem::replace(place, Place::Free) {
            *place = Place::Loaded(key);
        }
    }

    /// The slots of unloaded adapters.
    pub fn leaving(&self) -> impl Iterator<Item = AdapterSlot> {
        self.slots().filter(|(_, place)| matches!(place, Place::Leaving(_))).map(|(slot, _)| slot)
    }

    /// The device has forgotten it. Gives its key, unless an adapter is loaded that has the same: then what was computed with this one
    /// is as good as ever.
    pub fn free(&mut self, slot: AdapterSlot) -> Option<AdapterKey> {
        match std::mem::replace(&mut self.places[slot.0 as usize], Place::Free) {
            Place::Leaving(key) => Some(key).filter(|key| self.find(key).is_none()),
            Place::Free | Place::Loaded(_) => None,
        }
    }

    fn slots(&self) -> impl Iterator<Item = (AdapterSlot, &Place)> {
        (0u32..).map(AdapterSlot).zip(&self.places)
    }
}
