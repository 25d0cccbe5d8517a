//! Real processes: started, restarted, ended with all they started, left running and taken over.

use std::fs;
use std::path::Path;
use std::time::Duration;

use domain::EngineState;
use rustix::process::{Pid, Signal, kill_process, test_kill_process};

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
