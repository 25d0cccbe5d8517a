//! Which blocks are known by their content.
//!
//! The known blocks form a tree: a block is known only while its parent is. Holders keep that up: who holds a known block holds all
//! before it, and a sequence's blocks are freed last block first.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use domain::{AdapterKey, ExtraKeys};

use super::hash::{BlockHash, ByDigest};
use super::listing::Listing;
use crate::backend::BlockId;

#[derive(Debug)]
pub struct Prefix {
    by_hash: HashMap<BlockHash, BlockId, ByDigest>,
    /// What each block holds, where it is known.
    content: Vec<Option<Content>>,
    /// Token ids of all blocks, known or not, one after another: no allocation per block.
    tokens: Vec<u32>,
    block_tokens: usize,
    /// A list that is being made.
    pub(super) listing: Option<Box<Listing>>,
}

/// What a known block holds, but for its tokens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Content {
    pub hash: BlockHash,
    pub parent: Option<BlockHash>,
    /// Position in its sequence, in blocks.
    pub index: u32,
    pub extra: Arc<ExtraKeys>,
}

impl Prefix {
    pub fn new(blocks: usize, block_tokens: usize) -> Self {
        // For life: no step waits while a large map grows.
        let by_hash = HashMap::with_capacity_and_hasher(blocks, ByDigest::default());
        Self { by_hash, content: vec![None; blocks], tokens: vec![0; blocks * block_tokens], block_tokens, listing: None }
    }

    pub fn len(&self) -> usize {
        self.by_hash.len()
    }

    pub fn is_empty(&self) -> bool {
        self.by_hash.is_empty()
    }

    pub fn find(&self, hash: &BlockHash) -> Option<BlockId> {
        self.by_hash.get(hash).copied()
    }

    /// The known blocks at the start of a chain.
    pub fn find_chain(&self, chain: &[BlockHash]) -> impl Iterator<Item = BlockId> {
        chain.iter().map_while(|hash| self.find(hash))
    }

    /// The hash by which a block is known.
    pub fn hash_of(&self, block: BlockId) -> Option<BlockHash> {
        self.content[block.0 as usize].as_ref().map(|content| content.hash)
    }

    /// Makes a block known.
    ///
    /// # Panics
    /// The block or the hash is known already.
    pub fn insert(&mut self, block: BlockId, content: Content, tokens: &[u32]) {
        let i = block.0 as usize;
        self.tell_listing(block);
        self.tokens[i * self.block_tokens..(i + 1) * self.block_tokens].copy_from_slice(tokens);
        assert!(self.by_hash.insert(content.hash, block).is_none(), "one block is known by {}", content.hash);
        assert!(self.content[i].replace(content).is_none(), "{block:?} is known by one hash");
    }

    /// What a known block holds.
    pub fn get(&self, block: BlockId) -> Option<&Content> {
        self.content[block.0 as usize].as_ref()
    }

    /// The token ids that a block was last known by.
    pub fn tokens(&self, block: BlockId) -> &[u32] {
        let start = block.0 as usize * self.block_tokens;
        &self.tokens[start..start + self.block_tokens]
    }

    /// Makes a block unknown; says what it was known to hold.
    pub fn remove(&mut self, block: BlockId) -> Option<Content> {
        self.tell_listing(block);
        let content = self.content[block.0 as usize].take()?;
        self.by_hash.remove(&content.hash).expect("a known block can be found by its hash");
        Some(content)
    }

    /// Makes the blocks with a hash in `gone` unknown, and all that are known behind them; their hashes join `gone`.
    pub fn remove_behind(&mut self, gone: &mut HashSet<BlockHash>) -> Vec<BlockHash> {
        // Rare, so that no list of children is kept for it: parents come first in this order.
        let mut rest: Vec<(u32, u32)> = Vec::new();
        for (block, content) in (0..).zip(&self.content) {
            rest.extend(content.as_ref().map(|content| (content.index, block)));
        }
        rest.sort_unstable();
        let mut removed = Vec::new();
        for (_, block) in rest {
            let Some(Content { hash, parent, .. }) = self.content[block as usize] else { continue };
            if gone.contains(&hash) || parent.is_some_and(|parent| gone.contains(&parent)) {
                self.remove(BlockId(block));
                gone.insert(hash);
                removed.push(hash);
            }
        }
        removed
    }

    /// Hashes of the blocks that were computed with an adapter.
    pub fn of_adapter(&self, key: &AdapterKey) -> impl Iterator<Item = BlockHash> {
        let known = self.content.iter().flatten();
        known.filter(move |content| content.extra.adapter.as_ref() == Some(key)).map(|content| content.hash)
    }

    pub fn hashes(&self) -> Vec<BlockHash> {
        self.by_hash.keys().copied().collect()
    }

    /// Places for blocks.
    pub fn places(&self) -> usize {
        self.content.len()
    }

    /// What `block` holds is about to change.
    fn tell_listing(&mut self, block: BlockId) {
        if let Some(listing) = &mut self.listing {
            let start = block.0 as usize * self.block_tokens;
            let tokens = &self.tokens[start..start + self.block_tokens];
            listing.change(block, self.content[block.0 as usize].as_ref(), tokens);
        }
    }

    pub fn clear(&mut self) {
        self.go_on_list(usize::MAX);
        self.by_hash.clear();
        self.content.fill(None);
    }
}
