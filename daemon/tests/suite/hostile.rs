//! Outside bytes, damaged at random: KV events, an engine's `/metrics`, the configuration. Whatever comes is an answer within bounds, and
//! never a panic.

use daemon::attach::event::decode;
use daemon::attach::exposition::samples;
use daemon::config::Config;
use proptest::prelude::*;
use proptest::sample::Index;

/// vLLM's golden batch in its map form.
const EVENTS: &str = "93cb3ff8000000000000938aa474797065ab426c6f636b53746f726564ac626c6f636b5f68617368657391c40401010101b1706172656e74\
5f626c6f636b5f68617368c0a9746f6b656e5f696473920102aa626c6f636b5f73697a6502a76c6f72615f6964c0a66d656469756da3475055a96c6f72615f6e616d65\
c0a967726f75705f69647800b26b765f63616368655f737065635f6b696e64ae66756c6c5f617474656e74696f6e83a474797065ac426c6f636b52656d6f766564ac62\
6c6f636b5f68617368657391c40401010101a66d656469756da347505581a474797065b0416c6c426c6f636b73436c656172656400";
const METRICS: &str = "# TYPE vllm:num_requests_running gauge\nvllm:num_requests_running{model_name=\"a\\\"b\",engine=\"0\"} 3.0\n\
vllm:kv_cache_usage_perc{engine=\"0\"} 0.25\n";
const CONFIG: &str = "schedulers: [\"127.0.0.1:9010\"]\nslots:\n  - { kind: native, model: builtin, port: 0, args: [a] }\n";

/// `seed` with some bytes replaced, put in or taken out, perhaps cut short.
fn damaged(seed: Vec<u8>) -> impl Strategy<Value = Vec<u8>> {
    proptest::collection::vec((any::<Index>(), any::<u8>(), 0..4u8), 0..12).prop_map(move |changes| {
        let mut bytes = seed.clone();
        for (at, byte, kind) in changes {
            let at = at.index(bytes.len() + 1);
            match kind {
                0 => bytes.insert(at, byte),
                1 if at < bytes.len() => drop(bytes.remove(at)),
                2 => bytes.truncate(at.max(1)),
                _ if at < bytes.len() => bytes[at] = byte,
                _ => bytes.push(byte),
            }
        }
        bytes
    })
}

fn events() -> Vec<u8> {
    let pair = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap();
    EVENTS.as_bytes().chunks_exact(2).map(pair).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn kv_events(bytes in damaged(events())) {
        if let Some(batch) = decode(&bytes) {
            prop_assert!(batch.events.len() as u64 + batch.undecodable <= bytes.len() as u64);
        }
    }

    #[test]
    fn metrics(bytes in damaged(METRICS.as_bytes().to_vec())) {
        let text = String::from_utf8_lossy(&bytes);
        for sample in samples(&text) {
            prop_assert!(!sample.name.is_empty());
            let _ = sample.label("engine");
        }
    }

    #[test]
    fn configurations(bytes in damaged(CONFIG.as_bytes().to_vec())) {
        let text = String::from_utf8_lossy(&bytes);
        if let Err(mistakes) = Config::parse(&text) {
            prop_assert!(!mistakes.is_empty() && mistakes.iter().all(|mistake| !mistake.is_empty()));
        }
    }
}
