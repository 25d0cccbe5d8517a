//! What stands before a block on the disk, and how both are checked.

use std::sync::Arc;

use domain::ExtraKeys;
use domain::block::{AdapterKey, MultimodalKey};
use engine::kv::hash::BlockHash;
use engine::kv::prefix::Content;
use engine::kv::tier::DiskPlace;
use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::xxh3_64;

use super::HEAD_BYTES;

const MAGIC: u32 = 0x4b56_0001;
/// Room for extra keys; a block with more is not kept.
const EXTRA_BYTES_MAX: usize = 1024;
/// Records and blocks begin at multiples of this, what disks write at once.
const ALIGN: usize = 4096;

/// Sizes of a place.
#[derive(Clone, Copy, Debug)]
pub struct Layout {
    block_tokens: usize,
    block_bytes: usize,
    pub record_bytes: usize,
    pub place_bytes: usize,
}

/// A record that is whole.
pub struct Record {
    pub content: Content,
    pub tokens: Vec<u32>,
    pub checksum: u64,
}

/// [`ExtraKeys`] as they are written.
#[derive(Serialize, Deserialize)]
struct Extra {
    adapter: Option<(String, String)>,
    salt: Option<String>,
    items: Vec<(String, usize, usize)>,
}

impl Layout {
    pub fn new(block_tokens: usize, block_bytes: usize) -> Self {
        // magic, hash, parent with its flag, index, length of the extra keys, two checksums
        let fixed = 4 + 32 + 33 + 4 + 4 + 16;
        let record_bytes = (fixed + 4 * block_tokens + EXTRA_BYTES_MAX).next_multiple_of(512);
        Self { block_tokens, block_bytes, record_bytes, place_bytes: (record_bytes + block_bytes).next_multiple_of(ALIGN) }
    }

    pub fn offset(&self, place: DiskPlace) -> u64 {
        HEAD_BYTES + u64::from(place.0) * self.place_bytes as u64
    }

    /// Bytes of a record and its block.
    pub fn used_bytes(&self) -> usize {
        self.record_bytes + self.block_bytes
    }

    /// Writes record and block into `out`. Where the extra keys are too long the record is not whole, and is lost when it is read.
    pub fn write(&self, content: &Content, tokens: &[u32], block: &[u8], out: &mut Vec<u8>) {
        let Content { hash, parent, index, extra } = content;
        let ExtraKeys { adapter, cache_salt, multimodal } = &**extra;
        let extra = Extra {
            adapter: adapter.as_ref().map(|AdapterKey { name, path }| (name.to_string(), path.to_string())),
            salt: cache_salt.as_ref().map(|salt| salt.to_string()),
            items: multimodal.iter().map(|item| (item.identifier.to_string(), item.start, item.tokens)).collect(),
        };
        let extra = serde_json::to_vec(&extra).unwrap_or_default();
        out.clear();
        out.extend_from_slice(&MAGIC.to_le_bytes());
        out.extend_from_slice(&hash.0);
        out.push(u8::from(parent.is_some()));
        out.extend_from_slice(&parent.map_or([0; 32], |parent| parent.0));
        out.extend_from_slice(&index.to_le_bytes());
        tokens.iter().for_each(|token| out.extend_from_slice(&token.to_le_bytes()));
        if extra.len() <= EXTRA_BYTES_MAX {
            out.extend_from_slice(&(extra.len() as u32).to_le_bytes());
            out.extend_from_slice(&extra);
        } else {
            out.extend_from_slice(&u32::MAX.to_le_bytes());
        }
        out.resize(self.record_bytes - 16, 0);
        out.extend_from_slice(&xxh3_64(block).to_le_bytes());
        let own = xxh3_64(out);
        out.extend_from_slice(&own.to_le_bytes());
        out.extend_from_slice(block);
    }

    /// The record at the start of `bytes`; `None` where it is not whole.
    pub fn read(&self, bytes: &[u8]) -> Option<Record> {
        let (checked, own) = bytes.get(..self.record_bytes)?.split_at(self.record_bytes - 8);
        if xxh3_64(checked) != u64::from_le_bytes(own.try_into().ok()?) {
            return None;
        }
        let mut rest = checked;
        if u32::from_le_bytes(*take(&mut rest)?) != MAGIC {
            return None;
        }
        let hash = BlockHash(*take(&mut rest)?);
        let [has_parent] = *take(&mut rest)?;
        let parent = Some(BlockHash(*take(&mut rest)?)).filter(|_| has_parent == 1);
        let index = u32::from_le_bytes(*take(&mut rest)?);
        let mut tokens = Vec::with_capacity(self.block_tokens);
        for _ in 0..self.block_tokens {
            tokens.push(u32::from_le_bytes(*take(&mut rest)?));
        }
        let len = u32::from_le_bytes(*take(&mut rest)?) as usize;
        let extra: Extra = serde_json::from_slice(rest.get(..len)?).ok()?;
        let extra = ExtraKeys {
            adapter: extra.adapter.map(|(name, path)| AdapterKey { name: name.into(), path: path.into() }),
            cache_salt: extra.salt.map(Arc::from),
            multimodal: extra
                .items
                .into_iter()
                .map(|(identifier, start, tokens)| MultimodalKey { identifier: identifier.into(), start, tokens })
                .collect(),
        };
        let checksum = u64::from_le_bytes(checked[checked.len() - 8..].try_into().ok()?);
        Some(Record { content: Content { hash, parent, index, extra: Arc::new(extra) }, tokens, checksum })
    }

    /// The block behind a record, if it is that of `hash` and undamaged.
    pub fn block<'a>(&self, bytes: &'a [u8], hash: &BlockHash) -> Option<&'a [u8]> {
        let record = self.read(bytes)?;
        let block = bytes.get(self.record_bytes..self.used_bytes())?;
        (record.content.hash == *hash && record.checksum == xxh3_64(block)).then_some(block)
    }
}

fn take<'a, const N: usize>(rest: &mut &'a [u8]) -> Option<&'a [u8; N]> {
    let (taken, behind) = rest.split_first_chunk()?;
    *rest = behind;
    Some(taken)
}
