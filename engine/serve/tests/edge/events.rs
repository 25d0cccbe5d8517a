//! KV events on a live PUB socket and its replay, as a subscriber of vLLM reads them.

use engine_serve::{Encoding, KvEventsConfig};
use rmpv::Value;
use serde_json::json;
use zeromq::{DealerSocket, Socket, SocketRecv, SocketSend, SubSocket, ZmqMessage};

use crate::client::PATIENCE;
use crate::server::{Server, instant, path, scripted};

async fn recv(socket: &mut impl SocketRecv) -> Vec<bytes::Bytes> {
    tokio::time::timeout(PATIENCE, socket.recv()).await.expect("a message in time").expect("a message").into_vec()
}

/// Replays everything: `(sequence, payload)`.
async fn replay(endpoint: &str, first: u64) -> Vec<(u64, bytes::Bytes)> {
    let mut dealer = DealerSocket::new();
    dealer.connect(endpoint).await.expect("the replay endpoint is bound");
    let mut request = ZmqMessage::from(bytes::Bytes::new());
    request.push_back(first.to_be_bytes().to_vec().into());
    dealer.send(request).await.expect("sent");
    let mut batches = Vec::new();
    loop {
        let frames = recv(&mut dealer).await;
        let [delimiter, topic, sequence, payload] = <[_; 4]>::try_from(frames).expect("four frames");
        assert!(delimiter.is_empty());
        if sequence[..] == [0xff; 8] {
            assert!(topic.is_empty() && payload.is_empty(), "the end marker");
            return batches;
        }
        assert_eq!(topic, "kv@here@m");
        batches.push((u64::from_be_bytes(sequence[..].try_into().expect("eight bytes")), payload));
    }
}

/// Replays until the batch of this sequence is there: events leave the engine just behind the tokens.
async fn replay_until(endpoint: &str, last: u64) -> Vec<(u64, bytes::Bytes)> {
    let reached = async {
        loop {
            let batches = replay(endpoint, 0).await;
            if batches.last().is_some_and(|(sequence, _)| *sequence >= last) {
                return batches;
            }
        }
    };
    tokio::time::timeout(PATIENCE, reached).await.expect("published in time")
}

fn field<'a>(event: &'a Value, name: &str) -> Option<&'a Value> {
    event.as_map()?.iter().find(|(key, _)| key.as_str() == Some(name)).map(|(_, value)| value)
}

#[tokio::test]
async fn stored_blocks_are_published_in_sequence_and_replayed() {
    let mut config = instant(scripted());
    let mut events = KvEventsConfig::bind("tcp://127.0.0.1:0");
    events.replay_endpoint = Some("tcp://127.0.0.1:0".into());
    events.topic = "kv@here@m".into();
    config.kv_events = Some(events);
    let server = Server::start(config).await;
    let state = server.state_where(|state| state["state"] == "ready").await;
    let (endpoint, replay_endpoint) = (state["kv_events"].as_str().expect("bound"), state["kv_replay"].as_str().expect("bound"));
    assert_eq!(Some(endpoint), server.bound.kv_events.endpoint.as_deref());
    assert!(!endpoint.ends_with(":0"), "{endpoint}");

    let prompt: Vec<u32> = (0..33).collect();
    let body = json!({"prompt": prompt, "max_tokens": 1, "cache_salt": "tenant"});
    server.post(path("text"), &json!({"prompt": prompt, "max_tokens": 1})).await;
    // A subscriber that comes late replays what it missed.
    let missed = replay_until(replay_endpoint, 0).await;
    assert_eq!(missed.iter().map(|(sequence, _)| *sequence).collect::<Vec<_>>(), [0]);
    let batch: Value = rmpv::decode::read_value(&mut &missed[0].1[..]).expect("msgpack");
    let parts = batch.as_array().expect("a batch is an array");
    assert!(parts[0].as_f64().is_some_and(|ts| ts > 1.7e9) && parts[2] == Value::from(0), "{batch}");
    let event = &parts[1].as_array().expect("events")[0];
    assert_eq!(event.as_map().expect("a map")[0], (Value::from("type"), Value::from("BlockStored")), "the type comes first");
    let tokens: Vec<Value> = (0..32).map(Value::from).collect();
    // vLLM 0.33: sha256_cbor, seed "vllm-none-hash", tokens 0..16 and 16..32.
    let hashes = [2233398808101521225u64, 17911472383915781900];
    assert_eq!(field(event, "block_hashes"), Some(&Value::Array(hashes.map(Value::from).to_vec())));
    for (name, expected) in [
        ("parent_block_hash", Value::Nil),
        ("token_ids", Value::Array(tokens)),
        ("block_size", Value::from(16)),
        ("lora_id", Value::Nil),
        ("medium", Value::from("GPU")),
        ("lora_name", Value::Nil),
        ("group_idx", Value::from(0)),
        ("kv_cache_spec_kind", Value::from("full_attention")),
    ] {
        assert_eq!(field(event, name), Some(&expected), "{name}");
    }
    assert_eq!(field(event, "extra_keys"), None, "defaults are left out");

    let mut subscriber = SubSocket::new();
    subscriber.connect(endpoint).await.expect("the endpoint is bound");
    subscriber.subscribe("kv@").await.expect("subscribed");
    // A subscription takes effect when the publisher has read it; new blocks are made until one is heard of.
    let heard = async {
        let mut salt = 0;
        loop {
            salt += 1;
            let mut body = body.clone();
            body["cache_salt"] = json!(format!("tenant-{salt}"));
            server.post(path("text"), &body).await;
            if let Ok(frames) = tokio::time::timeout(std::time::Duration::from_millis(20), recv(&mut subscriber)).await {
                return frames;
            }
        }
    };
    let frames = tokio::time::timeout(PATIENCE, heard).await.expect("heard in time");
    let [topic, sequence, payload] = <[_; 3]>::try_from(frames).expect("three frames");
    assert_eq!(topic, "kv@here@m");
    let sequence = u64::from_be_bytes(sequence[..].try_into().expect("eight bytes"));
    assert_eq!(replay(replay_endpoint, sequence).await[0], (sequence, payload.clone()), "live = replayed");
    let batch: Value = rmpv::decode::read_value(&mut &payload[..]).expect("msgpack");
    let keys = field(&batch[1][0], "extra_keys").expect("a salt is told");
    assert!(keys[0][0].as_str().is_some_and(|salt| salt.starts_with("tenant-")) && keys[1] == Value::Nil, "{keys}");
    let sources = server.get("/kv_event_sources").await.json();
    let source = &sources["0"];
    assert_eq!(
        (&source["endpoint"], &source["topic"], &source["publisher"]),
        (&json!(endpoint), &json!("kv@here@m"), &json!("zmq"))
    );
    server.stop().await.expect("a clean end");
}

