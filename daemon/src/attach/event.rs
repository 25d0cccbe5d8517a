//! KV events as engines publish them: every spelling that vLLM 0.8 to 0.33 and SGLang have used, read into one form.
//!
//! A batch is a msgpack array `[timestamp, [event…], data-parallel rank]`. An event is an array `[tag, field…]` (vLLM before 0.24, SGLang),
//! with fields left out at the end by some, or a map with `"type"` (vLLM since 0.24), with fields of default value left out. A hash is an
//! integer, written as u64 or as i64 by some, or 32 bytes whose last 8, big-endian, are that integer. The medium is spelled in
//! either case or left out.

use rmpv::Value;

/// Largest batch that is decoded.
pub const BATCH_BYTES_MAX: usize = 16 << 20;
/// Nesting of msgpack values; a batch needs six.
const DEPTH_MAX: usize = 16;

/// Where a block lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Tier {
    Gpu,
    Cpu,
    Disk,
}

impl Tier {
    pub const ALL: [Self; 3] = [Self::Gpu, Self::Cpu, Self::Disk];

    /// By an event's medium, in any case; `None` for one that has no tier here.
    pub fn named(medium: &str) -> Option<Self> {
        let is = |name: &str| medium.eq_ignore_ascii_case(name);
        if is("gpu") {
            Some(Self::Gpu)
        } else if is("cpu") || is("cpu_pinned") {
            Some(Self::Cpu)
        } else if is("storage") || is("disk") {
            Some(Self::Disk)
        } else {
            None
        }
    }

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Gpu => "gpu",
            Self::Cpu => "cpu",
            Self::Disk => "disk",
        }
    }
}

/// The engine's hash of a block, reduced to its low 64 bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct EngineHash(pub u64);

/// Which adapter an event's blocks were computed with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Adapter {
    /// The event says that there is none.
    None,
    Named(String),
    /// The event does not carry the field, or gives a number that no name can be had for.
    Unsaid,
    Unnamed,
}

/// What besides tokens an event says of one block.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Extra {
    Text(String),
    /// Anything else: multimodal items, prompt embeddings.
    Other,
}

#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    Stored(Stored),
    Removed { hashes: Vec<EngineHash>, tier: Tier, group: u64 },
    Cleared,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Stored {
    pub hashes: Vec<EngineHash>,
    pub parent: Option<EngineHash>,
    /// Tokens of all blocks, one after another.
    pub tokens: Vec<u32>,
    pub block_tokens: usize,
    pub adapter: Adapter,
    /// Per block; empty where the event has none.
    pub extra: Vec<Vec<Extra>>,
    pub tier: Tier,
    /// KV cache group of hybrid models.
    pub group: u64,
    /// Whether the group holds the whole prefix (sliding windows do not).
    pub full_attention: bool,
}

/// A decoded batch. Events that could not be understood are counted; their neighbours stand.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Batch {
    pub events: Vec<Event>,
    pub undecodable: u64,
}

/// Decodes a batch; `None` when it is none at all.
pub fn decode(payload: &[u8]) -> Option<Batch> {
    if payload.len() > BATCH_BYTES_MAX {
        return None;
    }
    let mut rest = payload;
    let value = rmpv::decode::read_value_with_max_depth(&mut rest, DEPTH_MAX).ok()?;
    let Value::Array(mut fields) = value else { return None };
    if fields.len() < 2 {
        return None;
    }
    let Value::Array(events) = fields.swap_remove(1) else { return None };
    let mut batch = Batch::default();
    for value in events {
        match Fields::of(&value).and_then(|fields| event(&fields)) {
            Some(event) => batch.events.push(event),
            None => batch.undecodable += 1,
        }
    }
    Some(batch)
}

/// Fields of an event by name, whichever way it is written.
enum Fields<'a> {
    Array(&'a str, &'a [Value]),
    Map(&'a str, &'a [(Value, Value)]),
}

/// Order of the fields in the array form, behind the tag.
const STORED: [&str; 10] = [
    "block_hashes",
    "parent_block_hash",
    "token_ids",
    "block_size",
    "lora_id",
    "medium",
    "lora_name",
    "extra_keys",
    "group_idx",
    "kv_cache_spec_kind",
];
const REMOVED: [&str; 3] = ["block_hashes", "medium", "group_idx"];

impl<'a> Fields<'a> {
    fn of(value: &'a Value) -> Option<Self> {
        match value {
            Value::Array(fields) => {
                let (tag, fields) = fields.split_first()?;
                Some(Self::Array(tag.as_str()?, fields))
            }
            Value::Map(entries) => {
                let tag = entries.iter().find(|(key, _)| key.as_str() == Some("type"))?;
                Some(Self::Map(tag.1.as_str()?, entries))
            }
            _ => None,
        }
    }

