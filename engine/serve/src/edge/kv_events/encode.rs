//! vLLM's KV-event batches as msgpack, in the two encodings that consumers read: each event a map (vLLM 0.24 and later) or an array
//! (before, and SGLang). A batch is an array in both: `[ts, [events], data_parallel_rank]`.
//!
//! Field order, names and defaults are those of `vllm/distributed/kv_events.py`; the tests hold bytes that msgspec wrote.

use serde::ser::{Serialize, SerializeTuple, Serializer};

/// How one event is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Encoding {
    /// `{"type": "BlockStored", ...}`, fields with a default value omitted.
    #[default]
    Map,
    /// `["BlockStored", ...]`, every field present.
    Array,
}

/// How a block hash is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum HashForm {
    /// The low 64 bits as an integer, vLLM's default (`VLLM_KV_EVENTS_USE_INT_BLOCK_HASHES`).
    #[default]
    Int,
    /// All 32 bytes.
    Bytes,
}

/// A block hash on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WireHash<'a> {
    Int(u64),
    Bytes(&'a [u8]),
}

impl<'a> WireHash<'a> {
    /// The low 64 bits are the last eight bytes, big-endian.
    pub fn new(hash: &'a [u8; 32], form: HashForm) -> Self {
        match form {
            HashForm::Int => Self::Int(low_64_bits(hash)),
            HashForm::Bytes => Self::Bytes(hash),
        }
    }
}

/// The last eight bytes of a hash as a big-endian number: its integer form on every wire.
pub fn low_64_bits(hash: &[u8; 32]) -> u64 {
    hash[24..].iter().fold(0, |number, byte| number << 8 | u64::from(*byte))
}

impl Serialize for WireHash<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Int(number) => serializer.serialize_u64(*number),
            Self::Bytes(bytes) => serializer.serialize_bytes(bytes),
        }
    }
}

/// What besides its tokens went into a block's hash, without tags, as vLLM publishes it.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(untagged)]
pub enum ExtraKey<'a> {
    Text(&'a str),
    /// A multimodal item: identifier and offset in the block.
    Item(&'a str, i64),
}

/// The extra keys of one block; `None` where it has none.
pub type BlockExtraKeys<'a> = Option<Vec<ExtraKey<'a>>>;

/// One event. `medium` is "GPU" for an engine's first tier, whatever the device: routers weigh tiers by this word.
#[derive(Clone, Debug, PartialEq, serde::Serialize)]
#[serde(tag = "type")]
pub enum Event<'a> {
    BlockStored {
        block_hashes: Vec<WireHash<'a>>,
        parent_block_hash: Option<WireHash<'a>>,
        token_ids: &'a [u32],
        block_size: u32,
        lora_id: Option<u32>,
        medium: Option<&'a str>,
        lora_name: Option<&'a str>,
        #[serde(skip_serializing_if = "Option::is_none")]
        extra_keys: Option<Vec<BlockExtraKeys<'a>>>,
        #[serde(skip_serializing_if = "Option::is_none")]
        group_idx: Option<u32>,
        #[serde(skip_serializing_if = "Option::is_none")]
        kv_cache_spec_kind: Option<&'a str>,
    },
    BlockRemoved {
        block_hashes: Vec<WireHash<'a>>,
        medium: Option<&'a str>,
        #[serde(skip_serializing_if = "Option::is_none")]
        group_idx: Option<u32>,
    },
    AllBlocksCleared,
}

/// An event as an array. vLLM 0.23's fields end with the sliding window, which is always nil here.
struct AsArray<'e, 'a>(&'e Event<'a>);

