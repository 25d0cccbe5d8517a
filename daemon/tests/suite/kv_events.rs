//! One block in all its spellings is one index entry; what says too little is counted and not guessed.

use daemon::attach::event::{Batch, Event, Tier, decode};
use daemon::attach::rehash::{Change, Rehash};
use domain::BlockKey;
use domain::block::{AdapterKey, ExtraKeys, prompt_keys};
use rmpv::Value;

const HASH: u64 = 15_760_518_052_499_183_552;
const TOKENS: std::ops::Range<u32> = 0..16;

fn array(values: Vec<Value>) -> Value {
    Value::Array(values)
}

fn tokens(tokens: std::ops::Range<u32>) -> Value {
    array(tokens.map(Value::from).collect())
}

fn batch(events: Vec<Value>, rank: Option<Value>) -> Vec<u8> {
    let mut fields = vec![Value::from(1.5), array(events)];
    fields.extend(rank);
    let mut bytes = Vec::new();
    rmpv::encode::write_value(&mut bytes, &array(fields)).unwrap();
    bytes
}

/// The array form with as many fields as asked for, tag included.
fn as_array(hash: Value, medium: Value, len: usize) -> Value {
    let nil = || Value::Nil;
    let mut fields =
        vec!["BlockStored".into(), array(vec![hash]), nil(), tokens(TOKENS), 16.into(), nil(), medium, nil(), nil(), 0.into()];
    fields.extend(["full_attention".into(), nil()]);
    fields.truncate(len);
    array(fields)
}

fn as_map(hash: Value, more: Vec<(Value, Value)>) -> Value {
    let mut fields = vec![
        ("type".into(), "BlockStored".into()),
        ("block_hashes".into(), array(vec![hash])),
        ("parent_block_hash".into(), Value::Nil),
        ("token_ids".into(), tokens(TOKENS)),
        ("block_size".into(), 16.into()),
        ("lora_id".into(), Value::Nil),
    ];
    fields.extend(more);
    Value::Map(fields)
}

/// What a batch leaves in an empty index, and how many of its events were not understood.
fn dump(payload: &[u8]) -> (Vec<Change>, u64) {
    let Batch { events, undecodable } = decode(payload).expect("a batch");
    let mut rehash = Rehash::new("m", None, 100);
    let mut changes = Vec::new();
    events.iter().for_each(|event| rehash.apply(event, &mut changes));
    (changes, undecodable)
}

fn base_key() -> BlockKey {
    prompt_keys("m", &ExtraKeys::default(), 16, &TOKENS.collect::<Vec<_>>())[0]
}

#[test]
fn one_block_has_many_spellings_and_one_entry() {
    let bytes = [[7; 24].as_slice(), &HASH.to_be_bytes()].concat();
    let zero = || Some(Value::from(0));
    let spellings = [
        ("array of 5", batch(vec![as_array(HASH.into(), "GPU".into(), 5)], zero())),
        ("array of 12", batch(vec![as_array(HASH.into(), "GPU".into(), 12)], zero())),
        ("map", batch(vec![as_map(HASH.into(), vec![])], zero())),
        ("map with a key of tomorrow", batch(vec![as_map(HASH.into(), vec![("moon".into(), array(vec![]))])], zero())),
        ("hash as i64", batch(vec![as_array((HASH as i64).into(), "GPU".into(), 12)], zero())),
        ("hash as 32 bytes", batch(vec![as_map(Value::Binary(bytes), vec![])], zero())),
        ("no data-parallel rank", batch(vec![as_map(HASH.into(), vec![])], None)),
        ("rank nil", batch(vec![as_map(HASH.into(), vec![])], Some(Value::Nil))),
        ("medium gpu", batch(vec![as_array(HASH.into(), "gpu".into(), 12)], zero())),
        ("medium nil", batch(vec![as_array(HASH.into(), Value::Nil, 12)], zero())),
        ("medium absent", batch(vec![as_array(HASH.into(), "GPU".into(), 6)], zero())),
    ];
    let wanted = vec![Change::Stored { keys: vec![base_key()], tier: Tier::Gpu }];
    for (spelling, payload) in spellings {
        assert_eq!(dump(&payload), (wanted.clone(), 0), "{spelling}");
    }
}

