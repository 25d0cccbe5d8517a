//! From an engine's own block hashes to the routing keys of `domain::block`: the events carry the tokens, so the engine's algorithm
//! does not matter.
//!
//! A block is indexed only where everything that makes its content is known: its whole chain of parents, its adapter, its salt. The
//! rest is counted, not guessed: a wrong entry would send requests to an engine that does not have what they need.

use std::collections::HashMap;
use std::sync::Arc;

use domain::BlockKey;
use domain::block::{BLOCK_TOKENS_MAX, KeyChain};

use crate::attach::event::{Adapter, EngineHash, Event, Extra, Stored, Tier};

/// Most blocks of one engine that are known at a time: 2 TB of KV at 16 tokens of an 8B model.
pub const BLOCKS_MAX: usize = 4 << 20;

/// What a batch changes in the index, in routing keys.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    Stored { keys: Vec<BlockKey>, tier: Tier },
    Removed { keys: Vec<BlockKey>, tier: Tier },
    Cleared,
}

/// Blocks that an engine holds: its hash, our key, and where.
#[derive(Clone, Debug)]
struct Held {
    key: BlockKey,
    /// One bit per tier.
    tiers: u8,
}

/// One engine's map from its hashes to routing keys.
#[derive(Debug)]
pub struct Rehash {
    base: Arc<str>,
    /// Learned from the first event where the engine did not say.
    block_tokens: Option<usize>,
    adapters_loaded: bool,
    blocks_max: usize,
    held: HashMap<EngineHash, Held>,
    unindexed: u64,
}

impl Rehash {
    pub fn new(base: impl Into<Arc<str>>, block_tokens: Option<usize>, blocks_max: usize) -> Self {
        let block_tokens = block_tokens.filter(|tokens| (1..=BLOCK_TOKENS_MAX).contains(tokens));
        Self { base: base.into(), block_tokens, adapters_loaded: false, blocks_max, held: HashMap::new(), unindexed: 0 }
    }

    /// Tokens per block of the partition, once known.
    pub fn block_tokens(&self) -> Option<usize> {
        self.block_tokens
    }

    /// An event that carries no adapter at all means the base model only where no adapter is loaded.
    pub fn set_adapters_loaded(&mut self, loaded: bool) {
        self.adapters_loaded = loaded;
    }

    pub fn len(&self) -> usize {
        self.held.len()
    }

    pub fn is_empty(&self) -> bool {
        self.held.is_empty()
    }

    /// Forgets all blocks; the base model and the block size stay.
    pub fn clear(&mut self) {
        self.held.clear();
    }

    /// Blocks that were not indexed since the last call.
    pub fn take_unindexed(&mut self) -> u64 {
        std::mem::take(&mut self.unindexed)
    }

    pub fn apply(&mut self, event: &Event, changes: &mut Vec<Change>) {
        match event {
            Event::Stored(stored) => self.stored(stored, changes),
            Event::Removed { hashes, tier, group: _ } => self.removed(hashes, *tier, changes),
            Event::Cleared => {
                self.held.clear();
                changes.push(Change::Cleared);
            }
        }
    }

    fn stored(&mut self, stored: &Stored, changes: &mut Vec<Change>) {
        let blocks = stored.hashes.len() as u64;
        let Some(mut chain) = self.chain(stored) else {
            // A block that is known already moves between tiers, whatever became of its parent.
            let known = |hash| {
                let held = self.held.get_mut(hash)?;
                let moved = held.tiers & bit(stored.tier) == 0;
                held.tiers |= bit(stored.tier);
                Some((held.key, moved))
            };
            let known: Vec<(BlockKey, bool)> = stored.hashes.iter().filter_map(known).collect();
            self.unindexed += blocks - known.len() as u64;
            let keys: Vec<BlockKey> = known.into_iter().filter(|(_, moved)| *moved).map(|(key, _)| key).collect();
            if !keys.is_empty() {
                changes.push(Change::Stored { keys, tier: stored.tier });
            }
            return;
        };
        let mut keys = Vec::with_capacity(stored.hashes.len());
        let tokens = stored.tokens.chunks_exact(stored.block_tokens);
        for (i, (hash, tokens)) in stored.hashes.iter().zip(tokens).enumerate() {
            let full = self.held.len() >= self.blocks_max && !self.held.contains_key(hash);
            // The first block's salt is in the root already; what else a block carries is content that its tokens do not show.
            let plain = (i == 0 && stored.parent.is_none()) || Self::rest_of_extra(stored, i).is_empty();
            if full || !plain {
                self.unindexed += blocks - i as u64;
                break;
            }
            let key = chain.push(tokens);
            let held = self.held.entry(*hash).or_insert(Held { key, tiers: 0 });
            // Stored again where it lies already is no change.
            if held.tiers & bit(stored.tier) == 0 {
                held.tiers |= bit(stored.tier);
                keys.push(key);
            }
        }
        if !keys.is_empty() {
            changes.push(Change::Stored { keys, tier: stored.tier });
        }
    }

    /// The chain in front of the first block; `None` where it cannot be known.
    fn chain(&mut self, stored: &Stored) -> Option<KeyChain> {
        if stored.block_tokens > BLOCK_TOKENS_MAX || !stored.full_attention || stored.group != 0 {
            return None;
        }
        let block_tokens = *self.block_tokens.get_or_insert(stored.block_tokens);
        if block_tokens != stored.block_tokens {
            return None;
        }
        let adapter = match &stored.adapter {
            Adapter::None => None,
            Adapter::Named(name) => Some(name.as_str()),
            Adapter::Unsaid if !self.adapters_loaded => None,
            Adapter::Unsaid | Adapter::Unnamed => return None,
        };
        match stored.parent {
            Some(parent) => self.held.get(&parent).map(|held| KeyChain::resume(held.key, block_tokens)),
            None => {
                let salt = match Self::rest_of_extra(stored, 0) {
                    [] => None,
                    [Extra::Text(salt)] => Some(salt.as_str()),
                    _ => return None,
                };
                Some(KeyChain::new(&self.base, adapter, salt, block_tokens))
            }
        }
    }

    /// The extra keys of block `i` without the adapter's name and, behind it, its path, which vLLM 0.33 puts first.
    fn rest_of_extra(stored: &Stored, i: usize) -> &[Extra] {
        let keys = stored.extra.get(i).map(Vec::as_slice).unwrap_or_default();
        match (&stored.adapter, keys) {
            (Adapter::Named(name), [Extra::Text(first), Extra::Text(_path), rest @ ..]) if name == first => rest,
            (Adapter::Named(name), [Extra::Text(first), rest @ ..]) if name == first => rest,
            _ => keys,
        }
    }

    fn removed(&mut self, hashes: &[EngineHash], tier: Tier, changes: &mut Vec<Change>) {
        let mut keys = Vec::with_capacity(hashes.len());
        for hash in hashes {
            let Some(held) = self.held.get_mut(hash) else { continue };
            if held.tiers & bit(tier) != 0 {
                held.tiers &= !bit(tier);
                keys.push(held.key);
            }
            if held.tiers == 0 {
                self.held.remove(hash);
            }
        }
        if !keys.is_empty() {
            changes.push(Change::Removed { keys, tier });
        }
    }
}

fn bit(tier: Tier) -> u8 {
    1 << tier as u8
}