    fn tag(&self) -> &'a str {
        match self {
            Self::Array(tag, _) | Self::Map(tag, _) => tag,
        }
    }

    /// `None`: the event does not have the field. Nil is a value.
    fn get(&self, order: &[&str], name: &str) -> Option<&'a Value> {
        match self {
            Self::Array(_, fields) => fields.get(order.iter().position(|field| *field == name)?),
            Self::Map(_, entries) => entries.iter().find(|(key, _)| key.as_str() == Some(name)).map(|(_, value)| value),
        }
    }
}

fn event(fields: &Fields<'_>) -> Option<Event> {
    match fields.tag() {
        "BlockStored" => stored(fields).map(Event::Stored),
        "BlockRemoved" => Some(Event::Removed {
            hashes: hashes(fields.get(&REMOVED, "block_hashes")?)?,
            tier: tier(fields.get(&REMOVED, "medium"))?,
            group: group(fields.get(&REMOVED, "group_idx"))?,
        }),
        "AllBlocksCleared" => Some(Event::Cleared),
        _ => None,
    }
}

fn stored(fields: &Fields<'_>) -> Option<Stored> {
    let get = |name| fields.get(&STORED, name);
    let hashes = hashes(get("block_hashes")?)?;
    let tokens = get("token_ids")?.as_array()?.iter().map(|token| u32::try_from(token.as_u64()?).ok());
    let tokens: Vec<u32> = tokens.collect::<Option<_>>()?;
    let block_tokens = usize::try_from(get("block_size")?.as_u64()?).ok()?;
    if block_tokens == 0 || hashes.is_empty() || hashes.len().checked_mul(block_tokens)? != tokens.len() {
        return None;
    }
    let parent = match get("parent_block_hash") {
        None | Some(Value::Nil) => None,
        Some(value) => Some(hash(value)?),
    };
    let named = get("lora_name").map(|value| value.as_str().map(str::to_owned));
    let numbered = get("lora_id").map(|value| !value.is_nil());
    let adapter = match (named, numbered) {
        (Some(Some(name)), _) => Adapter::Named(name),
        (_, Some(true)) => Adapter::Unnamed,
        (Some(None), _) | (None, Some(false)) => Adapter::None,
        (None, None) => Adapter::Unsaid,
    };
    let full_attention = match get("kv_cache_spec_kind") {
        None | Some(Value::Nil) => true,
        Some(kind) => kind.as_str() == Some("full_attention"),
    };
    Some(Stored {
        extra: extra(get("extra_keys"), hashes.len())?,
        tier: tier(get("medium"))?,
        group: group(get("group_idx"))?,
        hashes,
        parent,
        tokens,
        block_tokens,
        adapter,
        full_attention,
    })
}

fn hashes(value: &Value) -> Option<Vec<EngineHash>> {
    value.as_array()?.iter().map(hash).collect()
}

fn hash(value: &Value) -> Option<EngineHash> {
    match value {
        Value::Integer(number) => number.as_u64().or_else(|| number.as_i64().map(|number| number as u64)).map(EngineHash),
        Value::Binary(bytes) if !bytes.is_empty() => {
            let low = &bytes[bytes.len().saturating_sub(8)..];
            Some(EngineHash(low.iter().fold(0, |hash, byte| hash << 8 | u64::from(*byte))))
        }
        _ => None,
    }
}

fn tier(value: Option<&Value>) -> Option<Tier> {
    let Some(value) = value.filter(|value| !value.is_nil()) else { return Some(Tier::Gpu) };
    Tier::named(value.as_str()?)
}

fn group(value: Option<&Value>) -> Option<u64> {
    match value {
        None | Some(Value::Nil) => Some(0),
        Some(value) => value.as_u64(),
    }
}

/// Keys per block: nil, or for each block nil or a list of keys; a key of several parts is a list again.
fn extra(value: Option<&Value>, blocks: usize) -> Option<Vec<Vec<Extra>>> {
    fn flatten(value: &Value, keys: &mut Vec<Extra>) {
        match value {
            Value::Nil => {}
            Value::Array(parts) => parts.iter().for_each(|part| flatten(part, keys)),
            value => keys.push(value.as_str().map_or(Extra::Other, |text| Extra::Text(text.to_owned()))),
        }
    }
    let Some(value) = value.filter(|value| !value.is_nil()) else { return Some(Vec::new()) };
    let per_block = value.as_array()?;
    if per_block.len() != blocks {
        return None;
    }
    let keys = per_block.iter().map(|value| {
        let mut keys = Vec::new();
        flatten(value, &mut keys);
        keys
    });
    Some(keys.collect())
}
