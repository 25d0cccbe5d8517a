//! A scheduler and a node agent with one engine, processes of their own as in production.

use tempfile::TempDir;
use tests::http::{Http, until};
use tests::process::Process;

pub struct Fleet {
    pub scheduler: Process,
    pub node: Process,
    _state: TempDir,
}

impl Fleet {
    /// `slot`: further keys of the engine's slot, `args: [...]`.
    pub fn start(slot: &str) -> Self {
        let program = crate::trackside();
        let state = tempfile::tempdir().expect("a temporary folder");
        let mut scheduler = Process::start(&program, &["scheduler", "--any-port"]);
        let nodes = scheduler.address("/nodes");
        let config = state.path().join("node.yaml");
        let slot = format!("{{ kind: native, model: builtin, port: 0, kv_events_port: 0, kv_replay_port: 0{slot} }}");
        std::fs::write(&config, format!("schedulers: [\"{nodes}\"]\nslots: [{slot}]\n")).expect("a config file");
        let (config, folder) = (config.display().to_string(), state.path().display().to_string());
        let node =
            Process::start(&program, &["node", "--any-port", "--config", &config, "--state-dir", &folder, "--on-stop", "drain"]);
        Self { scheduler, node, _state: state }
    }

    /// Waits for the engine and gives its address.
    pub async fn engine(&mut self, http: &Http) -> String {
        let fleet = format!("http://{}/debug/fleet", self.scheduler.address("/admin"));
        until("a ready engine", || async {
            let fleet = http.get(&fleet).await.ok()?.json();
            let engine = fleet.pointer("/nodes/0/engines/0")?;
            let ready = engine["state"] == "ready" && engine["tokenizer"] == "ready";
            ready.then(|| engine["address"].as_str().map(str::to_owned)).flatten()
        })
        .await
    }
}
