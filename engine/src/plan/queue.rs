//! Requests that wait, in the order in which they will be admitted.

use std::collections::BTreeMap;

use crate::sequence::Key;

/// A waiting request's place: lower comes sooner.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Turn {
    priority: i64,
    place: i64,
}

/// A queue that a request can be taken out of anywhere, in logarithmic time.
#[derive(Debug, Default)]
pub struct Queue {
    turns: BTreeMap<Turn, Key>,
    /// Places behind the last and before the first that were given.
    back: i64,
    front: i64,
}

impl Queue {
    pub fn len(&self) -> usize {
        self.turns.len()
    }

    pub fn is_empty(&self) -> bool {
        self.turns.is_empty()
    }

    pub fn first(&self) -> Option<Key> {
        self.turns.first_key_value().map(|(_, &key)| key)
    }

    /// Puts a request behind all others of its priority; the turn takes it out again.
    pub fn push_back(&mut self, priority: i64, key: Key) -> Turn {
        self.back += 1;
        self.insert(Turn { priority, place: self.back }, key)
    }

    /// Puts a request before all others of its priority.
    pub fn push_front(&mut self, priority: i64, key: Key) -> Turn {
        self.front -= 1;
        self.insert(Turn { priority, place: self.front }, key)
    }

    fn insert(&mut self, turn: Turn, key: Key) -> Turn {
        let before = self.turns.insert(turn, key);
        assert!(before.is_none(), "a turn is given once");
        turn
    }

    pub fn remove(&mut self, turn: Turn) {
        self.turns.remove(&turn).expect("who has a turn waits");
    }
}
