//! The engine's own name of a KV block: a SHA-256 chain over canonical CBOR, byte for byte vLLM 0.33's `sha256_cbor`
//! (`vllm/v1/core/kv_cache_utils.py`, `vllm/utils/hashing.py`). A collision would serve one client another's text, so it is
//! cryptographic.
//!
//! ```text
//! none  = SHA-256(CBOR(seed))
//! h(0)  = SHA-256(CBOR([none,     [token ids of block 0], extra keys or null]))
//! h(i)  = SHA-256(CBOR([h(i - 1), [token ids of block i], extra keys or null]))
//! ```

use std::fmt;
use std::hash::{BuildHasher, Hash, Hasher};

use domain::ExtraKeys;
use sha2::{Digest, Sha256};

/// Hash of a full block and of everything before it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct BlockHash(pub [u8; 32]);

impl BlockHash {
    /// The hash as vLLM's events write it by default: the last eight bytes, big-endian.
    pub fn event_int(&self) -> u64 {
        let [.., a, b, c, d, e, f, g, h] = self.0;
        u64::from_be_bytes([a, b, c, d, e, f, g, h])
    }
}

/// Makes the hasher of maps by [`BlockHash`]: its bytes are a SHA-256 already, so a part of them, mixed with a secret of the process that
/// no client can aim at, places it.
#[derive(Clone, Debug)]
pub struct ByDigest(u64);

impl Default for ByDigest {
    fn default() -> Self {
        Self(std::collections::hash_map::RandomState::new().hash_one(0u8) | 1)
    }
}

impl BuildHasher for ByDigest {
    type Hasher = DigestHasher;

    fn build_hasher(&self) -> DigestHasher {
        DigestHasher(self.0)
    }
}

pub struct DigestHasher(u64);

impl Hasher for DigestHasher {
    fn write(&mut self, bytes: &[u8]) {
        for part in bytes.chunks(8) {
            let mut word = [0; 8];
            word[..part.len()].copy_from_slice(part);
            self.write_u64(u64::from_le_bytes(word));
        }
    }

    fn write_u64(&mut self, word: u64) {
        let product = u128::from(word ^ self.0) * u128::from(self.0 | 1);
        self.0 = (product as u64) ^ ((product >> 64) as u64);
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

impl Hash for BlockHash {
    fn hash<H: Hasher>(&self, state: &mut H) {
        let [a, b, c, d, e, f, g, h, ..] = self.0;
        state.write_u64(u64::from_le_bytes([a, b, c, d, e, f, g, h]));
    }
}

impl fmt::Display for BlockHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for BlockHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "BlockHash({self})")
    }
}

/// One extra key of a block, in vLLM's order. The hash takes the tag too; events publish the values alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BlockExtra<'a> {
    Lora {
        name: &'a str,
        path: &'a str,
    },
    /// `offset` is the item's first token relative to the block's, below zero where the item began in an earlier block.
    Multimodal {
        identifier: &'a str,
        offset: i64,
    },
    CacheSalt(&'a str),
}

/// The extra keys of block `index` of a sequence: the adapter on every block, multimodal items on those they reach into, the salt
/// on the first.
pub fn block_extra(extra: &ExtraKeys, index: usize, block_tokens: usize) -> impl Iterator<Item = BlockExtra<'_>> {
    let ExtraKeys { adapter, cache_salt, multimodal } = extra;
    let (start, end) = (index * block_tokens, (index + 1) * block_tokens);
    let lora = adapter.iter().map(|adapter| BlockExtra::Lora { name: &adapter.name, path: &adapter.path });
    let items = multimodal.iter().filter(move |item| item.start < end && item.start.saturating_add(item.tokens) > start);
    let items =
        items.map(move |item| BlockExtra::Multimodal { identifier: &item.identifier, offset: item.start as i64 - start as i64 });
    // vLLM drops an empty salt: it is the same as none.
    let salt = cache_salt.iter().filter(move |salt| index == 0 && !salt.is_empty()).map(|salt| BlockExtra::CacheSalt(salt));
    lora.chain(items).chain(salt)
}

/// Hashes blocks of one engine: holds the root of its chains.
#[derive(Clone, Debug)]
pub struct BlockHasher {
    none: BlockHash,
    block_tokens: usize,
    scratch: Vec<u8>,
}