#[tokio::test]
async fn a_small_pool_tells_of_what_it_evicts_in_arrays() {
    let mut config = instant(scripted());
    config.limits.kv_blocks = Some(8);
    config.limits.max_model_len = Some(64);
    let mut events = KvEventsConfig::bind("tcp://127.0.0.1:0");
    (events.encoding, events.replay_endpoint, events.topic) = (Encoding::Array, Some("tcp://*:0".into()), "kv@here@m".into());
    config.kv_events = Some(events);
    let server = Server::start(config).await;
    for first in [0, 100, 200] {
        let prompt: Vec<u32> = (first..first + 50).collect();
        let answer = server.post(path("text"), &json!({"prompt": prompt, "max_tokens": 1})).await;
        assert_eq!(answer.status, 200, "{}", answer.text());
    }
    let endpoint = server.bound.kv_events.replay_endpoint.clone().expect("bound");
    assert!(endpoint.starts_with("tcp://127.0.0.1:"), "a neighbour can connect to it: {endpoint}");
    let listed = server.get("/trackside/v1/blocks").await.text();
    let mut listed = listed.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).expect("a line is JSON"));
    let head = listed.next().expect("a head");
    let batches = replay_until(&endpoint, head["sequence"].as_u64().expect("there were events")).await;
    let sequences: Vec<u64> = batches.iter().map(|(sequence, _)| *sequence).collect();
    assert_eq!(sequences, (0..batches.len() as u64).collect::<Vec<_>>());
    let mut held: Vec<u64> = Vec::new();
    let mut removed = 0;
    for (_, payload) in &batches {
        let batch: Value = rmpv::decode::read_value(&mut &payload[..]).expect("msgpack");
        for event in batch[1].as_array().expect("events") {
            let hashes: Vec<u64> =
                event[1].as_array().expect("hashes").iter().map(|hash| hash.as_u64().expect("an integer")).collect();
            match event[0].as_str() {
                Some("BlockStored") => {
                    assert_eq!(event.as_array().map(Vec::len), Some(12));
                    held.extend(hashes);
                }
                Some("BlockRemoved") => {
                    assert_eq!(event.as_array().map(Vec::len), Some(4));
                    removed += hashes.len();
                    held.retain(|hash| !hashes.contains(hash));
                }
                other => panic!("{other:?}"),
            }
        }
    }
    assert!(removed > 0, "nine blocks do not fit eight");
    // The log, replayed naively, is what the engine says it holds.
    let mut listed: Vec<u64> = listed.map(|block| block["hash"].as_u64().expect("a hash")).collect();
    listed.sort_unstable();
    held.sort_unstable();
    assert_eq!(held, listed);
    server.stop().await.expect("a clean end");
}

#[tokio::test]
async fn an_endpoint_that_is_not_ours_is_connected_to_again_and_again() {
    // The router binds, as llm-d has it, and may come later than the engine and go before it.
    let mut router = SubSocket::new();
    let endpoint = router.bind("tcp://127.0.0.1:0").await.expect("a free port").to_string();
    router.subscribe("").await.expect("subscribed");
    let mut config = instant(scripted());
    let mut events = KvEventsConfig::bind(endpoint.clone());
    events.connect = true;
    config.kv_events = Some(events);
    let server = Server::start(config).await;
    assert_eq!(server.bound.kv_events.endpoint, Some(endpoint.clone()));
    let heard = async |router: &mut SubSocket| {
        for salt in 0.. {
            let prompt: Vec<u32> = (0..17).collect();
            server.post(path("text"), &json!({"prompt": prompt, "max_tokens": 1, "cache_salt": format!("{salt}")})).await;
            if let Ok(frames) = tokio::time::timeout(std::time::Duration::from_millis(20), recv(router)).await {
                return frames.len();
            }
        }
        0
    };
    assert_eq!(tokio::time::timeout(PATIENCE, heard(&mut router)).await.expect("connected in time"), 3);
    drop(router);
    let mut router = SubSocket::new();
    let rebound = async {
        while router.bind(&endpoint).await.is_err() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENCE, rebound).await.expect("the port becomes free");
    router.subscribe("").await.expect("subscribed");
    assert_eq!(tokio::time::timeout(PATIENCE, heard(&mut router)).await.expect("connected again in time"), 3);
    server.stop().await.expect("a clean end");
}
