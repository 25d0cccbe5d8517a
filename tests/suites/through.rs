//! Through everything: `trackside up` with three engines, real answers, a real kill.
#![forbid(unsafe_code)]

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tests::http::{Http, until};
use tests::ledger::{Fate, Shot, fire, summary};
use tests::process::Process;

const PROGRAM: &str = env!("CARGO_BIN_EXE_trackside-under-test");

const SUBJECTS: [&str; 10] =
    ["trains", "caches", "engines", "tokens", "queues", "tracks", "signals", "blocks", "schedulers", "node agents"];

/// A message long enough to fill some KV blocks, the same for every `group`.
fn preamble(group: usize) -> String {
    let subject = SUBJECTS[group % SUBJECTS.len()];
    format!("Group {group}. You are a patient guide who explains {subject} to people who have never seen {subject}. ").repeat(3)
}

/// `count` requests: every other one shares its preamble with others of its group, the rest share nothing; half are streamed.
fn shots(count: usize) -> Vec<Shot> {
    let shot = |i: usize| {
        let user = match i % 2 {
            0 => format!("{}Question {}: what are they?", preamble(i / 2 % 25), i % 7),
            _ => format!("{i} {} and {}?", SUBJECTS[i % 10], SUBJECTS[i / 10 % 10]),
        };
        Shot { user, stream: (i / 2).is_multiple_of(2), tokens_max: 8 }
    };
    (0..count).map(shot).collect()
}

fn up(engines: &str) -> Process {
    Process::start(PROGRAM, &["up", "--json", "--any-port", "--debug-headers", "--engines", engines])
}

async fn engines(http: &Http, admin: &str) -> Vec<Value> {
    let fleet = http.get(&format!("http://{admin}/debug/fleet")).await.expect("the fleet").json();
    let nodes = fleet["nodes"].as_array().cloned().unwrap_or_default();
    nodes.iter().filter_map(|node| node["engines"].as_array()).flatten().cloned().collect()
}

/// Waits until this many engines take work.
async fn ready(http: &Http, admin: &str, count: usize) -> Vec<Value> {
    until("ready engines", || async {
        let engines = engines(http, admin).await;
        (engines.iter().filter(|engine| engine["state"] == "ready").count() == count).then_some(engines)
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_chats_are_answered_as_the_engine_alone_answers_and_go_where_they_are_cached() {
    let shots = shots(1000);
    let mut alone = Process::start(PROGRAM, &["engine", "--model", "builtin", "--port", "0", "--no-kv-events"]);
    let address = alone.address("/address");
    let health = format!("http://{address}/health");
    let http = Http::default();
    until("a healthy engine", || async { http.get(&health).await.ok().filter(|answer| answer.status.is_success()) }).await;
    let url = format!("http://{address}/v1/chat/completions");
    let mut expected: HashMap<String, String> = HashMap::new();
    for fate in fire(&url, &shots, 1, Arc::default()).await.into_iter().zip(&shots) {
        let (Fate::Answered(text, _), shot) = fate else { panic!("the engine alone fails: {fate:?}") };
        let earlier = expected.insert(shot.user.clone(), text.clone());
        assert!(earlier.is_none_or(|earlier| earlier == text), "the engine contradicts itself on {:?}", shot.user);
    }
    alone.end();

    let mut up = up("3");
    let (gateway, admin) = (up.address("/gateway"), up.address("/admin"));
    ready(&Http::default(), &admin, 3).await;
    let fates = fire(&format!("http://{gateway}/v1/chat/completions"), &shots, 6, Arc::default()).await;
    assert_eq!(summary(&fates), [("answered", 1000)].into(), "{:?}", fates.iter().find(|f| !matches!(f, Fate::Answered(..))));

    let (mut chosen, mut best) = (0, 0);
    let mut by_engine: HashMap<String, usize> = HashMap::new();
    for (fate, shot) in fates.iter().zip(&shots) {
        let Fate::Answered(text, answer) = fate else { unreachable!("all were answered") };
        assert_eq!(text, &expected[&shot.user], "{:?}", shot.user);
        let header = |name: &str| answer.headers.get(name).and_then(|value| value.to_str().ok()).expect(name).to_owned();
        *by_engine.entry(header("x-trackside-engine")).or_default() += 1;
        let prefix = header("x-trackside-prefix");
        let (at_chosen, at_best) = prefix.split_once('/').expect("chosen/best");
        chosen += at_chosen.parse::<usize>().expect("tokens");
        best += at_best.parse::<usize>().expect("tokens");
    }
    assert!(best > 10_000, "prefixes are shared: {best} tokens were cached somewhere");
    let ratio = chosen as f64 / best as f64;
    assert!(ratio >= 0.9, "cached tokens at the chosen engine ÷ at the best: {ratio}");
    assert_eq!(by_engine.len(), 3, "all engines work: {by_engine:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_engine_killed_under_load_costs_no_request_that_had_not_begun_and_comes_back() {
    let mut up = up("3");
    let (gateway, admin) = (up.address("/gateway"), up.address("/admin"));
    let http = Http::default();
    let before = ready(&http, &admin, 3).await;
    let (pid, name) = (before[0]["pid"].as_i64().expect("a pid"), before[0]["engine"].clone());
    let incarnation = before[0]["incarnation"].clone();

    let shots = shots(400);
    let done = Arc::new(AtomicUsize::new(0));
    let url = format!("http://{gateway}/v1/chat/completions");
    let load = tokio::spawn({
        let (url, shots, done) = (url.clone(), shots.clone(), done.clone());
        async move { fire(&url, &shots, 6, done).await }
    });
    until("a load in full swing", || async { (done.load(Ordering::Relaxed) >= 100).then_some(()) }).await;
    let pid = Pid::from_raw(i32::try_from(pid).expect("a pid")).expect("a pid");
    kill_process(pid, Signal::KILL).expect("the engine is ours");

    // From the moment the scheduler knows of the death, no pick may name the dead life.
    until("the death's ingestion", || async {
        let now = engines(&http, &admin).await;
        let engine = now.iter().find(|engine| engine["engine"] == name)?;
        (engine["state"] != "ready" || engine["incarnation"] != incarnation).then_some(())
    })
    .await;
    for shot in &shots[..20] {
        let answer = http.post(&url, &shot.body()).await.expect("an answer");
        assert!(answer.status.is_success(), "{}", answer.text());
        let life = answer.headers.get("x-trackside-incarnation").and_then(|value| value.to_str().ok()).expect("a life");
        assert_ne!(Some(life), incarnation.as_str(), "a pick followed the ingested death");
    }

    let fates = load.await.expect("the load ends");
    let counts = summary(&fates);
    assert_eq!(counts.get("refused"), None, "{:?}", fates.iter().find(|fate| matches!(fate, Fate::Refused(_))));
    // What had begun on the dead engine ends with an error event; at most what was open there.
    assert!(counts.get("broken").copied().unwrap_or(0) <= 6, "{counts:?}");
    let after = ready(&http, &admin, 3).await;
    let back = after.iter().find(|engine| engine["engine"] == name).expect("it is back");
    assert_ne!(back["incarnation"], incarnation);
    assert_eq!(back["restarts"], 1);
}
