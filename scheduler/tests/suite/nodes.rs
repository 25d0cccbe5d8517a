//! The node streams over real gRPC: what the fleet learns, believes and forgets.

use http::Method;
use proto::v1::{self, blocks_command, state_command, state_update};
use serde_json::Value;

use crate::support::*;

#[tokio::test]
async fn a_prompt_goes_where_its_blocks_are() {
    let scheduler = Scheduler::start().await;
    let (a, b) = (Engine::start(Script::ok()).await, Engine::start(Script::ok()).await);
    let assets = assets();
    let digest = assets.digest().0.to_vec();
    let engine = |name, engine: &Engine| v1::Engine { assets_digest: digest.clone(), ..report(name, engine.address) };
    let mut node = Node::with(&scheduler, "n", vec![engine("a", &a), engine("b", &b)]).await;
    // The tokenizer is asked for once, by its digest.
    assert_eq!(node.command().await, state_command::Kind::WantAssets(v1::WantAssets { digest: digest.clone() }));
    node.upload(&digest, &assets.to_bytes(), 10_000).await;
    scheduler.engine_where("n", "a", |engine| engine["tokenizer"] == "ready").await;

    let chats = golden_chats();
    let mut blocks = node.blocks().await;
    let (messages, ids) = chats.iter().max_by_key(|(_, ids)| ids.len()).unwrap();
    let held = keys(ids);
    blocks.snapshot("b", &held).await;
    scheduler.engine_where("n", "b", |engine| engine["index_blocks"] == held.len()).await;
    let body = serde_json::json!({"model": MODEL, "messages": messages}).to_string();
    for _ in 0..8 {
        let answer = scheduler.post("/v1/chat/completions", &body).await;
        let cached = held.len() * BLOCK_TOKENS;
        assert_eq!(answer.header("x-trackside-engine"), "n/b");
        assert_eq!(answer.header("x-trackside-prefix"), format!("{cached}/{cached}"));
        assert_eq!(answer.header("x-trackside-prompt-tokens"), ids.len().to_string());
    }
    // The same tokens as ids, and the explanation of it.
    let body = serde_json::json!({"model": MODEL, "prompt": ids}).to_string();
    let explained = scheduler.admin(Method::POST, "/debug/decide", &body).await.json();
    assert_eq!(explained["decision"], serde_json::json!({"kind": "route", "endpoints": ["n/b", "n/a"], "prefill": null}));
    assert_eq!(explained["candidates"][0]["scores"], serde_json::json!({"prefix": 1.0, "kv": 1.0, "queue": 1.0}));
    assert_eq!(explained["candidates"][0]["total"], 7.0);
    assert_eq!(explained["candidates"][1]["scores"]["prefix"], 0.0);
    assert_eq!(explained["weights"], serde_json::json!({"prefix": 3.0, "kv": 2.0, "queue": 2.0}));
    // Another salt, another chain.
    let salted = serde_json::json!({"model": MODEL, "prompt": ids, "cache_salt": "s"}).to_string();
    let explained = scheduler.admin(Method::POST, "/debug/decide", &salted).await.json();
    assert!(explained["candidates"].as_array().unwrap().iter().all(|candidate| candidate["cached_tokens"] == 0));
}

#[tokio::test]
async fn no_pick_follows_a_reported_death_and_its_blocks_are_forgotten() {
    let scheduler = Scheduler::start().await;
    let (a, b) = (Engine::start(Script::ok()).await, Engine::start(Script::ok()).await);
    let node = Node::with(&scheduler, "n", vec![report("a", a.address), report("b", b.address)]).await;
    let tokens: Vec<u32> = (0..40).collect();
    let mut blocks = node.blocks().await;
    blocks.snapshot("a", &keys(&tokens)).await;
    scheduler.engine_where("n", "a", |engine| engine["index_blocks"] == 10).await;
    let body = serde_json::json!({"model": MODEL, "prompt": tokens}).to_string();
    assert_eq!(scheduler.post("/v1/completions", &body).await.header("x-trackside-engine"), "n/a");

    node.changed(vec![v1::Engine { state: "crashed".into(), ..report("a", a.address) }], false).await;
    let dead = scheduler.engine_where("n", "a", |engine| engine["state"] == "crashed").await;
    assert_eq!(dead["index_blocks"], 0);
    // Blocks of the life that ended come late.
    blocks.delta("a", vec![stored(&keys(&tokens))]).await;
    for _ in 0..20 {
        assert_eq!(scheduler.post("/v1/completions", &body).await.header("x-trackside-engine"), "n/b");
    }
    let back = v1::Engine { incarnation: 2, restarts: 1, ..report("a", a.address) };
    node.changed(vec![back], false).await;
    let back = scheduler.engine_where("n", "a", |engine| engine["state"] == "ready").await;
    assert_eq!((&back["index_blocks"], &back["restarts"]), (&0.into(), &1.into()));
}

