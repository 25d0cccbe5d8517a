//! The routing key of a full block of tokens, and what besides tokens makes two blocks different.
//!
//! Routing has its own key, apart from the engine's cryptographic one (`engine::kv::hash`): it must be cheap on both sides and
//! need only resist accident, because a wrong guess costs a prefill and never a wrong answer. `k(i) = xxh3_64(k(i-1) ‖ tokens)`,
//! little-endian, rooted by base model, adapter, cache salt and block size.

use std::sync::Arc;

use xxhash_rust::xxh3::{Xxh3, xxh3_64};

/// Largest supported tokens per block; vLLM's largest is 128 on CPU and GPU, ours leaves room.
pub const BLOCK_TOKENS_MAX: usize = 512;

/// Routing key of a chain of full blocks that ends with this one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct BlockKey(pub u64);

/// What besides its tokens distinguishes a block's content. Order and names follow vLLM 0.33 (`kv_cache_utils.py`): adapter,
/// multimodal items, cache salt.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct ExtraKeys {
    pub adapter: Option<AdapterKey>,
    /// Salt of the first block of a chain; the chain carries it on.
    pub cache_salt: Option<Arc<str>>,
    /// Multimodal items in order of position.
    pub multimodal: Vec<MultimodalKey>,
}

impl ExtraKeys {
    pub fn is_empty(&self) -> bool {
        let Self { adapter, cache_salt, multimodal } = self;
        adapter.is_none() && cache_salt.is_none() && multimodal.is_empty()
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct AdapterKey {
    pub name: Arc<str>,
    pub path: Arc<str>,
}

/// A multimodal item whose placeholder tokens are `start..start + tokens` of the prompt.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct MultimodalKey {
    pub identifier: Arc<str>,
    pub start: usize,
    pub tokens: usize,
}

/// Walks a prompt and yields the routing key of each full block.
#[derive(Clone, Debug)]
pub struct KeyChain {
    last: BlockKey,
    block_tokens: usize,
    scratch: Vec<u8>,
}

impl KeyChain {
    /// Starts a chain at the root of (base model, adapter, cache salt, block size).
    ///
    /// # Panics
    /// `block_tokens` is 0 or above [`BLOCK_TOKENS_MAX`]; callers read it from configuration or from the wire and check it there.
    pub fn new(base: &str, adapter: Option<&str>, cache_salt: Option<&str>, block_tokens: usize) -> Self {
        assert!((1..=BLOCK_TOKENS_MAX).contains(&block_tokens), "block of {block_tokens} tokens");
        let mut hasher = Xxh3::new();
        // Lengths are written before the bytes, so that no two roots spell the same stream.
        for part in [Some(base), adapter, cache_salt] {
            match part {
                Some(text) => {
                    hasher.update(&(text.len() as u64 + 1).to_le_bytes());
                    hasher.update(text.as_bytes());
                }
                None => hasher.update(&0u64.to_le_bytes()),
            }
        }
        hasher.update(&(block_tokens as u64).to_le_bytes());
        Self { last: BlockKey(hasher.digest()), block_tokens, scratch: Vec::with_capacity(8 + 4 * block_tokens) }
    }

    /// Continues behind a block whose key is known.
    pub fn resume(key: BlockKey, block_tokens: usize) -> Self {
        assert!((1..=BLOCK_TOKENS_MAX).contains(&block_tokens), "block of {block_tokens} tokens");
        Self { last: key, block_tokens, scratch: Vec::with_capacity(8 + 4 * block_tokens) }
    }

    /// Key of the last block pushed, or of the root.
    pub fn last(&self) -> BlockKey {
        self.last
    }

    pub fn block_tokens(&self) -> usize {
        self.block_tokens
    }

    /// Appends one full block.
    ///
    /// # Panics
    /// `tokens` is not exactly one block.
    pub fn push(&mut self, tokens: &[u32]) -> BlockKey {
        self.push_with(tokens, std::iter::empty())
    }

    /// Appends one full block that multimodal items reach into.
    pub fn push_with<'a>(&mut self, tokens: &[u32], items: impl Iterator<Item = &'a MultimodalKey>) -> BlockKey {
        assert_eq!(tokens.len(), self.block_tokens, "a key stands for one full block");
        self.scratch.clear();
        self.scratch.extend_from_slice(&self.last.0.to_le_bytes());
        tokens.iter().for_each(|token| self.scratch.extend_from_slice(&token.to_le_bytes()));
        for item in items {
            self.scratch.extend_from_slice(item.identifier.as_bytes());
            self.scratch.extend_from_slice(&(item.start as u64).to_le_bytes());
        }
        self.last = BlockKey(xxh3_64(&self.scratch));
        self.last
    }
}

/// Keys of all full blocks of a prompt.
pub fn prompt_keys(base: &str, extra: &ExtraKeys, block_tokens: usize, tokens: &[u32]) -> Vec<BlockKey> {
    let adapter = extra.adapter.as_ref().map(|adapter| &*adapter.name);
    let mut chain = KeyChain::new(base, adapter, extra.cache_salt.as_deref(), block_tokens);
    let blocks = tokens.chunks_exact(block_tokens).enumerate();
    blocks
        .map(|(i, block)| {
            let (start, end) = (i * block_tokens, (i + 1) * block_tokens);
            let reaches = |item: &&MultimodalKey| item.start < end && item.start + item.tokens > start;
            chain.push_with(block, extra.multimodal.iter().filter(reaches))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys(base: &str, adapter: Option<&str>, salt: Option<&str>, tokens: &[u32]) -> Vec<BlockKey> {
        let adapter = adapter.map(|name| AdapterKey { name: name.into(), path: "p".into() });
        let extra = ExtraKeys { adapter, cache_salt: salt.map(Into::into), multimodal: Vec::new() };
        prompt_keys(base, &extra, 4, tokens)
    }

    #[test]
    fn everything_that_makes_kv_different_makes_the_key_different() {
        let tokens: Vec<u32> = (0..9).collect();
        let base = keys("m", None, None, &tokens);
        assert_eq!(base.len(), 2, "the ninth token fills no block");
        let others = [
            keys("n", None, None, &tokens),
            keys("m", Some("a"), None, &tokens),
            keys("m", None, Some("a"), &tokens),
            keys("ma", None, None, &tokens),
        ];
        for (i, other) in others.iter().enumerate() {
            assert!(base.iter().zip(other).all(|(a, b)| a != b), "variant {i} shares a key");
        }
        assert_ne!(keys("m", Some("a"), None, &tokens), keys("m", None, Some("a"), &tokens));
    }

    #[test]
    fn a_chain_can_be_resumed_anywhere() {
        let tokens: Vec<u32> = (0..16).collect();
        let whole = keys("m", None, None, &tokens);
        let mut tail = KeyChain::resume(whole[1], 4);
        assert_eq!([tail.push(&tokens[8..12]), tail.push(&tokens[12..16])], whole[2..]);
    }

    #[test]
    fn a_multimodal_item_changes_the_blocks_it_reaches_and_all_behind() {
        let tokens: Vec<u32> = (0..16).collect();
        let plain = keys("m", None, None, &tokens);
        let item = MultimodalKey { identifier: "cat.png".into(), start: 6, tokens: 4 };
        let extra = ExtraKeys { multimodal: vec![item], ..ExtraKeys::default() };
        let seen = prompt_keys("m", &extra, 4, &tokens);
        assert_eq!(seen[0], plain[0]);
        assert!((1..4).all(|i| seen[i] != plain[i]));
    }
}
