//! A native engine as the agent sees one: its state stream, its block list, its events from there on.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::body::Body;
use axum::routing::get;
use bytes::Bytes;
use daemon::attach::rehash::Change;
use daemon::report::blocks::{BlockLog, Read, Reader};
use domain::block::{ExtraKeys, prompt_keys};
use domain::{EngineState, Incarnation};
use futures_util::stream;
use proto::state::{Block, BlocksHead, InFlight, ReplicaInFlight, State};
use tokio::sync::watch;
use tokio_util::task::AbortOnDropHandle;

use crate::agent::{Agent, DEADLINE, config};
use crate::engine::{Batch, Engine, attach};

/// What the engine says at this moment; the list names the batch it already contains.
struct Native {
    address: SocketAddr,
    state: watch::Sender<State>,
    listed: Arc<Mutex<(Option<u64>, Vec<Block>)>>,
    _serving: AbortOnDropHandle<()>,
}

async fn start(events: &Engine) -> Native {
    let state = watch::Sender::new(State {
        incarnation: "00000000000000aa".into(),
        state: "warming".into(),
        model: "m".into(),
        assets_digest: "11".repeat(32),
        context_length: 128,
        kv_block_tokens: 4,
        kv_blocks_total: 50,
        kv_events: Some(events.events.clone()),
        kv_replay: Some(events.replay.clone()),
        ..State::default()
    });
    let listed: Arc<Mutex<(Option<u64>, Vec<Block>)>> = Arc::default();
    let (states, lists) = (state.clone(), listed.clone());
    let follow = move || {
        let mut changes = states.subscribe();
        changes.mark_changed();
        let lines = stream::unfold(changes, |mut changes| async move {
            // A real engine repeats itself every second.
            let _ = tokio::time::timeout(std::time::Duration::from_secs(1), changes.changed()).await;
            let mut line = serde_json::to_vec(&*changes.borrow_and_update()).expect("plain data");
            line.push(b'\n');
            Some((Ok::<_, Infallible>(Bytes::from(line)), changes))
        });
        async move { Body::from_stream(lines) }
    };
    let list = move || {
        let (sequence, blocks) = lists.lock().unwrap().clone();
        let head = BlocksHead { incarnation: "00000000000000aa".into(), sequence, block_tokens: 4, blocks: blocks.len() as u64 };
        let lines = std::iter::once(serde_json::to_string(&head)).chain(blocks.iter().map(serde_json::to_string));
        let text: Vec<String> = lines.map(|line| line.expect("plain data") + "\n").collect();
        async move { text.concat() }
    };
    let app = Router::new()
        .route("/health", get(async || ""))
        .route("/v1/models", get(async || r#"{"data":[{"id":"m"}]}"#))
        .route("/trackside/v1/state", get(follow))
        .route("/trackside/v1/blocks", get(list));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let serving = AbortOnDropHandle::new(tokio::spawn(async move { axum::serve(listener, app).await.expect("serves") }));
    Native { address, state, listed, _serving: serving }
}

fn block(hash: u64, parent: Option<u64>, tokens: &[u32]) -> Block {
    Block { hash, parent, tokens: tokens.to_vec(), adapter: None, cache_salt: None, medium: None }
}

/// Waits until a log holds as many keys, and reads them.
async fn held(log: &BlockLog, keys: usize) -> Vec<u64> {
    let wait = async {
        while log.len() != keys {
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(DEADLINE, wait).await.unwrap_or_else(|_| panic!("{} keys are held, not {keys}", log.len()));
    let Read::Message(message) = log.read(&mut Reader::default(), 1000, 1000, &mut false) else { panic!("a snapshot") };
    assert!(message.snapshot_begin && message.snapshot_end);
    let keys = message.events.iter().flat_map(|change| match change {
        Change::Stored { keys, .. } => keys.iter().map(|key| key.0),
        other => panic!("a snapshot stores: {other:?}"),
    });
    let mut keys: Vec<u64> = keys.collect();
    keys.sort_unstable();
    keys
}

#[tokio::test]
async fn state_is_pushed_and_blocks_are_listed_and_followed() {
    let dir = tempfile::tempdir().unwrap();
    let mut events = Engine::start().await;
    let native = start(&events).await;
    let tokens: Vec<u32> = (0..16).collect();
    // Batches 0 and 1 are in the list; 2 is kept for replay; 3 comes live.
    events.store(Batch { hashes: &[1], parent: None, tokens: &tokens[..4] });
    events.store(Batch { hashes: &[2], parent: Some(1), tokens: &tokens[4..8] });
    events.store(Batch { hashes: &[3], parent: Some(2), tokens: &tokens[8..12] });
    *native.listed.lock().unwrap() = (Some(1), vec![block(1, None, &tokens[..4]), block(2, Some(1), &tokens[4..8])]);

    let mut config = config(dir.path());
    config.slots = vec![attach("e", &events)];
    (config.slots[0].host, config.slots[0].port) = (native.address.ip(), native.address.port());
    let agent = Agent::start(config).await;
    agent.until("e", |e| e.state == EngineState::Warming && e.incarnation == Incarnation(0xaa)).await;
    native.state.send_modify(|state| {
        state.state = "ready".into();
        state.running = 2;
        state.steps = 7;
        state.in_flight = vec![ReplicaInFlight {
            replica: "s/000000000000000b".into(),
            in_flight: InFlight { requests: 2, uncached_tokens: 30 },
        }];
    });
    let status = agent.until("e", |e| e.state == EngineState::Ready && e.steps == 7).await;
    assert_eq!((status.load.running, status.context_length, status.counts_in_flight), (2, 128, true));
    assert_eq!(status.load.by_replica[0].1.uncached_tokens, 30);
    assert_eq!(status.assets.map(|digest| digest.0), Some([0x11; 32]));

    let log = agent.running.blocks.get(&"e".into()).expect("a log").clone();
    // The list holds two; the third comes by replay once the subscription had time to settle.
    held(&log, 3).await;
    events.publish(Batch { hashes: &[4], parent: Some(3), tokens: &tokens[12..16] }).await;
    let mut wanted: Vec<u64> = prompt_keys("m", &ExtraKeys::default(), 4, &tokens).into_iter().map(|key| key.0).collect();
    wanted.sort_unstable();
    assert_eq!(held(&log, 4).await, wanted);

    // Another life: what the old one held is forgotten, whatever its publisher still replays.
    let lower = |hash, parent, tokens, medium: &str| Block { medium: Some(medium.into()), ..block(hash, parent, tokens) };
    let listed = vec![
        block(9, None, &tokens[4..8]),
        lower(9, None, &tokens[4..8], "CPU"),
        lower(10, Some(9), &tokens[8..12], "STORAGE"),
        lower(11, Some(10), &tokens[8..12], "a tier of tomorrow"),
    ];
    *native.listed.lock().unwrap() = (Some(3), listed);
    native.state.send_modify(|state| state.incarnation = "00000000000000bb".into());
    agent.until("e", |e| e.incarnation == Incarnation(0xbb)).await;
    held(&log, 2).await;

    native.state.send_modify(|state| state.state = "draining".into());
    agent.until_state("e", EngineState::Draining).await;
    agent.stop().await;
}

#[tokio::test]
async fn a_foreign_engine_s_adapters_are_followed_and_another_model_is_another_engine() {
    let dir = tempfile::tempdir().unwrap();
    let engine = Engine::start().await;
    let mut config = config(dir.path());
    config.slots = vec![attach("e", &engine)];
    let agent = Agent::start(config).await;
    let first = agent.until("e", |e| e.model == "m" && e.adapters.is_empty()).await;
    engine.load("m", &["a", "b"]);
    let loaded = agent.until("e", |e| e.adapters == ["a", "b"]).await;
    assert_eq!(loaded.incarnation, first.incarnation);
    engine.load("n", &[]);
    let other = agent.until("e", |e| e.model == "n").await;
    assert_ne!(other.incarnation, first.incarnation, "what was known of its blocks is void");
    agent.stop().await;
}

#[tokio::test]
async fn a_foreign_engine_that_does_not_replay_starts_with_an_empty_index_and_says_so() {
    let dir = tempfile::tempdir().unwrap();
    let mut events = Engine::start().await;
    let tokens: Vec<u32> = (0..8).collect();
    events.store(Batch { hashes: &[1], parent: None, tokens: &tokens[..4] });
    let mut config = config(dir.path());
    config.slots = vec![attach("e", &events)];
    let daemon::config::SlotKind::Attach { foreign } = &mut config.slots[0].kind else { panic!("attach") };
    foreign.kv_replay = None;
    let agent = Agent::start(config).await;
    let status = agent.until("e", |e| !e.blocks_note.is_empty()).await;
    assert_eq!(status.blocks_note, "blocks stored before the agent came are not known: its publisher does not replay");
    agent.stop().await;
}
