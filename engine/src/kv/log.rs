//! What happened to the prefix cache since the last batch of events.

use std::sync::Arc;

use super::event::{KvBatch, KvEvent, Medium, Stored};
use super::hash::BlockHash;
use super::prefix::Content;

#[derive(Debug)]
pub struct EventLog {
    /// Whether anybody wants events.
    wanted: bool,
    block_tokens: usize,
    events: Vec<KvEvent>,
    /// Event batches taken so far.
    batches: u64,
}

impl EventLog {
    pub fn new(wanted: bool, block_tokens: usize) -> Self {
        Self { wanted, block_tokens, events: Vec::new(), batches: 0 }
    }

    pub fn batches(&self) -> u64 {
        self.batches
    }

    pub fn is_empty(&self) -> bool {
        self.events.is_empty()
    }

    /// A block is known on `medium`. A run of blocks, each the parent of the next, becomes one event.
    pub fn stored(&mut self, content: &Content, tokens: &[u32], medium: Medium) {
        if !self.wanted {
            return;
        }
        let Content { hash, parent, index, extra } = content;
        if let Some(KvEvent::Stored(stored)) = self.events.last_mut()
            && stored.medium == medium
            && stored.hashes.last() == parent.as_ref()
            && Arc::ptr_eq(&stored.extra, extra)
        {
            stored.hashes.push(*hash);
            stored.tokens.extend_from_slice(tokens);
            return;
        }
        self.events.push(KvEvent::Stored(Stored {
            hashes: vec![*hash],
            parent: *parent,
            tokens: tokens.to_vec(),
            block_tokens: self.block_tokens,
            extra: Arc::clone(extra),
            first_block: *index as usize,
            medium,
        }));
    }

    pub fn removed(&mut self, hash: BlockHash, medium: Medium) {
        if !self.wanted {
            return;
        }
        match self.events.last_mut() {
            Some(KvEvent::Removed { hashes, medium: last }) if *last == medium => hashes.push(hash),
            _ => self.events.push(KvEvent::Removed { hashes: vec![hash], medium }),
        }
    }

    pub fn removed_all(&mut self, hashes: Vec<BlockHash>, medium: Medium) {
        if self.wanted && !hashes.is_empty() {
            self.events.push(KvEvent::Removed { hashes, medium });
        }
    }

    pub fn cleared(&mut self) {
        if self.wanted {
            self.events.push(KvEvent::Cleared);
        }
    }

    /// The events since the last call, numbered; `None` where there are none.
    pub fn take(&mut self) -> Option<KvBatch> {
        if self.events.is_empty() {
            return None;
        }
        let batch = KvBatch { sequence: self.batches, events: std::mem::take(&mut self.events) };
        self.batches += 1;
        Some(batch)
    }
}
