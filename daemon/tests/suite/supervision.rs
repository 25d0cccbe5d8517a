//! Real processes: started, restarted, ended with all they started, left running and taken over.

use std::fs;
use std::path::Path;
use std::time::Duration;

use domain::EngineState;
use rustix::process::{Pid, Signal, kill_process};

use crate::agent::{Agent, DEADLINE, config, drained, shell};

fn lives(pid: u32) -> bool {
    // A zombie has ended; nobody has asked how.
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let state = stat.rsplit_once(") ").and_then(|(_, rest)| rest.chars().next());
    state.is_some_and(|state| state != 'Z')
}

fn kill(pid: u32) {
    let pid = Pid::from_raw(pid as i32).expect("a pid");
    kill_process(pid, Signal::KILL).expect("a running process");
}

/// Waits for a file that a script writes, whole.
async fn written(path: &Path) -> String {
    let wait = async {
        loop {
            if let Ok(text) = fs::read_to_string(path)
                && text.ends_with('\n')
            {
                return text.trim().to_owned();
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(DEADLINE, wait).await.unwrap_or_else(|_| panic!("{} was never written", path.display()))
}

#[tokio::test]
async fn an_engine_is_started_and_started_again_when_it_dies() {
    let dir = tempfile::tempdir().unwrap();
    let mut config = drained(config(dir.path()));
    config.slots = vec![shell("e", "echo begun; exec sleep 1000")];
    let agent = Agent::start(config).await;
    let first = agent.until_state("e", EngineState::Ready).await;
    kill(first.pid);
    let second = agent.until("e", |e| e.state == EngineState::Ready && e.pid != first.pid).await;
    assert_eq!(second.restarts, 1);
    assert_ne!(second.incarnation, first.incarnation, "another life");
    assert_eq!(second.exits.get(&daemon::run::exit::ExitClass::Signal), Some(&1));
    agent.stop().await;
    assert!(!lives(second.pid), "on_stop: drain ends it");
    assert_eq!(fs::read_dir(dir.path().join("engines")).unwrap().count(), 0, "and its record is gone");
}

#[tokio::test]
async fn an_engine_outlives_its_agent_and_the_next_one_takes_it_over() {
    let dir = tempfile::tempdir().unwrap();
    let mut config = config(dir.path());
    config.slots = vec![shell("e", "exec sleep 1000")];
    let first = Agent::start(config.clone()).await;
    let before = first.until_state("e", EngineState::Ready).await;
    assert!(first.post("/engines/e/drain").await.starts_with("HTTP/1.0 202"));
    first.until_state("e", EngineState::Draining).await;
    first.stop().await;
    assert!(lives(before.pid));

    let second = Agent::start(drained(config)).await;
    let after = second.until("e", |e| e.pid != 0).await;
    assert_eq!((after.pid, after.restarts), (before.pid, 0), "taken over, not doubled");
    second.until_state("e", EngineState::Draining).await;
    second.stop().await;
    assert!(!lives(before.pid));
}

#[tokio::test]
async fn an_agent_that_comes_after_the_end_of_its_engine_starts_a_new_one() {
    let dir = tempfile::tempdir().unwrap();
    let mut config = config(dir.path());
    config.slots = vec![shell("e", "exec sleep 1000")];
    let first = Agent::start(config.clone()).await;
    let before = first.until_state("e", EngineState::Ready).await;
    first.stop().await;
    kill(before.pid);
    let second = Agent::start(drained(config)).await;
    let after = second.until_state("e", EngineState::Ready).await;
    assert_ne!(after.pid, before.pid);
    second.stop().await;
}

#[tokio::test]
async fn a_second_agent_over_the_same_engines_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let first = Agent::start(config(dir.path())).await;
    let refused = daemon::run(config(dir.path()), Default::default()).await.err().expect("refused").to_string();
    assert!(refused.starts_with("another node agent uses the state folder"), "{refused}");
    first.stop().await;
    Agent::start(config(dir.path())).await.stop().await;
}

/// How an adopted engine ended, that is another process's child, only the kernel's probe can tell.
#[tokio::test]
async fn an_adopted_engine_s_end_is_told_by_the_probe_or_said_to_be_unknown() {
    let dir = tempfile::tempdir().unwrap();
    // The shell ends at once, and its child becomes an orphan.
    let starter = std::process::Command::new("sh").args(["-c", "sleep 1000 >/dev/null 2>&1 & echo $!"]).output().unwrap();
    let pid: u32 = String::from_utf8(starter.stdout).unwrap().trim().parse().unwrap();
    let stat = daemon::run::process::stat("/proc".as_ref(), pid).unwrap();
    let boot_id = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap();
    let record = serde_json::json!({ "life": "feed", "boot_id": boot_id.trim(), "pid": pid, "start_ticks": stat.start_ticks, "cgroup": null });
    fs::create_dir_all(dir.path().join("engines")).unwrap();
    fs::write(dir.path().join("engines/e.json"), record.to_string()).unwrap();
    let mut config = drained(config(dir.path()));
    config.slots = vec![shell("e", "exec sleep 1000")];
    let agent = Agent::start(config).await;
    let adopted = agent.until_state("e", EngineState::Ready).await;
    assert_eq!(adopted.pid, pid);
    kill(pid);
    let after = agent.until("e", |e| e.state == EngineState::Ready && e.pid != pid).await;
    let probe = agent.running.node.snapshot().probes.remove(0);
    let cause = if probe.absent.is_none() { "signal" } else { "unknown" };
    let causes: Vec<&str> = after.exits.keys().map(|class| class.as_str()).collect();
    assert_eq!(causes, [cause], "probe: {probe:?}");
    agent.stop().await;
}

/// The engine of case E2: it takes a lock, leaves a child with the lock in a session of its own, and waits. A second one beside an
/// old child would not get the lock and says so.
fn locker(dir: &Path) -> String {
    let (lock, doubled, child) = (dir.join("gpu"), dir.join("doubled"), dir.join("child"));
    format!(
        "exec 9>{lock}; flock -n 9 || {{ echo doubled > {doubled}; exit 1; }}; \
         setsid sh -c 'echo $$ > {child}.new; mv {child}.new {child}; exec sleep 1000' & exec sleep 1000",
        lock = lock.display(),
        doubled = doubled.display(),
        child = child.display(),
    )
}

#[track_caller]
fn not_doubled(dir: &Path) {
    assert!(!dir.join("doubled").exists(), "a new engine met a process of the old one");
}

async fn children_end_with_their_engine(cgroups: bool) {
    let dir = tempfile::tempdir().unwrap();
    let mut config = config(dir.path());
    config.cgroups = cgroups;
    config.slots = vec![shell("e", &locker(dir.path()))];
    let agent = Agent::start(config.clone()).await;
    let first = agent.until_state("e", EngineState::Ready).await;
    let first_child: u32 = written(&dir.path().join("child")).await.parse().unwrap();

    // Crash: the main process is killed, its child in another session is not.
    fs::remove_file(dir.path().join("child")).unwrap();
    kill(first.pid);
    let second = agent.until("e", |e| e.state == EngineState::Ready && e.pid != first.pid).await;
    let second_child: u32 = written(&dir.path().join("child")).await.parse().unwrap();
    assert!(!lives(first_child));
    not_doubled(dir.path());

    // The engine dies while no agent watches; its child lives on until the next agent clears it away.
    agent.stop().await;
    assert!(lives(second.pid) && lives(second_child));
    fs::remove_file(dir.path().join("child")).unwrap();
    kill(second.pid);
    let agent = Agent::start(drained(config)).await;
    let third = agent.until_state("e", EngineState::Ready).await;
    let third_child: u32 = written(&dir.path().join("child")).await.parse().unwrap();
    assert!(!lives(second_child));
    not_doubled(dir.path());

    // Stop: the child goes with it.
    agent.stop().await;
    assert!(!lives(third.pid) && !lives(third_child));
}

#[tokio::test]
async fn a_child_that_left_the_session_ends_with_its_engine() {
    children_end_with_their_engine(false).await;
}

#[tokio::test]
async fn so_it_does_in_a_cgroup_where_there_may_be_one() {
    children_end_with_their_engine(true).await;
}

#[tokio::test]
async fn a_record_without_a_pid_does_not_let_a_second_engine_start_beside_the_first() {
    let dir = tempfile::tempdir().unwrap();
    let mut config = config(dir.path());
    config.slots = vec![shell("e", &locker(dir.path()))];
    let agent = Agent::start(config.clone()).await;
    let first = agent.until_state("e", EngineState::Ready).await;
    written(&dir.path().join("child")).await;
    agent.stop().await;
    // As if the agent had died between starting the process and writing its pid down.
    let path = dir.path().join("engines/e.json");
    let mut record: serde_json::Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    record["pid"] = serde_json::Value::Null;
    record["start_ticks"] = serde_json::Value::Null;
    fs::write(&path, record.to_string()).unwrap();
    let agent = Agent::start(drained(config)).await;
    let second = agent.until_state("e", EngineState::Ready).await;
    assert_ne!(second.pid, first.pid);
    assert!(!lives(first.pid));
    not_doubled(dir.path());
    agent.stop().await;
}

#[tokio::test]
async fn a_record_that_cannot_be_read_starts_nothing_until_a_person_has_looked() {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir_all(dir.path().join("engines")).unwrap();
    fs::write(dir.path().join("engines/e.json"), "{\"life\":").unwrap();
    let mut config = drained(config(dir.path()));
    config.slots = vec![shell("e", "exec sleep 1000")];
    let agent = Agent::start(config).await;
    let status = agent.until_state("e", EngineState::Quarantined).await;
    assert!(status.reason.contains("engines/e.json") && status.reason.contains("then remove the file"), "{}", status.reason);
    assert!(agent.post("/engines/e/release").await.starts_with("HTTP/1.0 202"));
    agent.until_state("e", EngineState::Ready).await;
    agent.stop().await;
}

#[tokio::test]
async fn an_engine_that_keeps_dying_is_given_up_with_its_last_words() {
    let dir = tempfile::tempdir().unwrap();
    let mut config = config(dir.path());
    config.slots = vec![shell("e", "echo loading; echo 'CUDA out of memory' >&2; exit 3"), shell("f", "exec sleep 1000")];
    config.slots[1].kind = daemon::config::SlotKind::Command {
        command: vec!["/no/such/engine".into()],
        env: Default::default(),
        foreign: Default::default(),
    };
    let agent = Agent::start(config).await;
    let given_up = agent.until_state("e", EngineState::Quarantined).await;
    assert_eq!(given_up.restarts, 5);
    assert_eq!(
        given_up.reason,
        "crashed 6 times within 600 s, last: exited with code 3; last output: loading | CUDA out of memory"
    );
    let missing = agent.until_state("f", EngineState::Quarantined).await;
    assert!(missing.reason.contains("cannot start \"/no/such/engine\": No such file or directory"), "{}", missing.reason);

    assert!(agent.post("/engines/e/release").await.starts_with("HTTP/1.0 202"));
    agent.until("e", |e| e.restarts > 5).await;
    agent.stop().await;
}

#[tokio::test]
async fn a_process_that_ignores_sigterm_is_killed_at_its_deadline() {
    let dir = tempfile::tempdir().unwrap();
    let mut config = drained(config(dir.path()));
    let deaf = "trap '' TERM; while :; do sleep 1; done";
    config.slots = vec![shell("e", deaf)];
    config.slots[0].policy.term_grace = Duration::from_millis(100);
    let agent = Agent::start(config).await;
    let status = agent.until_state("e", EngineState::Ready).await;
    agent.stop().await;
    assert!(!lives(status.pid));
}

#[tokio::test]
async fn a_full_disk_is_counted_and_the_engine_runs() {
    let dir = tempfile::tempdir().unwrap();
    let mut config = config(dir.path());
    config.slots = vec![shell("e", "exec sleep 1000")];
    // Nobody can write into a folder that is a file; as root, permissions would not stop the agent.
    let agent = Agent::start(config.clone()).await;
    let first = agent.until_state("e", EngineState::Ready).await;
    fs::remove_dir_all(dir.path().join("engines")).unwrap();
    fs::write(dir.path().join("engines"), "").unwrap();
    kill(first.pid);
    let second = agent.until("e", |e| e.state == EngineState::Ready && e.pid != first.pid).await;
    let failures = "trackside_node_record_failures_total ";
    let metrics = agent.get("/metrics").await;
    let line = metrics.lines().find(|line| line.starts_with(failures)).expect("a counter");
    assert_ne!(line.trim_start_matches(failures), "0");
    agent.stop().await;
    kill(second.pid);
}

#[tokio::test]
async fn an_engine_that_was_given_up_stays_so_over_an_agents_restart_until_it_is_released() {
    let dir = tempfile::tempdir().unwrap();
    let mut config = crate::agent::drained(config(dir.path()));
    let mark = dir.path().join("starts");
    let script = format!("echo x >> {}; exit 3", mark.display());
    config.slots = vec![shell("e", &script)];
    config.slots[0].policy.crashes_max = 1;
    let starts = || std::fs::read_to_string(&mark).map_or(0, |text| text.lines().count());
    let agent = Agent::start(config.clone()).await;
    agent.until_state("e", EngineState::Quarantined).await;
    assert_eq!(starts(), 2);
    agent.stop().await;

    let agent = Agent::start(config).await;
    let engine = agent.until_state("e", EngineState::Quarantined).await;
    assert!(engine.reason.contains("given up before the agent was restarted") && engine.reason.contains("code 3"), "{engine:?}");
    assert_eq!(starts(), 2, "nothing was started");
    assert!(agent.post("/engines/e/release").await.starts_with("HTTP/1.0 202"));
    agent.until("e", |_| starts() > 2).await;
    agent.stop().await;
}
