//! The developer endpoints with vLLM's paths, queries and answers, and the tiers of the KV cache through a server's whole life.

use engine_serve::{Config, KvDiskConfig, Policy};
use http::StatusCode;
use serde_json::{Value, json};

use crate::server::{Server, cpu, fake, instant, path, scripted};

fn developers(config: Config) -> Config {
    Config { dev_mode: true, ..config }
}

async fn ask(server: &Server, path: &str, expected: Value) {
    let answer = server.post(path, &json!({})).await;
    assert_eq!((answer.status, answer.json()), (StatusCode::OK, expected), "{path}");
}

#[tokio::test]
async fn without_the_flag_there_is_nothing_there() {
    let server = Server::start(instant(scripted())).await;
    for path in ["/pause", "/resume", "/sleep", "/wake_up", "/reset_prefix_cache", "/abort_requests"] {
        assert_eq!(server.post(path, &json!({})).await.status, StatusCode::NOT_FOUND, "{path}");
    }
    server.stop().await.expect("a clean end");
}

#[tokio::test]
async fn a_paused_engine_refuses_and_serves_again() {
    let server = Server::start(developers(fake(scripted(), 2.0))).await;
    let body = json!({"prompt": "a", "max_tokens": 2000, "ignore_eos": true, "stream": true});
    let mut open = server.open(path("text"), &[], &body).await;
    open.event().await.expect("it runs");
    ask(&server, "/pause", json!({"status": "paused"})).await;
    let mut last = Value::Null;
    while let Some(event) = open.event().await.filter(|event| event != "[DONE]") {
        last = serde_json::from_str(&event).expect("JSON");
    }
    assert_eq!(last["choices"][0]["finish_reason"], "abort");
    assert_eq!(server.get("/is_paused").await.json(), json!({"is_paused": true}));
    assert_eq!(server.get("/is_sleeping").await.json(), json!({"is_sleeping": true}));
    assert_eq!(server.get("/health").await.status, StatusCode::OK);
    let state = server.state_where(|state| state["state"] == "draining").await;
    assert_eq!(state["running"], 0);
    let refused = server.post(path("text"), &json!({"prompt": "a"})).await;
    assert_eq!((refused.status, refused.header("retry-after")), (StatusCode::SERVICE_UNAVAILABLE, Some("1")));
    ask(&server, "/resume", json!({"status": "resumed"})).await;
    assert_eq!(server.get("/is_paused").await.json(), json!({"is_paused": false}));
    server.state_where(|state| state["state"] == "ready").await;
    assert_eq!(server.post(path("text"), &json!({"prompt": "a", "max_tokens": 1})).await.status, StatusCode::OK);
    server.stop().await.expect("a clean end");
}

#[tokio::test]
async fn a_request_waits_for_a_sleeping_engine() {
    let server = Server::start(developers(cpu(scripted()))).await;
    let body = json!({"prompt": "one two three four five six", "max_tokens": 8, "temperature": 0, "ignore_eos": true});
    let before = server.post(path("text"), &body).await.json();
    ask(&server, "/sleep?level=1", json!({"status": "sleeping", "level": 1})).await;
    let waits = server.post(path("text"), &body);
    let wake = async {
        server.state_where(|state| state["waiting"] == 1).await;
        ask(&server, "/wake_up?tags=weights", json!({"status": "sleeping", "tags": ["weights"]})).await;
        ask(&server, "/wake_up?tags=kv_cache", json!({"status": "awake", "tags": ["kv_cache"]})).await;
    };
    let (after, ()) = tokio::join!(waits, wake);
    assert_eq!(after.json()["choices"], before["choices"], "what it computes is the same");
    assert_eq!(server.get("/is_sleeping").await.json(), json!({"is_sleeping": false}));
    ask(&server, "/wake_up", json!({"status": "awake", "tags": null})).await;
    server.stop().await.expect("a clean end");
}