#[tokio::test]
async fn a_lost_stream_costs_nothing_and_only_a_failed_probe_removes_an_engine() {
    let scheduler = Scheduler::start().await;
    let (a, b) = (Engine::start(Script::ok()).await, Engine::start(Script::ok()).await);
    let engines = vec![report("a", a.address), v1::Engine { state: "draining".into(), ..report("b", b.address) }];
    let node = Node::with(&scheduler, "n", engines.clone()).await;
    drop(node);
    let lost = scheduler.engine_where("n", "a", |engine| engine["evidence"] == "unknown").await;
    assert_eq!(lost["state"], "ready");
    assert_eq!(scheduler.chat("hi").await.header("x-trackside-engine"), "n/a");
    scheduler.engine_where("n", "a", |engine| engine["probe"] == "answered").await;
    scheduler.engine_where("n", "b", |engine| engine["probe"] == "answered").await;
    assert_eq!(scheduler.chat("hi").await.header("x-trackside-engine"), "n/a", "a drain is somebody's will and stands");

    a.kill();
    scheduler.engine_where("n", "a", |engine| engine["probe"] == "failed").await;
    assert_eq!(scheduler.chat("hi").await.status, 503);

    // The agent is back, with another life of its own and the same engines.
    let a = Engine::start(Script::ok()).await;
    let _node = Node::with(&scheduler, "n", vec![v1::Engine { incarnation: 2, ..report("a", a.address) }]).await;
    let again = scheduler.engine_where("n", "a", |engine| engine["evidence"] == "fresh").await;
    assert_eq!(again["probe"], "unasked");
    assert_eq!(again["address"], a.address.to_string());
    assert_eq!(scheduler.chat("hi").await.header("x-trackside-engine"), "n/a");
    let gone = scheduler.fleet().await;
    assert_eq!(gone["nodes"][0]["engines"].as_array().unwrap().len(), 1, "what a full list does not name is gone");
}

/// A new agent finds engines running, and names them before it has looked at them: no life, no model, no address.
#[tokio::test]
async fn an_agent_that_was_started_again_takes_nothing_out_by_not_knowing_yet() {
    let scheduler = Scheduler::start().await;
    let engine = Engine::start(Script::ok()).await;
    let known = report("e", engine.address);
    let old = Node::with(&scheduler, "n", vec![known.clone()]).await;
    let mut blocks = old.blocks().await;
    blocks.snapshot("e", &keys(&[1; 40])).await;
    scheduler.engine_where("n", "e", |engine| engine["index_blocks"] == 10).await;
    drop((old, blocks));
    scheduler.engine_where("n", "e", |engine| engine["evidence"] == "unknown").await;

    let unseen = v1::Engine {
        incarnation: 0,
        model: String::new(),
        data_address: "127.0.0.1:0".into(),
        state: "starting".into(),
        ..known.clone()
    };
    let new = Node::connect(&scheduler, "n").await;
    new.changed(vec![unseen.clone(), v1::Engine { name: "other".into(), ..unseen }], true).await;
    scheduler.engine_where("n", "other", |engine| engine["state"] == "starting").await;
    let kept = scheduler.engine_where("n", "e", |_| true).await;
    assert_eq!((&kept["state"], &kept["index_blocks"]), (&"ready".into(), &10.into()));
    assert_eq!(scheduler.chat("hi").await.header("x-trackside-engine"), "n/e");
    new.changed(vec![known], false).await;
    let seen = scheduler.engine_where("n", "e", |engine| engine["evidence"] == "fresh").await;
    assert_eq!(seen["index_blocks"], 10);
    let models = scheduler.get("/v1/models").await.json();
    assert_eq!(models["data"].as_array().unwrap().len(), 1, "what has no model name yet is not listed");
}