impl BlockHasher {
    pub fn new(seed: &str, block_tokens: usize) -> Self {
        let mut scratch = Vec::with_capacity(64 + 5 * block_tokens);
        cbor::text(&mut scratch, seed);
        let none = BlockHash(Sha256::digest(&scratch).into());
        Self { none, block_tokens, scratch }
    }

    /// What stands for the parent of a sequence's first block.
    pub fn none(&self) -> BlockHash {
        self.none
    }

    /// Hash of block `index`, whose tokens are `tokens`, behind `parent`.
    ///
    /// # Panics
    /// `tokens` is not one full block, or only the first block has no parent.
    pub fn block(&mut self, parent: Option<BlockHash>, index: usize, tokens: &[u32], extra: &ExtraKeys) -> BlockHash {
        assert_eq!(tokens.len(), self.block_tokens, "a hash stands for one full block");
        assert_eq!(parent.is_none(), index == 0, "only the first block has no parent");
        let out = &mut self.scratch;
        out.clear();
        cbor::array(out, 3);
        cbor::bytes(out, &parent.unwrap_or(self.none).0);
        cbor::array(out, tokens.len());
        tokens.iter().for_each(|&token| cbor::unsigned(out, u64::from(token)));
        match block_extra(extra, index, self.block_tokens).count() {
            0 => cbor::null(out),
            keys => {
                cbor::array(out, keys);
                block_extra(extra, index, self.block_tokens).for_each(|key| write_extra(out, key));
            }
        }
        BlockHash(Sha256::digest(out).into())
    }

    /// Appends the hashes of the full blocks of `tokens` that `hashes` lacks.
    pub fn extend(&mut self, hashes: &mut Vec<BlockHash>, tokens: &[u32], extra: &ExtraKeys) {
        let block_tokens = self.block_tokens;
        for (index, block) in tokens.chunks_exact(block_tokens).enumerate().skip(hashes.len()) {
            let hash = self.block(hashes.last().copied(), index, block, extra);
            hashes.push(hash);
        }
    }
}

fn write_extra(out: &mut Vec<u8>, key: BlockExtra<'_>) {
    match key {
        BlockExtra::Lora { name, path } => {
            cbor::array(out, 3);
            ["lora", name, path].into_iter().for_each(|text| cbor::text(out, text));
        }
        BlockExtra::Multimodal { identifier, offset } => {
            cbor::array(out, 3);
            ["mm", identifier].into_iter().for_each(|text| cbor::text(out, text));
            cbor::integer(out, offset);
        }
        BlockExtra::CacheSalt(salt) => {
            cbor::array(out, 2);
            ["cache_salt", salt].into_iter().for_each(|text| cbor::text(out, text));
        }
    }
}

/// The six kinds of canonical CBOR (RFC 8949 §4.2.1: shortest heads, definite lengths) that block hashes need.
mod cbor {
    fn head(out: &mut Vec<u8>, major: u8, value: u64) {
        let major = major << 5;
        match value {
            0..24 => out.push(major | value as u8),
            24..0x100 => out.extend([major | 24, value as u8]),
            0x100..0x1_0000 => {
                out.push(major | 25);
                out.extend((value as u16).to_be_bytes());
            }
            0x1_0000..0x1_0000_0000 => {
                out.push(major | 26);
                out.extend((value as u32).to_be_bytes());
            }
            _ => {
                out.push(major | 27);
                out.extend(value.to_be_bytes());
            }
        }
    }

    pub fn unsigned(out: &mut Vec<u8>, value: u64) {
        head(out, 0, value);
    }

    pub fn integer(out: &mut Vec<u8>, value: i64) {
        match u64::try_from(value) {
            Ok(value) => head(out, 0, value),
            // -1 - value without overflow.
            Err(_) => head(out, 1, !value as u64),
        }
    }

    pub fn bytes(out: &mut Vec<u8>, bytes: &[u8]) {
        head(out, 2, bytes.len() as u64);
        out.extend_from_slice(bytes);
    }

    pub fn text(out: &mut Vec<u8>, text: &str) {
        head(out, 3, text.len() as u64);
        out.extend_from_slice(text.as_bytes());
    }

    pub fn array(out: &mut Vec<u8>, items: usize) {
        head(out, 4, items as u64);
    }

    pub fn null(out: &mut Vec<u8>) {
        out.push(0xf6);
    }
}

#[cfg(test)]
mod tests;
