//! A server under test: a fixture model, port 0, ended by its shutdown future.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use domain::Fault;
use engine_assets::ModelAssets;
use engine_serve::{BackendChoice, Bound, Config, FakeSpeed, Progress};
use http::Method;
use serde_json::Value;
use tokio::sync::{oneshot, watch};
use tokio::task::JoinHandle;

use crate::client::{self, Answer, Headers, Open, PATIENCE};

/// The name that every server under test serves its model by.
pub const NAME: &str = "m";

pub fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures/models").join(name)
}

/// Bytes are tokens; see tests/parity/scripted.py.
pub fn scripted() -> Arc<ModelAssets> {
    Arc::new(engine_assets::open(&fixture("scripted/model.gguf")).expect("a good model"))
}

/// The CPU backend, one thread, small.
pub fn cpu(assets: Arc<ModelAssets>) -> Config {
    let mut config = Config::new(assets, NAME);
    config.backend = BackendChoice::Cpu { threads: Some(1), dtype: engine_serve::CpuDtype::Float32 };
    config.limits.kv_blocks = Some(512);
    config
}

/// The fake backend, as fast as the machine.
pub fn instant(assets: Arc<ModelAssets>) -> Config {
    fake(assets, 0.0)
}

/// The fake backend with steps of this length.
pub fn fake(assets: Arc<ModelAssets>, step_ms: f64) -> Config {
    let speed = FakeSpeed { prefill_tok_s: f64::INFINITY, step_ms };
    Config { backend: BackendChoice::Fake(speed), ..Config::new(assets, NAME) }
}

pub struct Server {
    pub bound: Bound,
    pub progress: watch::Receiver<Option<Progress>>,
    stop: Option<oneshot::Sender<()>>,
    running: JoinHandle<Result<(), Fault>>,
}

impl Server {
    /// Starts a server and waits until it serves.
    pub async fn start(config: Config) -> Self {
        let mut server = Self::begin(config).await;
        server.reach(|progress| progress == Progress::Ready).await;
        server
    }

    /// Starts a server and does not wait.
    pub async fn begin(config: Config) -> Self {
        let server = engine_serve::bind(config).await.expect("free ports");
        let bound = server.bound().clone();
        let (stop, stopped) = oneshot::channel::<()>();
        let (tell, progress) = watch::channel(None);
        let shutdown = async move { drop(stopped.await) };
        let running = tokio::spawn(server.run(shutdown, move |progress| {
            tell.send_replace(Some(progress));
        }));
        Self { bound, progress, stop: Some(stop), running }
    }

    pub async fn reach(&mut self, wanted: impl Fn(Progress) -> bool) {
        let reached = self.progress.wait_for(|progress| progress.is_some_and(&wanted));
        tokio::time::timeout(PATIENCE, reached).await.expect("in time").expect("the server runs");
    }

    pub fn address(&self) -> SocketAddr {
        self.bound.http
    }

    pub fn tell_to_stop(&mut self) {
        drop(self.stop.take());
    }

    /// Ends the server and gives its result.
    pub async fn stop(mut self) -> Result<(), Fault> {
        self.tell_to_stop();
        tokio::time::timeout(PATIENCE, &mut self.running).await.expect("it ends in time").expect("no panic")
    }

    /// The result of a server that ends by itself.
    pub async fn ended(mut self) -> Result<(), Fault> {
        tokio::time::timeout(PATIENCE, &mut self.running).await.expect("it ends in time").expect("no panic")
    }

    pub async fn get(&self, path: &str) -> Answer {
        client::ask(self.address(), Method::GET, path, &[], Bytes::new()).await
    }

    pub async fn post(&self, path: &str, body: &Value) -> Answer {
        self.post_with(path, &[], body).await
    }

    pub async fn post_with(&self, path: &str, headers: Headers<'_>, body: &Value) -> Answer {
        client::ask(self.address(), Method::POST, path, headers, body.to_string()).await
    }

    pub async fn open(&self, path: &str, headers: Headers<'_>, body: &Value) -> Open {
        client::open(self.address(), Method::POST, path, headers, body.to_string()).await
    }

    /// Scrapes until a line is there, and gives that scrape. The engine reports a step after it has sent the step's tokens.
    pub async fn metrics_with(&self, line: &str) -> String {
        let reached = async {
            loop {
                let metrics = self.get("/metrics").await.text();
                if metrics.lines().any(|seen| seen == line) {
                    return metrics;
                }
            }
        };
        tokio::time::timeout(PATIENCE, reached).await.unwrap_or_else(|_| panic!("no {line}"))
    }

    /// Waits until the state stream says what is wanted, and gives that line.
    pub async fn state_where(&self, wanted: impl Fn(&Value) -> bool) -> Value {
        let mut lines = client::open(self.address(), Method::GET, "/trackside/v1/state", &[], Bytes::new()).await;
        let reached = async {
            loop {
                let line = lines.part("\n").await.expect("the stream goes on");
                let state: Value = serde_json::from_str(&line).expect("a line is JSON");
                if wanted(&state) {
                    return state;
                }
            }
        };
        tokio::time::timeout(PATIENCE, reached).await.expect("the state is reached in time")
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.running.abort();
    }
}

pub fn path(name: &str) -> &'static str {
    match name {
        "chat" => "/v1/chat/completions",
        _ => "/v1/completions",
    }
}
