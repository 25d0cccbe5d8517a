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
    Leaving,
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

    /// A free slot for an adapter of this name.
    pub fn place(&self, key: &AdapterKey) -> Result<AdapterSlot, AdapterError> {
        if self.slots().any(|(_, place)| matches!(place, Place::Loaded(loaded) if loaded.name == key.name)) {
            return Err(AdapterError::NameTaken(key.name.to_string()));
        }
        let free = self.slots().find(|(_, place)| **place == Place::Free).map(|(slot, _)| slot);
        let loaded = self.places.len();
        free.ok_or(AdapterError::Full { loaded, loaded_max: loaded })
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
        let place = self.places.iter_mut().find(|place| matches!(place, Place::Loaded(loaded) if &*loaded.name == name));
        place.map(|place| *place = Place::Leaving).is_some()
    }

    /// The slots of unloaded adapters.
    pub fn leaving(&self) -> impl Iterator<Item = AdapterSlot> {
        self.slots().filter(|(_, place)| **place == Place::Leaving).map(|(slot, _)| slot)
    }

    /// The device has forgotten it.
    pub fn free(&mut self, slot: AdapterSlot) {
        self.places[slot.0 as usize] = Place::Free;
    }

    fn slots(&self) -> impl Iterator<Item = (AdapterSlot, &Place)> {
        (0u32..).map(AdapterSlot).zip(&self.places)
    }
}
