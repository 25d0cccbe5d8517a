//! A list of all known blocks that holds at one moment and is made a part in each step: a block that changes before its turn is copied
//! first. So no step waits for a list, however many blocks there are.

use std::sync::Arc;

use super::Kv;
use super::event::{BlockList, CachedBlock, Medium};
use super::prefix::{Content, Prefix};
use crate::backend::BlockId;

/// Of the blocks of one tier.
#[derive(Debug)]
pub struct Listing {
    medium: Medium,
    /// Places before this one are done.
    next: usize,
    /// By place: what it holds is not what it held at the beginning.
    changed: Vec<bool>,
    blocks: Vec<CachedBlock>,
}

impl Listing {
    fn new(medium: Medium, prefix: &Prefix) -> Self {
        let changed = vec![false; prefix.places()];
        Self { medium, next: 0, changed, blocks: Vec::with_capacity(prefix.len()) }
    }

    /// What the place holds is about to change; `content` is what it is known to hold.
    pub fn change(&mut self, place: BlockId, content: Option<&Content>, tokens: &[u32]) {
        let i = place.0 as usize;
        if i >= self.next && !self.changed[i] {
            self.changed[i] = true;
            self.blocks.extend(content.map(|content| cached(content, tokens, self.medium)));
        }
    }
}

fn cached(content: &Content, tokens: &[u32], medium: Medium) -> CachedBlock {
    let Content { hash, parent, index, extra } = content;
    let (hash, parent, extra, index) = (*hash, *parent, Arc::clone(extra), *index as usize);
    CachedBlock { hash, parent, tokens: tokens.to_vec(), extra, index, medium }
}

impl Prefix {
    pub fn begin_list(&mut self, medium: Medium) {
        let listing = Listing::new(medium, self);
        self.listing = Some(Box::new(listing));
    }

    /// Looks at `places_max` further places; says whether that were all.
    pub fn go_on_list(&mut self, places_max: usize) -> bool {
        let Some(mut listing) = self.listing.take() else { return true };
        let end = self.places().min(listing.next.saturating_add(places_max));
        let Listing { medium, next, changed, blocks } = &mut *listing;
        for place in (*next..end).filter(|&place| !changed[place]) {
            let block = BlockId(place as u32);
            blocks.extend(self.get(block).map(|content| cached(content, self.tokens(block), *medium)));
        }
        *next = end;
        self.listing = Some(listing);
        end == self.places()
    }

    /// All blocks that were known when the list began.
    pub fn end_list(&mut self) -> Vec<CachedBlock> {
        self.go_on_list(usize::MAX);
        self.listing.take().map_or_else(Vec::new, |listing| listing.blocks)
    }
}

impl Kv {
    /// Begins a list of all known blocks. Events that were not [taken](Self::take_events) are part of it, so they must be none.
    pub fn begin_list(&mut self) {
        assert!(self.log.is_empty(), "a list holds at a sequence");
        self.list_sequence = self.log.batches();
        self.prefix.begin_list(Medium::Device);
        if let Some(tiers) = &mut self.tiers {
            tiers.begin_list();
        }
    }

    /// Looks at `places_max` further places of each tier; the list when that were all.
    pub fn go_on_list(&mut self, places_max: usize) -> Option<BlockList> {
        let lower = self.tiers.as_mut().is_none_or(|tiers| tiers.go_on_list(places_max));
        if !self.prefix.go_on_list(places_max) || !lower {
            return None;
        }
        let mut blocks = self.prefix.end_list();
        if let Some(tiers) = &mut self.tiers {
            tiers.end_list(&mut blocks);
        }
        Some(BlockList { sequence: self.list_sequence, block_tokens: self.block_tokens, blocks })
    }
}