#[tokio::test]
async fn a_life_that_was_called_ended_and_goes_on_is_listed_again() {
    let scheduler = Scheduler::start().await;
    let engine = Engine::start(Script::ok()).await;
    let alive = report("e", engine.address);
    let node = Node::with(&scheduler, "n", vec![alive.clone()]).await;
    let mut blocks = node.blocks().await;
    blocks.snapshot("e", &keys(&[1; 40])).await;
    scheduler.engine_where("n", "e", |engine| engine["index_blocks"] == 10).await;
    node.changed(vec![v1::Engine { state: "crashed".into(), ..alive.clone() }], false).await;
    scheduler.engine_where("n", "e", |engine| engine["state"] == "crashed" && engine["index_blocks"] == 0).await;
    node.changed(vec![alive], false).await;
    scheduler.engine_where("n", "e", |engine| engine["state"] == "ready").await;
    blocks.delta("e", vec![stored(&keys(&[2; 4]))]).await;
    assert_eq!(blocks.command().await, blocks_command::Kind::ResyncEngine("e".into()));
    blocks.snapshot("e", &keys(&[1; 40])).await;
    scheduler.engine_where("n", "e", |engine| engine["index_blocks"] == 10).await;
}

#[tokio::test]
async fn a_refused_connection_counts_as_a_failed_probe_until_the_address_answers() {
    let scheduler = Scheduler::start().await;
    let (a, b) = (Engine::start(Script::ok()).await, Engine::start(Script::ok()).await);
    let _node = Node::with(&scheduler, "n", vec![report("a", a.address), busy(report("b", b.address), 4)]).await;
    a.kill();
    let listens = || async { tokio::net::TcpStream::connect(a.address).await.is_err().then_some(()) };
    eventually("the engine is gone", listens).await;
    let _held = Refusing::at(&a.address.to_string());
    assert_eq!(scheduler.chat("hi").await.header("x-trackside-engine"), "n/b");
    let failed = scheduler.engine_where("n", "a", |engine| engine["probe"] == "failed").await;
    assert_eq!((&failed["state"], &failed["evidence"]), (&"ready".into(), &"fresh".into()));
    for _ in 0..10 {
        assert_eq!(scheduler.chat("hi").await.header("x-trackside-engine"), "n/b");
    }
    let retries = scheduler.metric("trackside_scheduler_retries_total{reason=\"connect\"}").await;
    assert_eq!(retries, 1.0, "only the first request had to learn it");
}

#[tokio::test]
async fn a_gap_resets_one_engine_and_asks_for_its_list() {
    let scheduler = Scheduler::start().await;
    let engine = Engine::start(Script::ok()).await;
    let node = Node::with(&scheduler, "n", vec![report("a", engine.address), report("b", engine.address)]).await;
    let tokens: Vec<u32> = (0..40).collect();
    let mut blocks = node.blocks().await;
    assert_eq!(blocks.credit().await, 4 << 20);
    blocks.snapshot("a", &keys(&tokens)).await;
    let returned = blocks.credit().await;
    assert!((80..200).contains(&returned), "the snapshot's bytes are given back: {returned}");
    blocks.sequence = 0;
    blocks.snapshot("b", &keys(&tokens)).await;
    blocks.sequence = 1;
    blocks.delta("a", vec![stored(&keys(&[9; 4]))]).await;
    scheduler.engine_where("n", "a", |engine| engine["index_blocks"] == 11).await;
    blocks.sequence = 5;
    blocks.delta("a", vec![stored(&keys(&[8; 4]))]).await;
    assert_eq!(blocks.command().await, blocks_command::Kind::ResyncEngine("a".into()));
    let a = scheduler.engine_where("n", "a", |engine| engine["index"] == "lost").await;
    assert_eq!(a["index_blocks"], 0);
    scheduler.engine_where("n", "b", |engine| engine["index_blocks"] == 10).await;
    blocks.snapshot("a", &keys(&tokens)).await;
    scheduler.engine_where("n", "a", |engine| engine["index"] == "whole" && engine["index_blocks"] == 10).await;
    assert_eq!(scheduler.metric("trackside_scheduler_block_log_gaps_total").await, 1.0);
    assert_eq!(scheduler.metric("trackside_scheduler_index_blocks{block_tokens=\"4\",model=\"m\"}").await, 20.0);
}