#[tokio::test]
async fn resets_and_aborts_answer_as_vllm_does() {
    let server = Server::start(developers(fake(scripted(), 2.0))).await;
    let body = json!({"prompt": "a".repeat(40), "max_tokens": 2000, "ignore_eos": true, "stream": true});
    let mut open = server.open(path("text"), &[], &body).await;
    open.event().await.expect("it runs");
    ask(&server, "/reset_prefix_cache", json!({"success": false})).await;
    ask(&server, "/reset_prefix_cache?reset_running_requests=true", json!({"success": true})).await;
    ask(&server, "/abort_requests", json!({"status": "aborted", "aborted": 1})).await;
    while open.event().await.is_some() {}
    ask(&server, "/reset_prefix_cache?reset_external=1", json!({"success": true})).await;
    for (path, param) in [("/pause?mode=never", "mode"), ("/sleep?level=3", "level"), ("/wake_up?tags=all", "tags")] {
        let refused = server.post(path, &json!({})).await;
        assert_eq!((refused.status, &refused.json()["error"]["param"]), (StatusCode::BAD_REQUEST, &json!(param)), "{path}");
    }
    server.stop().await.expect("a clean end");
}

#[tokio::test]
async fn a_priority_is_served_where_they_count_and_else_refused() {
    let body = json!({"prompt": "a", "max_tokens": 1, "priority": 3});
    for (policy, status) in [(Policy::Fcfs, StatusCode::BAD_REQUEST), (Policy::Priority, StatusCode::OK)] {
        let mut config = instant(scripted());
        config.limits.policy = policy;
        let server = Server::start(config).await;
        let answer = server.post(path("text"), &body).await;
        assert_eq!(answer.status, status);
        assert!(status == StatusCode::OK || answer.json()["error"]["param"] == "priority", "{}", answer.text());
        server.stop().await.expect("a clean end");
    }
}

/// Twelve blocks on the device, two in host memory, the rest on a disk.
fn tiny(folder: &std::path::Path) -> Config {
    let mut config = cpu(scripted());
    config.limits.kv_blocks = Some(12);
    let model = &config.assets.config;
    let block_bytes = model.layers * 2 * model.kv_heads * model.head_dim * config.limits.block_tokens * size_of::<f32>();
    config.limits.kv_offloading_bytes = 2 * block_bytes;
    config.kv_disk = Some(KvDiskConfig { path: folder.to_owned(), bytes: 8 << 20 });
    config
}

#[tokio::test]
async fn blocks_come_back_from_the_disk_in_this_life_and_the_next() {
    let folder = tempfile::tempdir().expect("a folder");
    let prompt = |letter: &str| letter.repeat(130);
    let body = |letter| json!({"prompt": prompt(letter), "max_tokens": 8, "temperature": 0, "ignore_eos": true});
    let server = Server::start(tiny(folder.path())).await;
    let first = server.post(path("text"), &body("a")).await.json();
    for letter in ["b", "c", "d", "a"] {
        let answer = server.post(path("text"), &body(letter)).await;
        assert_eq!(answer.status, StatusCode::OK, "{}", answer.text());
        if letter == "a" {
            assert_eq!(answer.json()["choices"], first["choices"]);
        }
    }
    let from_disk = |metrics: &str| {
        let line = metrics
            .lines()
            .find(|line| line.starts_with("vllm:prompt_tokens_cached_by_source_total") && line.contains("\"disk\""));
        line.and_then(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).expect("the metric is there")
    };
    let seen = from_disk(&server.get("/metrics").await.text());
    assert!(seen >= 64.0, "{seen} tokens came from the disk");
    let listed = server.get("/trackside/v1/blocks").await.text();
    assert!(listed.contains("\"medium\":\"STORAGE\"") && listed.contains("\"medium\":\"CPU\""), "{listed}");
    server.stop().await.expect("a clean end");

    // Another life may find the file still held by the thread of the one before.
    let server = loop {
        let mut server = Server::begin(tiny(folder.path())).await;
        let ready = server.progress.wait_for(|progress| *progress == Some(engine_serve::Progress::Ready)).await.is_ok();
        if ready {
            break server;
        }
    };
    let answer = server.post(path("text"), &body("b")).await.json();
    assert_eq!(answer["usage"]["completion_tokens"], 8);
    assert!(from_disk(&server.get("/metrics").await.text()) >= 64.0);
    server.stop().await.expect("a clean end");
}