#[test]
fn a_bad_event_is_counted_and_its_neighbours_are_applied() {
    let good = |hash: u64| as_map(hash.into(), vec![]);
    let wrong_count = Value::Map(vec![
        ("type".into(), "BlockStored".into()),
        ("block_hashes".into(), array(vec![1.into(), 2.into()])),
        ("token_ids".into(), tokens(TOKENS)),
        ("block_size".into(), 16.into()),
    ]);
    let bad = [
        Value::from(7),
        array(vec![]),
        array(vec!["BlockMoved".into()]),
        Value::Map(vec![("kind".into(), "BlockStored".into())]),
        wrong_count,
        as_map("text".into(), vec![]),
        as_array(HASH.into(), "MOON".into(), 12),
    ];
    for event in bad {
        let payload = batch(vec![good(1), event.clone(), array(vec!["BlockRemoved".into(), array(vec![1.into()])])], None);
        let keys = vec![base_key()];
        let wanted = vec![Change::Stored { keys: keys.clone(), tier: Tier::Gpu }, Change::Removed { keys, tier: Tier::Gpu }];
        assert_eq!(dump(&payload), (wanted, 1), "{event}");
    }
}

#[test]
fn what_is_no_batch_is_none() {
    let deep = [vec![0x91; 5000], vec![0xc0]].concat();
    for payload in [&b""[..], b"\xc1", b"\x91\x01", b"\x93\x01\x02\x03", b"\xdd\xff\xff\xff\xff", &deep] {
        assert_eq!(decode(payload), None, "{:?}", &payload[..payload.len().min(8)]);
    }
}

/// Bytes as vLLM 0.23 (array) and 0.33 (map) encode the same three events, written down by running its own encoder (msgspec).
#[test]
fn vllm_s_own_bytes_are_read() {
    let array = "93cb3ff8000000000000939cab426c6f636b53746f72656491c40401010101c092010202c0a3475055c0c000ae66756c6c5f617474656e74696f6e\
                 c094ac426c6f636b52656d6f76656491c40401010101a3475055c091b0416c6c426c6f636b73436c656172656400";
    let map = "93cb3ff8000000000000938aa474797065ab426c6f636b53746f726564ac626c6f636b5f68617368657391c40401010101b1706172656e745f626c\
               6f636b5f68617368c0a9746f6b656e5f696473920102aa626c6f636b5f73697a6502a76c6f72615f6964c0a66d656469756da3475055a96c6f72\
               615f6e616d65c0a967726f75705f69647800b26b765f63616368655f737065635f6b696e64ae66756c6c5f617474656e74696f6e83a4747970\
               65ac426c6f636b52656d6f766564ac626c6f636b5f68617368657391c40401010101a66d656469756da347505581a474797065b0416c6c42\
               6c6f636b73436c656172656400";
    let key = prompt_keys("m", &ExtraKeys::default(), 2, &[1, 2])[0];
    let wanted = vec![
        Change::Stored { keys: vec![key], tier: Tier::Gpu },
        Change::Removed { keys: vec![key], tier: Tier::Gpu },
        Change::Cleared,
    ];
    for hex in [array, map] {
        let digits: Vec<u8> = hex.bytes().filter(u8::is_ascii_hexdigit).collect();
        let bytes: Vec<u8> =
            digits.chunks_exact(2).map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap()).collect();
        assert_eq!(dump(&bytes), (wanted.clone(), 0));
    }
}

fn stored(hash: u64, parent: Option<u64>, range: std::ops::Range<u32>, more: Vec<(&str, Value)>) -> Event {
    let size = range.len();
    let mut fields = vec![
        ("type".into(), "BlockStored".into()),
        ("block_hashes".into(), array(vec![hash.into()])),
        ("parent_block_hash".into(), parent.map_or(Value::Nil, Value::from)),
        ("token_ids".into(), tokens(range)),
        ("block_size".into(), Value::from(size)),
    ];
    fields.extend(more.into_iter().map(|(name, value)| (name.into(), value)));
    let batch = decode(&batch(vec![Value::Map(fields)], None)).expect("a batch");
    batch.events.into_iter().next().expect("a decodable event")
}

/// The keys an event leaves in an index that knows an unsalted base block 1 of tokens 0..4.
fn keys_after(event: &Event, adapters_loaded: bool) -> Option<Vec<BlockKey>> {
    let mut rehash = Rehash::new("m", Some(4), 100);
    let base = stored(1, None, 0..4, vec![("lora_id", Value::Nil), ("lora_name", Value::Nil)]);
    rehash.apply(&base, &mut Vec::new());
    rehash.set_adapters_loaded(adapters_loaded);
    let mut changes = Vec::new();
    rehash.apply(event, &mut changes);
    match changes.pop() {
        Some(Change::Stored { keys, .. }) => {
            assert_eq!(rehash.take_unindexed(), 0);
            Some(keys)
        }
        _ => {
            assert_eq!(rehash.take_unindexed(), 1, "left out and counted");
            None
        }
    }
}