#[tokio::test]
async fn it_is_ready_when_it_has_learned_the_fleet_and_stays_so() {
    let scheduler = Scheduler::start().await;
    let ready = async || scheduler.admin(Method::GET, "/readyz", "").await;
    assert_eq!(ready().await.status, 503, "nobody is connected");
    let engine = Engine::start(Script::ok()).await;
    let node = Node::with(&scheduler, "n", vec![report("a", engine.address)]).await;
    let learning = ready().await;
    assert_eq!(learning.status, 503, "its blocks are not known");
    assert_eq!((&learning.json()["connected_nodes"], &learning.json()["learned_nodes"]), (&1.into(), &0.into()));
    let mut blocks = node.blocks().await;
    blocks.snapshot("a", &keys(&[1; 8])).await;
    eventually("it is ready", || async { (ready().await.status == 200).then_some(()) }).await;
    assert_eq!(ready().await.json()["blocks"], 2);
    drop(node);
    scheduler.engine_where("n", "a", |engine| engine["evidence"] == "unknown").await;
    assert_eq!(ready().await.status, 200, "what is lost later does not make it unready: it fails open");
}

#[tokio::test]
async fn a_drain_reaches_the_agent() {
    let scheduler = Scheduler::start().await;
    let engine = Engine::start(Script::ok()).await;
    let mut node = Node::with(&scheduler, "n", vec![report("a", engine.address)]).await;
    for on in [true, false] {
        let answer = scheduler.admin(Method::POST, &format!("/engines/n/a/drain?on={on}"), "").await;
        assert_eq!(answer.status, 202);
        assert_eq!(node.command().await, state_command::Kind::Drain(v1::Drain { engine: "a".into(), on }));
    }
    assert_eq!(scheduler.admin(Method::POST, "/engines/n/zz/drain?on=true", "").await.status, 404);
    drop(node);
    scheduler.engine_where("n", "a", |engine| engine["evidence"] == "unknown").await;
    assert_eq!(scheduler.admin(Method::POST, "/engines/n/a/drain?on=true", "").await.status, 503);
}

#[tokio::test]
async fn a_damaged_tokenizer_is_refused_and_another_node_is_asked() {
    let scheduler = Scheduler::start().await;
    let engine = Engine::start(Script::ok()).await;
    let assets = assets();
    let digest = assets.digest().0.to_vec();
    let engines = vec![v1::Engine { assets_digest: digest.clone(), ..report("e", engine.address) }];
    let want = state_command::Kind::WantAssets(v1::WantAssets { digest: digest.clone() });
    let mut first = Node::with(&scheduler, "first", engines.clone()).await;
    assert_eq!(first.command().await, want);
    let mut damaged = assets.to_bytes();
    damaged[500] ^= 1;
    first.upload(&digest, &damaged, 20_000).await;
    let told = |engine: &Value| engine["tokenizer"].as_str().is_some_and(|why| why.contains("digest"));
    scheduler.engine_where("first", "e", told).await;
    assert_eq!(scheduler.chat("hi").await.status, 200, "without a tokenizer it goes by load alone");
    assert_eq!(scheduler.metric("trackside_scheduler_untokenised_total").await, 1.0);
    assert_eq!(scheduler.metric("trackside_scheduler_assets_refused_total").await, 1.0);

    let mut second = Node::with(&scheduler, "second", engines).await;
    assert_eq!(second.command().await, want);
    second.upload(&digest, &assets.to_bytes(), 20_000).await;
    scheduler.engine_where("first", "e", |engine| engine["tokenizer"] == "ready").await;
}