impl Serialize for AsArray<'_, '_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.0 {
            Event::BlockStored {
                block_hashes,
                parent_block_hash,
                token_ids,
                block_size,
                lora_id,
                medium,
                lora_name,
                extra_keys,
                group_idx,
                kv_cache_spec_kind,
            } => {
                let mut fields = serializer.serialize_tuple(12)?;
                fields.serialize_element("BlockStored")?;
                fields.serialize_element(block_hashes)?;
                fields.serialize_element(parent_block_hash)?;
                fields.serialize_element(token_ids)?;
                fields.serialize_element(block_size)?;
                fields.serialize_element(lora_id)?;
                fields.serialize_element(medium)?;
                fields.serialize_element(lora_name)?;
                fields.serialize_element(extra_keys)?;
                fields.serialize_element(group_idx)?;
                fields.serialize_element(kv_cache_spec_kind)?;
                fields.serialize_element(&())?;
                fields.end()
            }
            Event::BlockRemoved { block_hashes, medium, group_idx } => {
                let mut fields = serializer.serialize_tuple(4)?;
                fields.serialize_element("BlockRemoved")?;
                fields.serialize_element(block_hashes)?;
                fields.serialize_element(medium)?;
                fields.serialize_element(group_idx)?;
                fields.end()
            }
            Event::AllBlocksCleared => {
                let mut fields = serializer.serialize_tuple(1)?;
                fields.serialize_element("AllBlocksCleared")?;
                fields.end()
            }
        }
    }
}

/// Writes one batch: `ts` in seconds of Unix time.
pub fn batch(encoding: Encoding, ts: f64, events: &[Event<'_>], data_parallel_rank: Option<u32>) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(256);
    let mut serializer = rmp_serde::Serializer::new(&mut bytes).with_struct_map();
    let written = match encoding {
        Encoding::Map => (ts, events, data_parallel_rank).serialize(&mut serializer),
        Encoding::Array => {
            let events: Vec<_> = events.iter().map(AsArray).collect();
            (ts, events, data_parallel_rank).serialize(&mut serializer)
        }
    };
    written.expect("plain data into memory: every length is known and nothing can fail");
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What msgspec 0.19 wrote for vLLM's own classes: ts 1.5, rank 0, hash bytes 01010101, tokens [1, 2], GPU, group 0.
    const GOLDEN_ARRAY: &str = "93cb3ff8000000000000939cab426c6f636b53746f72656491c40401010101c092010202c0a3475055c0c000ae66756c6c5f617474656e74696f6ec094ac426c6f636b52656d6f76656491c40401010101a3475055c091b0416c6c426c6f636b73436c656172656400";
    const GOLDEN_MAP: &str = "93cb3ff8000000000000938aa474797065ab426c6f636b53746f726564ac626c6f636b5f68617368657391c40401010101b1706172656e745f626c6f636b5f68617368c0a9746f6b656e5f696473920102aa626c6f636b5f73697a6502a76c6f72615f6964c0a66d656469756da3475055a96c6f72615f6e616d65c0a967726f75705f69647800b26b765f63616368655f737065635f6b696e64ae66756c6c5f617474656e74696f6e83a474797065ac426c6f636b52656d6f766564ac626c6f636b5f68617368657391c40401010101a66d656469756da347505581a474797065b0416c6c426c6f636b73436c656172656400";

    #[test]
    fn both_encodings_are_byte_equal_to_vllm() {
        let hash = WireHash::Bytes(&[1; 4]);
        let events = [
            Event::BlockStored {
                block_hashes: vec![hash],
                parent_block_hash: None,
                token_ids: &[1, 2],
                block_size: 2,
                lora_id: None,
                medium: Some("GPU"),
                lora_name: None,
                extra_keys: None,
                group_idx: Some(0),
                kv_cache_spec_kind: Some("full_attention"),
            },
            Event::BlockRemoved { block_hashes: vec![hash], medium: Some("GPU"), group_idx: None },
            Event::AllBlocksCleared,
        ];
        let check = |encoding, golden: &str| {
            let seen: String = batch(encoding, 1.5, &events, Some(0)).iter().map(|byte| format!("{byte:02x}")).collect();
            assert_eq!(seen, golden, "{encoding:?}");
        };
        check(Encoding::Array, GOLDEN_ARRAY);
        check(Encoding::Map, GOLDEN_MAP);
    }

    #[test]
    fn a_hash_as_integer_is_its_last_eight_bytes() {
        // vLLM 0.33, sha256_cbor, seed "vllm-none-hash", tokens 0..16.
        let hex = "dc918a88b139e5afe60b88eda27508d4aee16c10fdc354791efea06206ac0749";
        let hash: [u8; 32] = std::array::from_fn(|i| u8::from_str_radix(&hex[2 * i..2 * i + 2], 16).expect("hex"));
        assert_eq!(WireHash::new(&hash, HashForm::Int), WireHash::Int(2233398808101521225));
        assert_eq!(WireHash::new(&hash, HashForm::Bytes), WireHash::Bytes(&hash));
    }
}
