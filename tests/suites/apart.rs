//! Scheduler and node agent as processes of their own under load: each is stopped, killed and started again, and nothing fails.
#![forbid(unsafe_code)]

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rustix::process::Signal;
use serde_json::Value;
use tests::http::{Http, until};
use tests::ledger::{Fate, Shot, fire, summary};
use tests::process::Process;

const PROGRAM: &str = env!("CARGO_BIN_EXE_trackside-under-test");

fn agent(folder: &Path, on_stop: &str) -> Process {
    let (config, state) = (folder.join("node.yaml").display().to_string(), folder.join("state").display().to_string());
    Process::start(PROGRAM, &["node", "--any-port", "--config", &config, "--state-dir", &state, "--on-stop", on_stop])
}

async fn fleet(http: &Http, admin: &str) -> Value {
    http.get(&format!("http://{admin}/debug/fleet")).await.map(|answer| answer.json()).unwrap_or(Value::Null)
}

/// The engines' lives, once `count` are ready.
async fn lives(http: &Http, admin: &str, count: usize) -> Vec<(String, String)> {
    until("ready engines", || async {
        let fleet = fleet(http, admin).await;
        let engines = fleet["nodes"].as_array()?.iter().filter_map(|node| node["engines"].as_array()).flatten();
        let text = |value: &Value| value.as_str().map(str::to_owned);
        let ready = engines.filter(|engine| engine["state"] == "ready");
        let lives: Vec<_> = ready.filter_map(|engine| Some((text(&engine["engine"])?, text(&engine["incarnation"])?))).collect();
        (lives.len() == count).then_some(lives)
    })
    .await
}

/// A load that goes on until it is told to end.
struct Load {
    over: Arc<AtomicBool>,
    task: tokio::task::JoinHandle<Vec<Fate>>,
}

impl Load {
    fn begin(gateway: &str) -> Self {
        let over = Arc::new(AtomicBool::new(false));
        let (url, stop) = (format!("http://{gateway}/v1/chat/completions"), over.clone());
        let task = tokio::spawn(async move {
            let mut fates = Vec::new();
            let mut round = 0;
            while !stop.load(Ordering::Relaxed) {
                let shot = |i| Shot { user: format!("{round} {i} hello"), stream: i % 2 == 0, tokens_max: 4 };
                let shots: Vec<Shot> = (0..8).map(shot).collect();
                fates.extend(fire(&url, &shots, 4, Arc::default()).await);
                round += 1;
            }
            fates
        });
        Self { over, task }
    }

    /// Ends it; every request must have been answered.
    async fn end(self, during: &str) {
        self.over.store(true, Ordering::Relaxed);
        let fates = self.task.await.expect("the load ends");
        let counts = summary(&fates);
        let failed = fates.iter().find(|fate| !matches!(fate, Fate::Answered(..)));
        assert!(failed.is_none() && !fates.is_empty(), "{during}: {counts:?} {failed:?}");
    }
}

/// Ends engines that outlived their agent, by letting a last agent adopt and drain them.
struct Cleanup<'a>(&'a Path);

impl Drop for Cleanup<'_> {
    fn drop(&mut self) {
        let mut last = agent(self.0, "drain");
        last.signal(Signal::TERM);
        last.wait();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn agent_and_scheduler_come_and_go_and_no_request_notices() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let http = Http::default();
    let ports = folder.path().join("scheduler.yaml");
    let mut scheduler = Process::start(PROGRAM, &["scheduler", "--any-port"]);
    let (gateway, admin, nodes) = (scheduler.address("/gateway"), scheduler.address("/admin"), scheduler.address("/nodes"));
    let slot = "{ kind: native, model: builtin, port: 0, kv_events_port: 0, kv_replay_port: 0 }";
    let slots = format!("slots: [{slot}, {slot}]");
    std::fs::write(folder.path().join("node.yaml"), format!("schedulers: [\"{nodes}\"]\n{slots}\n")).expect("a config");
    let mut node = agent(folder.path(), "leave");
    let cleanup = Cleanup(folder.path());
    let first = lives(&http, &admin, 2).await;

    // Stopped for ten seconds: silent, not gone.
    let load = Load::begin(&gateway);
    node.signal(Signal::STOP);
    tokio::time::sleep(Duration::from_secs(10)).await;
    node.signal(Signal::CONT);
    load.end("the agent was stopped").await;
    assert_eq!(lives(&http, &admin, 2).await, first, "an engine was restarted");

    // Killed; then another agent adopts what runs.
    let load = Load::begin(&gateway);
    node.end();
    let mut node = agent(folder.path(), "leave");
    assert_eq!(lives(&http, &admin, 2).await, first, "an engine was restarted");
    load.end("the agent was killed and started again").await;

    // Another scheduler on the same addresses learns fleet and index again and says so.
    scheduler.end();
    let text = format!("listen: {{ gateway: \"{gateway}\", nodes: \"{nodes}\", admin: \"{admin}\" }}\n");
    std::fs::write(&ports, text).expect("a config");
    let _scheduler = Process::start(PROGRAM, &["scheduler", "--config", &ports.display().to_string()]);
    let learned = until("a scheduler that has learned", || async {
        let answer = http.get(&format!("http://{admin}/readyz")).await.ok()?;
        answer.status.is_success().then_some(())
    });
    learned.await;
    assert_eq!(lives(&http, &admin, 2).await, first);
    let load = Load::begin(&gateway);
    until("known blocks", || async { fleet(&http, &admin).await["learned"]["blocks"].as_u64().filter(|blocks| *blocks > 0) })
        .await;
    load.end("the scheduler was started again").await;
    node.end();
    drop(cleanup);
}