#[tokio::test]
async fn in_flight_requests_count_once_whoever_opened_them() {
    let scheduler = Scheduler::start().await;
    let engine = Engine::start(Script::Hang).await;
    let node = Node::with(&scheduler, "n", vec![report("e", engine.address)]).await;
    let fleet = scheduler.fleet().await;
    let (name, incarnation) = fleet["replica"].as_str().unwrap().split_once('/').unwrap();
    let requests = |requests| Some(v1::InFlight { requests, uncached_tokens: 0 });
    let replica =
        |name: &str, incarnation: u64, count| v1::ReplicaInFlight { name: name.into(), incarnation, in_flight: requests(count) };
    // Ours is reported late, and known here at once; an earlier life of ours counts as another's.
    let by_replica =
        vec![replica(name, u64::from_str_radix(incarnation, 16).unwrap(), 5), replica(name, 1, 2), replica("other", 7, 10)];
    let load = v1::Load { by_replica, others: requests(100), waiting: 1, running: 116, ..v1::Load::default() };
    node.changed(vec![v1::Engine { load: Some(load.clone()), ..report("e", engine.address) }], false).await;
    scheduler.engine_where("n", "e", |engine| engine["requests_in_flight"] == 112).await;
    {
        let asked = scheduler.chat("hi");
        tokio::select! {
            _ = asked => panic!("a hanging engine answers nobody"),
            _ = scheduler.engine_where("n", "e", |engine| engine["requests_in_flight"] == 113) => {}
        }
    }
    scheduler.engine_where("n", "e", |engine| engine["requests_in_flight"] == 112 && engine["open_here"] == 0).await;
    // A record that changes within one life keeps what is open there.
    {
        let asked = scheduler.chat("hi");
        let renewed = async {
            scheduler.engine_where("n", "e", |engine| engine["open_here"] == 1).await;
            let tuned = v1::Engine { adapters: vec!["x".into()], load: Some(load.clone()), ..report("e", engine.address) };
            node.changed(vec![tuned], false).await;
            let tuned = scheduler.engine_where("n", "e", |engine| engine["adapters"][0] == "x").await;
            assert_eq!((&tuned["open_here"], &tuned["requests_in_flight"]), (&1.into(), &113.into()));
        };
        tokio::select! {
            _ = asked => panic!("a hanging engine answers nobody"),
            () = renewed => {}
        }
    }
    scheduler.engine_where("n", "e", |engine| engine["open_here"] == 0).await;
    // An engine that does not count by replica: its own metrics, or our streams if they are more.
    let foreign = v1::Engine { load: Some(load), counts_in_flight: false, ..report("e", engine.address) };
    node.changed(vec![foreign], false).await;
    scheduler.engine_where("n", "e", |engine| engine["requests_in_flight"] == 117).await;
}

#[tokio::test]
async fn a_later_stream_of_a_node_takes_the_earlier_ones_place() {
    let scheduler = Scheduler::start().await;
    let engine = Engine::start(Script::ok()).await;
    let old = Node::with(&scheduler, "n", vec![report("a", engine.address)]).await;
    let new = Node::with(&scheduler, "n", vec![report("b", engine.address)]).await;
    let only_b =
        |fleet: &Value| fleet["nodes"][0]["engines"].as_array().is_some_and(|all| all.len() == 1 && all[0]["engine"] == "b");
    eventually("only the later list counts", || async { only_b(&scheduler.fleet().await).then_some(()) }).await;
    old.changed(vec![report("a", engine.address)], true).await;
    drop(old);
    new.send(state_update::Kind::Heartbeat(v1::Heartbeat {})).await;
    new.changed(vec![busy(report("b", engine.address), 3)], false).await;
    scheduler.engine_where("n", "b", |engine| engine["requests_in_flight"] == 3 && engine["evidence"] == "fresh").await;
    assert!(only_b(&scheduler.fleet().await));
    // A good-bye is told apart from a loss.
    new.leave().await;
    let left = scheduler.fleet().await["nodes"][0].clone();
    assert_eq!((&left["leaving"], &left["connected"]), (&true.into(), &false.into()));
    assert_eq!(scheduler.chat("hi").await.header("x-trackside-engine"), "n/b");
}

#[tokio::test]
async fn one_bad_engine_in_a_report_costs_the_others_nothing() {
    let scheduler = Scheduler::start().await;
    let engine = Engine::start(Script::ok()).await;
    let bad = v1::Engine { data_address: "nowhere".into(), ..report("bad", engine.address) };
    let node = Node::connect(&scheduler, "n").await;
    node.changed(vec![bad, report("good", engine.address)], true).await;
    scheduler.engine_where("n", "good", |engine| engine["state"] == "ready").await;
    assert_eq!(scheduler.metric("trackside_scheduler_messages_refused_total").await, 1.0);
    let many = (0..65).map(|i| report(&format!("e{i}"), engine.address)).collect();
    node.changed(many, true).await;
    let refused = || async { (scheduler.metric("trackside_scheduler_messages_refused_total").await == 2.0).then_some(()) };
    eventually("65 engines are refused", refused).await;
    scheduler.engine_where("n", "good", |engine| engine["state"] == "ready").await;
}
