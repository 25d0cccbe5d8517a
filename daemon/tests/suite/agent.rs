//! An agent in this process, and how to wait for what it says.

use std::path::Path;
use std::time::Duration;

use daemon::config::{Config, Foreign, Health, OnStop, Slot, SlotKind};
use daemon::node::{EngineStatus, Node};
use daemon::run::machine::Policy;
use daemon::{Running, run};
use domain::{EngineName, EngineState};
use tokio_util::sync::CancellationToken;

/// Longest wait for anything. Reached only by a failure.
pub const DEADLINE: Duration = Duration::from_secs(60);

pub struct Agent {
    pub running: Running,
    shutdown: CancellationToken,
}

impl Agent {
    pub async fn start(config: Config) -> Self {
        let shutdown = CancellationToken::new();
        let running = run(config, shutdown.clone()).await.expect("the agent starts");
        Self { running, shutdown }
    }

    pub async fn stop(self) {
        self.shutdown.cancel();
        tokio::time::timeout(DEADLINE, self.running.ended()).await.expect("the agent ends");
    }

    /// Waits until an engine is as wanted.
    pub async fn until(&self, engine: &str, wanted: impl Fn(&EngineStatus) -> bool) -> EngineStatus {
        until(&self.running.node, engine, wanted).await
    }

    pub async fn until_state(&self, engine: &str, state: EngineState) -> EngineStatus {
        self.until(engine, |status| status.state == state).await
    }

    /// One GET of the admin port, head and body.
    pub async fn get(&self, path: &str) -> String {
        http(self.running.bound.admin, "GET", path).await
    }

    pub async fn post(&self, path: &str) -> String {
        http(self.running.bound.admin, "POST", path).await
    }
}

pub async fn until(node: &Node, engine: &str, wanted: impl Fn(&EngineStatus) -> bool) -> EngineStatus {
    let name = EngineName::new(engine);
    let mut changes = node.changes();
    let wait = async {
        loop {
            changes.borrow_and_update();
            let status = node.engine(&name).expect("a configured engine");
            if wanted(&status) {
                return status;
            }
            changes.changed().await.expect("the node lives");
        }
    };
    match tokio::time::timeout(DEADLINE, wait).await {
        Ok(status) => status,
        Err(_) => panic!("{engine} never came to be as wanted; it is {:?}", node.engine(&name)),
    }
}

/// HTTP/1.0 by hand, so that no client's habits stand between the test and the server.
pub async fn http(address: std::net::SocketAddr, method: &str, path: &str) -> String {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let mut stream = tokio::net::TcpStream::connect(address).await.expect("connects");
    stream.write_all(format!("{method} {path} HTTP/1.0\r\nhost: x\r\n\r\n").as_bytes()).await.expect("writes");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.expect("reads");
    answer
}

/// A configuration without slots that listens on free ports.
pub fn config(state_dir: &Path) -> Config {
    let mut config = Config::new(state_dir);
    config.node = "n1".into();
    config.listen.set_port(0);
    config.cgroups = false;
    config
}

/// A slot that runs a shell script and serves nothing.
pub fn shell(name: &str, script: &str) -> Slot {
    let command = ["sh", "-c", script].map(str::to_owned).to_vec();
    let foreign = Foreign { health: Health::Process, ..Foreign::default() };
    let quick = Duration::from_millis(50);
    Slot {
        name: EngineName::new(name),
        kind: SlotKind::Command { command, env: Default::default(), foreign },
        port: 1,
        policy: Policy { backoff_first: quick, backoff_max: quick, drain_within: Duration::ZERO, ..Policy::default() },
        ..Slot::native(0, "")
    }
}

pub fn drained(mut config: Config) -> Config {
    config.on_stop = OnStop::Drain;
    config
}