#[test]
fn adapter_and_salt_make_other_keys_and_what_is_unsaid_is_not_indexed() {
    let keys = |adapter: Option<&str>, salt: Option<&str>, range: std::ops::Range<u32>| {
        let adapter = adapter.map(|name| AdapterKey { name: name.into(), path: "/p".into() });
        let extra = ExtraKeys { adapter, cache_salt: salt.map(Into::into), multimodal: Vec::new() };
        let all = prompt_keys("m", &extra, 4, &range.collect::<Vec<_>>());
        Some(vec![*all.last().unwrap()])
    };
    let text = |texts: &[&str]| array(vec![array(texts.iter().map(|text| Value::from(*text)).collect())]);
    let named = || ("lora_name", Value::from("a"));
    let unnamed = || ("lora_name", Value::Nil);
    assert_eq!(keys_after(&stored(2, None, 4..8, vec![unnamed()]), true), keys(None, None, 4..8));
    assert_eq!(keys_after(&stored(2, None, 4..8, vec![named()]), true), keys(Some("a"), None, 4..8));
    assert_eq!(keys_after(&stored(2, Some(1), 4..8, vec![]), false), keys(None, None, 0..8));
    let salted = stored(2, None, 4..8, vec![unnamed(), ("extra_keys", text(&["salt"]))]);
    assert_eq!(keys_after(&salted, false), keys(None, Some("salt"), 4..8));
    let both = stored(2, None, 4..8, vec![named(), ("extra_keys", text(&["a", "/p", "salt"]))]);
    assert_eq!(keys_after(&both, true), keys(Some("a"), Some("salt"), 4..8));

    let left_out = [
        ("an adapter may be meant", stored(2, None, 4..8, vec![]), true),
        ("a number is no name", stored(2, None, 4..8, vec![("lora_id", 1.into())]), true),
        ("parent unknown", stored(2, Some(99), 4..8, vec![unnamed()]), false),
        ("multimodal", stored(2, Some(1), 4..8, vec![("extra_keys", array(vec![array(vec!["img".into(), 3.into()])]))]), false),
        ("other block size", stored(2, None, 4..6, vec![unnamed()]), false),
        ("sliding window", stored(2, None, 4..8, vec![("kv_cache_spec_kind", "sliding_window".into())]), false),
        ("other group", stored(2, None, 4..8, vec![("group_idx", 1.into())]), false),
    ];
    for (why, event, adapters_loaded) in left_out {
        assert_eq!(keys_after(&event, adapters_loaded), None, "{why}");
    }
}

#[test]
fn a_block_in_two_tiers_leaves_one_after_the_other() {
    let mut rehash = Rehash::new("m", Some(4), 1);
    let mut changes = Vec::new();
    let at = |medium: &str| stored(1, None, 0..4, vec![("lora_name", Value::Nil), ("medium", medium.into())]);
    rehash.apply(&at("GPU"), &mut changes);
    rehash.apply(&at("GPU"), &mut changes);
    rehash.apply(&at("CPU"), &mut changes);
    rehash.apply(&stored(2, None, 4..8, vec![("lora_name", Value::Nil)]), &mut changes);
    assert_eq!(rehash.take_unindexed(), 1, "the map is full");
    assert_eq!(changes.len(), 2, "stored twice is stored once: {changes:?}");
    let removed = |medium: &str| {
        let event = array(vec!["BlockRemoved".into(), array(vec![1.into()]), medium.into()]);
        decode(&batch(vec![event], None)).unwrap().events.remove(0)
    };
    rehash.apply(&removed("GPU"), &mut changes);
    rehash.apply(&removed("GPU"), &mut changes);
    assert_eq!(rehash.len(), 1);
    rehash.apply(&removed("CPU"), &mut changes);
    assert!(rehash.is_empty());
    let tiers = changes[2..].iter().map(|change| match change {
        Change::Removed { tier, .. } => *tier,
        other => panic!("{other:?}"),
    });
    assert_eq!(tiers.collect::<Vec<_>>(), [Tier::Gpu, Tier::Cpu]);
}
