//! Collectors against trees of /proc written down by hand, through `/metrics` and `/status` as people and Prometheus see them.

use std::path::{Path, PathBuf};

use daemon::collect::{Host, collectors, round};
use domain::node::HostFacts;

use crate::agent::{Agent, config, shell};
use crate::engine::{Engine, attach};

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name)
}

/// An agent over a fixture that has sensed its host.
async fn agent(name: &str, dir: &Path) -> Agent {
    let mut config = config(dir);
    config.host_root = fixture(name);
    let agent = Agent::start(config).await;
    sensed(&agent).await;
    agent
}

async fn sensed(agent: &Agent) {
    let mut changes = agent.running.node.changes();
    while agent.running.node.snapshot().collected.is_empty() {
        // A host without any fact changes nothing; its first round comes within a second all the same.
        let _ = tokio::time::timeout(std::time::Duration::from_millis(50), changes.changed()).await;
    }
}

#[tokio::test]
async fn a_host_is_scraped_as_its_files_say() {
    let dir = tempfile::tempdir().unwrap();
    let agent = agent("plain", dir.path()).await;
    let metrics = agent.get("/metrics").await;
    let host: Vec<&str> = metrics.lines().filter(|line| line.starts_with("node_")).collect();
    let expected = std::fs::read_to_string(fixture("plain/expected.prom")).unwrap();
    assert_eq!(host, expected.lines().collect::<Vec<_>>());
    let own = ["trackside_node_cpu_seconds_total 4", "trackside_node_collector_up{collector=\"psi\"} 1"];
    for line in own {
        assert!(metrics.lines().any(|got| got == line), "{line} is not in\n{metrics}");
    }
    assert!(agent.get("/readyz").await.starts_with("HTTP/1.0 200"));
    assert!(agent.get("/healthz").await.starts_with("HTTP/1.0 200"));
    agent.stop().await;
}

#[test]
fn the_scheduler_gets_shares_and_bytes() {
    let mut collectors = collectors();
    let (first, _) = round(&mut collectors, &Host::new(fixture("plain")));
    let wanted = HostFacts {
        cpus: Some(2),
        cpu_busy: None,
        memory_total_bytes: Some(8_341_790_720),
        memory_available_bytes: Some(7_428_956_160),
        cpu_pressure: Some(0.015),
        memory_pressure: Some(0.0),
        io_pressure: Some(0.1234),
    };
    assert_eq!(first, wanted, "busy needs two rounds");
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir(dir.path().join("proc")).unwrap();
    // 30 ticks of user time and 70 of idling on CPU 0, nothing on CPU 1.
    let later = "cpu  0\ncpu0 1030 50 300 45070 20 0 10 4 0 0\ncpu1 2000 100 400 45000 25 0 20 8 0 0\n";
    std::fs::write(dir.path().join("proc/stat"), later).unwrap();
    let (second, _) = round(&mut collectors, &Host::new(dir.path()));
    assert_eq!(second.cpu_busy, Some(0.3));
}

#[tokio::test]
async fn absent_is_not_failed_and_neither_is_zero() {
    let dir = tempfile::tempdir().unwrap();
    let without = agent("no_psi", dir.path()).await;
    let metrics = without.get("/metrics").await;
    assert!(!metrics.contains("pressure"), "absent has no samples");
    assert!(!metrics.contains("collector_up{collector=\"psi\"}"));
    let status = without.get("/status").await;
    assert!(status.contains("\"collector\":\"psi\",\"state\":\"absent\""), "{status}");
    without.stop().await;

    let broken = agent("broken", dir.path()).await;
    let metrics = broken.get("/metrics").await;
    for collector in ["cpu", "memory", "psi"] {
        let line = format!("trackside_node_collector_up{{collector=\"{collector}\"}} 0");
        assert!(metrics.contains(&line), "{line} is not in\n{metrics}");
    }
    let status = broken.get("/status").await;
    assert!(status.contains("/proc/meminfo: MemTotal is no number"), "{status}");
    broken.stop().await;
}

#[tokio::test]
async fn a_hostile_model_name_leaves_the_scrape_valid() {
    let dir = tempfile::tempdir().unwrap();
    let name = format!("a\"b\\c\nd{}", "é".repeat(5000));
    let engine = Engine::start_named(&name).await;
    let mut config = config(dir.path());
    config.slots = vec![attach("e", &engine)];
    let agent = Agent::start(config).await;
    agent.until("e", |e| !e.model.is_empty()).await;
    let metrics = agent.get("/metrics").await;
    let info = metrics.lines().find(|line| line.starts_with("trackside_node_engine_info{")).expect("a line");
    assert!(info.contains(r#"model="a\"b\\c\nd"#) && info.ends_with("\"} 1") && info.len() < 1000, "{info}");
    let status = agent.get("/status").await;
    let (_, body) = status.split_once("\r\n\r\n").expect("head and body");
    let body: serde_json::Value = serde_json::from_str(body).expect("valid JSON");
    assert!(body["engines"][0]["model"].as_str().is_some_and(|model| model.len() <= 256 && model.starts_with("a\"b\\c\nd")));
    agent.stop().await;
}

#[tokio::test]
async fn an_operator_drains_and_a_wrong_name_says_the_right_ones() {
    let dir = tempfile::tempdir().unwrap();
    let mut config = crate::agent::drained(config(dir.path()));
    config.slots = vec![shell("e", "exec sleep 1000")];
    let agent = Agent::start(config).await;
    agent.until_state("e", domain::EngineState::Ready).await;
    assert!(agent.post("/engines/e/drain").await.starts_with("HTTP/1.0 202"));
    agent.until_state("e", domain::EngineState::Draining).await;
    assert!(agent.post("/engines/e/drain?on=false").await.starts_with("HTTP/1.0 202"));
    agent.until_state("e", domain::EngineState::Ready).await;
    assert!(agent.post("/engines/e/drain?on=maybe").await.starts_with("HTTP/1.0 400"));
    let wrong = agent.post("/engines/f/drain").await;
    assert!(wrong.starts_with("HTTP/1.0 404") && wrong.contains("there is no engine f on node n1; name one of: e"), "{wrong}");
    let probe = agent.get("/status").await;
    assert!(probe.contains("\"probe\":\"process_exit\""), "{probe}");
    agent.stop().await;
}
