//! Requests that wait, in the order in which they will be admitted.

use std::collections::BTreeMap;

use crate::sequence::Key;

/// A waiting request's place: lower comes sooner.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Turn {
    pub priority: i64,
    pub place: i64,
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

    /// The requests in order.
    pub fn iter(&self) -> impl Iterator<Item = Key> {
        self.turns.values().copied()
    }

    /// Puts a request behind all others; the turn takes it out again.
    pub fn push_back(&mut self, key: Key) -> Turn {
        self.back += 1;
        self.insert(Turn { priority: 0, place: self.back }, key)
    }

    /// Puts a request before all others.
    pub fn push_front(&mut self, key: Key) -> Turn {
        self.front -= 1;
        self.insert(Turn { priority: 0, place: self.front }, key)
    }

    /// Puts a request where its turn says.
    pub fn insert(&mut self, turn: Turn, key: Key) -> Turn {
        let before = self.turns.insert(turn, key);
        assert!(before.is_none(), "a turn is given once");
        turn
    }

    pub fn remove(&mut self, turn: Turn) {
        self.turns.remove(&turn).expect("who has a turn waits");
    }
}
