//! All requests of the engine, in places that stay.

use std::collections::HashMap;

use super::Sequence;
use crate::request::RequestId;

/// Place of a sequence in the [`Table`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Key(u32);

/// All requests of the engine. Places are used again, so that lists of them stay small numbers.
#[derive(Default)]
pub struct Table {
    places: Vec<Option<Sequence>>,
    vacant: Vec<Key>,
    by_id: HashMap<RequestId, Key>,
}

impl Table {
    pub fn len(&self) -> usize {
        self.by_id.len()
    }

    pub fn is_empty(&self) -> bool {
        self.by_id.is_empty()
    }

    pub fn insert(&mut self, sequence: Sequence) -> Key {
        let key = self.vacant.pop().unwrap_or_else(|| {
            self.places.push(None);
            Key(u32::try_from(self.places.len() - 1).expect("admission limits keep requests below 2^32"))
        });
        assert!(self.by_id.insert(sequence.id, key).is_none(), "ids are unique");
        self.places[key.0 as usize] = Some(sequence);
        key
    }

    pub fn find(&self, id: RequestId) -> Option<Key> {
        self.by_id.get(&id).copied()
    }

    /// The sequence at `key` if it is still that of `id`: its place may have been used again.
    pub fn get_if(&mut self, key: Key, id: RequestId) -> Option<&mut Sequence> {
        self.places[key.0 as usize].as_mut().filter(|sequence| sequence.id == id)
    }

    pub fn get(&self, key: Key) -> &Sequence {
        self.places[key.0 as usize].as_ref().expect("lists name requests that are there")
    }

    pub fn get_mut(&mut self, key: Key) -> &mut Sequence {
        self.places[key.0 as usize].as_mut().expect("lists name requests that are there")
    }

    pub fn holds(&self, key: Key) -> bool {
        self.places[key.0 as usize].is_some()
    }

    pub fn remove(&mut self, key: Key) -> Sequence {
        let sequence = self.places[key.0 as usize].take().expect("lists name requests that are there");
        self.by_id.remove(&sequence.id);
        self.vacant.push(key);
        sequence
    }

    pub fn iter(&self) -> impl Iterator<Item = &Sequence> {
        self.places.iter().flatten()
    }

    pub fn ids(&self) -> Vec<RequestId> {
        let mut ids: Vec<RequestId> = self.by_id.keys().copied().collect();
        ids.sort_unstable();
        ids
    }
}
