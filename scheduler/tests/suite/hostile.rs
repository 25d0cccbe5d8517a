//! Bytes from anybody: request bodies and node messages that were damaged at random, each from a fixed seed. Nothing may panic, and
//! the neighbours must not notice.

use prost::Message as _;
use proto::v1;
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

use crate::support::*;

/// Changes some bytes, cuts, or repeats a part.
fn damaged(bytes: &[u8], rng: &mut SmallRng) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    for _ in 0..rng.random_range(1..6) {
        if bytes.is_empty() {
            break;
        }
        let at = rng.random_range(0..bytes.len());
        match rng.random_range(0..4) {
            0 => bytes[at] = rng.random(),
            1 => bytes.truncate(at),
            2 => bytes.insert(at, *b"\"{}[]:,\\0-9e\xff\x00".get(rng.random_range(0..13)).unwrap_or(&0)),
            _ => {
                let again = bytes[at..].to_vec();
                bytes.extend_from_slice(&again[..again.len().min(64)]);
            }
        }
    }
    bytes
}

#[tokio::test]
async fn damaged_bodies_are_answered_and_never_break_the_gateway() {
    let scheduler = Scheduler::start().await;
    let engine = Engine::start(Script::ok()).await;
    let assets = assets();
    let digest = assets.digest().0.to_vec();
    let engines = vec![v1::Engine { assets_digest: digest.clone(), ..report("e", engine.address) }];
    let mut node = Node::with(&scheduler, "n", engines).await;
    node.command().await;
    node.upload(&digest, &assets.to_bytes(), 20_000).await;
    scheduler.engine_where("n", "e", |engine| engine["tokenizer"] == "ready").await;
    let bodies = [
        chat_body("hello", true),
        "{\"model\":\"m\",\"prompt\":[1,2,3],\"max_tokens\":5,\"cache_salt\":\"s\"}".to_owned(),
        "{\"model\":\"m\",\"messages\":[{\"role\":\"assistant\",\"content\":null,\"tool_calls\":[{\"id\":\"c\",\"type\":\"function\",\
         \"function\":{\"name\":\"now\",\"arguments\":\"null\"}}]}],\"tools\":[{}],\"chat_template_kwargs\":{\"a\":[1]}}"
            .to_owned(),
        format!("{{\"model\":\"m\",\"messages\":{}1{}}}", "[".repeat(500), "]".repeat(500)),
    ];
    let mut rng = SmallRng::seed_from_u64(7);
    for round in 0..300 {
        let body = damaged(bodies[round % bodies.len()].as_bytes(), &mut rng);
        let path = ["/v1/chat/completions", "/v1/completions", "/tokenize"][round % 3];
        let uri = format!("http://{}{path}", scheduler.bound.gateway);
        let request = http::Request::post(uri).body(http_body_util::Full::from(body.clone())).unwrap();
        let status = scheduler.send(request).await.status().as_u16();
        assert!(matches!(status, 200 | 400 | 404), "round {round}: {status} for {:?}", String::from_utf8_lossy(&body));
    }
    assert_eq!(scheduler.chat("still here").await.status, 200);
}

#[tokio::test]
async fn damaged_block_messages_cost_nobody_else_a_block() {
    let scheduler = Scheduler::start().await;
    let engine = Engine::start(Script::ok()).await;
    let good = Node::with(&scheduler, "good", vec![report("e", engine.address)]).await;
    let tokens: Vec<u32> = (0..400).collect();
    let mut listed = good.blocks().await;
    listed.snapshot("e", &keys(&tokens)).await;
    scheduler.engine_where("good", "e", |engine| engine["index_blocks"] == 100).await;
    let bad = Node::with(&scheduler, "bad", vec![report("e", engine.address)]).await;
    let message = v1::BlocksUpdate {
        engine: "e".into(),
        incarnation: 1,
        model: MODEL.into(),
        block_tokens: BLOCK_TOKENS as u32,
        snapshot_begin: true,
        snapshot_end: true,
        events: vec![stored(&keys(&tokens)), v1::BlockEvent { kind: Some(v1::block_event::Kind::Cleared(v1::Cleared {})) }],
        ..v1::BlocksUpdate::default()
    };
    let mut rng = SmallRng::seed_from_u64(11);
    let mut sent = 0;
    let mut blocks = bad.blocks().await;
    while sent < 300 {
        // What is no protobuf any more ends a stream in tonic; what still is one reaches the index.
        let Ok(update) = v1::BlocksUpdate::decode(&damaged(&message.encode_to_vec(), &mut rng)[..]) else { continue };
        sent += 1;
        blocks.send_raw(v1::BlocksUpdate { hello: Some(hello("bad")), ..update }).await;
    }
    blocks.sequence = 9000;
    blocks.snapshot("e", &keys(&tokens)).await;
    scheduler.engine_where("bad", "e", |engine| engine["index_blocks"] == 100).await;
    let untouched = scheduler.engine_where("good", "e", |_| true).await;
    assert_eq!((&untouched["index_blocks"], &untouched["index"]), (&100.into(), &"whole".into()));
}
