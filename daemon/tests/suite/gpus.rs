//! GPUs through a fake `libnvidia-ml.so` that the test scripts while the agent runs, and a kernel log that the test writes.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;

use daemon::config::Config;
use daemon::node::Snapshot;
use domain::EngineState;
use domain::gpu::{GpuReport, Verdict};
use nvml_fake::Fake;
use serde_json::json;

use crate::agent::{Agent, DEADLINE, config, shell};

/// A machine with its kernel log.
struct Machine {
    fake: Fake,
    log: PathBuf,
    sequence: u64,
}

impl Machine {
    fn new(dir: &Path, name: &str) -> Self {
        let root = dir.join("root");
        std::fs::create_dir_all(root.join("dev")).unwrap();
        let log = root.join("dev/kmsg");
        std::fs::write(&log, "").unwrap();
        Self { fake: Fake::install(dir, name).unwrap(), log, sequence: 0 }
    }

    fn config(&self, dir: &Path) -> Config {
        let mut config = config(&dir.join("state"));
        config.host_root = dir.join("root");
        config.nvml.library = Some(self.fake.library().to_owned());
        config
    }

    /// Writes a line as the kernel does, stamped now.
    fn kernel(&mut self, message: &str) {
        let uptime = std::fs::read_to_string("/proc/uptime").unwrap();
        let micros = (uptime.split(' ').next().unwrap().parse::<f64>().unwrap() * 1e6) as u64;
        let mut log = std::fs::File::options().append(true).open(&self.log).unwrap();
        writeln!(log, "4,{},{micros},-;{message}", self.sequence).unwrap();
        self.sequence += 1;
    }

    fn patch_gpu(&mut self, index: u32, change: serde_json::Value) {
        self.fake.patch(json!({ "gpus": { index.to_string(): change } })).unwrap();
    }
}

async fn until(agent: &Agent, what: &str, wanted: impl Fn(&Snapshot) -> bool) -> Snapshot {
    let mut changes = agent.running.node.changes();
    let wait = async {
        loop {
            let snapshot = agent.running.node.snapshot();
            if wanted(&snapshot) {
                return snapshot;
            }
            // The age of facts changes without news.
            let _ = tokio::time::timeout(Duration::from_millis(100), changes.changed()).await;
        }
    };
    match tokio::time::timeout(DEADLINE, wait).await {
        Ok(snapshot) => snapshot,
        Err(_) => panic!("{what} never came; GPUs are {:?}", agent.running.node.snapshot().gpus),
    }
}

fn gpu(snapshot: &Snapshot, index: u32) -> &GpuReport {
    snapshot.gpus.iter().find(|gpu| gpu.index == index).expect("a GPU")
}

async fn found(agent: &Agent, count: usize) -> Snapshot {
    until(agent, "every GPU", |snapshot| {
        snapshot.gpus.len() == count && snapshot.gpus.iter().all(|gpu| gpu.facts.power_w.is_some())
    })
    .await
}

#[tokio::test]
async fn eight_gpus_are_told_as_the_library_says() {
    let dir = tempfile::tempdir().unwrap();
    let mut machine = Machine::new(dir.path(), "h200_sxm_8");
    // Bytes that are no UTF-8, a quote, a backslash and a newline in a name.
    machine.patch_gpu(7, json!({ "Name": [0xff, 0xfe, 34, 92, 10, 65] }));
    let agent = Agent::start(machine.config(dir.path())).await;
    let snapshot = found(&agent, 8).await;
    let third = gpu(&snapshot, 3);
    assert_eq!((third.pci_bus_id.as_str(), third.model.as_str()), ("00000000:5D:00.0", "NVIDIA H200"));
    assert_eq!((third.verdict, third.facts.busy), (Verdict::Ok, Some(0.87)));
    // The performance monitor needs two samples.
    until(&agent, "the performance monitor", |snapshot| gpu(snapshot, 3).facts.dram_active == Some(0.615)).await;
    let metrics = agent.get("/metrics").await;
    let uuid = &third.uuid;
    let own = format!("{{gpu=\"3\",uuid=\"{uuid}\"}}");
    let dcgm = format!(
        "{{UUID=\"{uuid}\",device=\"nvidia3\",gpu=\"3\",hostname=\"n1\",modelName=\"NVIDIA H200\",pci_bus_id=\"00000000:5D:00.0\"}}"
    );
    let sample = |name: &str, labels: &str| {
        let line = metrics.lines().find(|line| line.starts_with(name) && same_labels(line, name, labels));
        line.and_then(|line| line.rsplit(' ').next()).map(str::to_owned)
    };
    let expected = [
        ("trackside_gpu_power_watts", &own, "412.3"),
        ("trackside_gpu_memory_used_bytes", &own, "120259084288"),
        ("trackside_gpu_sm_active_ratio", &own, "0.8325"),
        ("trackside_gpu_remapped_rows_total", &format!("{{cause=\"correctable\",gpu=\"3\",uuid=\"{uuid}\"}}"), "0"),
        ("trackside_gpu_fabric_state", &own, "3"),
        // The six that NVIDIA's own dashboard reads, in DCGM's units.
        ("DCGM_FI_DEV_GPU_TEMP", &dcgm, "52"),
        ("DCGM_FI_DEV_POWER_USAGE", &dcgm, "412.3"),
        ("DCGM_FI_DEV_SM_CLOCK", &dcgm, "1980"),
        ("DCGM_FI_DEV_GPU_UTIL", &dcgm, "87"),
        ("DCGM_FI_DEV_FB_USED", &dcgm, "114688"),
        ("DCGM_FI_PROF_PIPE_TENSOR_ACTIVE", &dcgm, "0.3875"),
    ];
    for (name, labels, value) in expected {
        assert_eq!(sample(name, labels).as_deref(), Some(value), "{name}{labels}");
    }
    assert!(metrics.contains(r#"model="��\"\\\nA""#), "a hostile name is escaped");
    assert!(!metrics.contains("trackside_gpu_retired_pages_total"), "what a GPU lacks has no sample");
    agent.stop().await;
}

/// Whether a line has these labels, in any order.
fn same_labels(line: &str, name: &str, labels: &str) -> bool {
    let sorted = |text: &str| {
        let mut parts: Vec<String> = text.trim_matches(['{', '}']).split(',').map(str::to_owned).collect();
        parts.sort();
        parts
    };
    let Some((found, _)) = line[name.len()..].rsplit_once(' ') else { return false };
    sorted(found) == sorted(labels)
}

#[tokio::test]
async fn an_a100_in_instances_tells_them_and_lacks_what_it_lacks() {
    let dir = tempfile::tempdir().unwrap();
    let machine = Machine::new(dir.path(), "a100_mig");
    let agent = Agent::start(machine.config(dir.path())).await;
    found(&agent, 1).await;
    let metrics = agent.get("/metrics").await;
    for profile in ["3g.40gb", "2g.20gb"] {
        assert!(metrics.contains(&format!("profile=\"{profile}\"")), "{profile}");
    }
    assert!(!metrics.contains("trackside_gpu_sm_active_ratio"), "no performance monitor before Hopper");
    assert!(!metrics.contains("trackside_gpu_busy_ratio"), "not valid in instances");
    agent.stop().await;
}

#[tokio::test]
async fn without_a_driver_the_agent_works_and_says_so() {
    let dir = tempfile::tempdir().unwrap();
    let mut machine = Machine::new(dir.path(), "h200_sxm_8");
    machine.fake.patch(json!({ "calls": { "nvmlInit_v2": { "error": 9 } } })).unwrap();
    let agent = Agent::start(machine.config(dir.path())).await;
    let mut status = String::new();
    while !status.contains(r#""gpu_stack":{"state":"absent","reason":"NVIDIA driver is not loaded"}"#) {
        status = agent.get("/status").await;
        tokio::task::yield_now().await;
    }
    assert!(agent.get("/metrics").await.contains("trackside_gpu_stack{state=\"absent\"} 1"));
    agent.stop().await;
}

#[tokio::test]
async fn an_xid_quarantines_its_gpu_alone_until_the_driver_takes_its_demand_back() {
    let dir = tempfile::tempdir().unwrap();
    let mut machine = Machine::new(dir.path(), "h200_sxm_8");
    let mut config = machine.config(dir.path());
    config.slots = (0..2)
        .map(|i| daemon::config::Slot { gpus: vec![i.to_string()], ..shell(&format!("e{i}"), "exec sleep 1000") })
        .collect();
    let mut config = crate::agent::drained(config);
    config.slots.iter_mut().for_each(|slot| slot.policy.term_grace = Duration::ZERO);
    let agent = Agent::start(config).await;
    found(&agent, 8).await;
    agent.until_state("e0", EngineState::Ready).await;
    machine.kernel("NVRM: Xid (PCI:0000:18:00): 95, pid=4711, name=python3, Uncontained: LTC TAG (0x2,0x0)");
    let sick = agent.until("e0", |engine| engine.health.verdict == Verdict::Quarantined).await;
    assert_eq!(sick.health.reason, "GPU 0: XID 95 (uncontained memory error): drain the GPU, then nvidia-smi --gpu-reset");
    assert_eq!(sick.state, EngineState::Ready, "a verdict moves work; it ends nothing");
    let snapshot = agent.running.node.snapshot();
    assert!(snapshot.gpus.iter().all(|gpu| (gpu.verdict == Verdict::Ok) == (gpu.index != 0)), "{:?}", snapshot.gpus);
    assert!(snapshot.revision.urgent > 0, "a scheduler hears of it at once");
    machine.kernel("NVRM: Xid (PCI:0000:18:00): 154, GPU recovery action changed from 0x0 (None) to 0x1 (GPU Reset Required)");
    until(&agent, "the recovery action", |snapshot| {
        gpu(snapshot, 0).reasons.iter().any(|reason| reason.starts_with("recovery action: reset"))
    })
    .await;
    machine.kernel("NVRM: Xid (PCI:0000:18:00): 154, GPU recovery action changed from 0x1 (GPU Reset Required) to 0x0 (None)");
    agent.until("e0", |engine| engine.health.verdict == Verdict::Ok).await;
    let metrics = agent.get("/metrics").await;
    for line in [
        r#"trackside_gpu_xids_total{gpu="0",pci="0000:18:00",xid="95"} 1"#,
        r#"trackside_gpu_xids_total{gpu="0",pci="0000:18:00",xid="154"} 2"#,
        r#"trackside_gpu_recoveries_total{rule="xid_repair"} 1"#,
    ] {
        assert!(metrics.lines().any(|got| got == line), "{line} is not in\n{metrics}");
    }
    agent.stop().await;
}

#[tokio::test]
async fn a_quarantine_outlives_the_agent_and_nothing_is_started_on_it() {
    let dir = tempfile::tempdir().unwrap();
    let mut machine = Machine::new(dir.path(), "h200_sxm_8");
    let mut config = crate::agent::drained(machine.config(dir.path()));
    config.slots = vec![daemon::config::Slot { gpus: vec!["2".into()], ..shell("e", "exec sleep 1000") }];
    config.slots[0].policy.term_grace = Duration::ZERO;
    let agent = Agent::start(config.clone()).await;
    found(&agent, 8).await;
    machine.kernel("NVRM: Xid (PCI:0000:3a:00): 79, pid='<unknown>', name=<unknown>, GPU has fallen off the bus.");
    let engine = agent.until("e", |engine| engine.health.verdict == Verdict::Quarantined && engine.pid != 0).await;
    // It dies of it, and is not started again.
    rustix::process::kill_process(rustix::process::Pid::from_raw(engine.pid as i32).unwrap(), rustix::process::Signal::KILL)
        .unwrap();
    let engine = agent.until_state("e", EngineState::Quarantined).await;
    assert!(engine.reason.contains("XID 79") && engine.reason.contains("SIGKILL") && engine.restarts == 0, "{engine:?}");
    agent.stop().await;

    let agent = Agent::start(config.clone()).await;
    let engine = agent.until_state("e", EngineState::Quarantined).await;
    assert!(engine.reason.contains("XID 79") && engine.pid == 0, "{engine:?}");
    let snapshot = found(&agent, 8).await;
    assert_eq!(gpu(&snapshot, 2).verdict, Verdict::Quarantined);
    assert!(!agent.get("/metrics").await.contains("trackside_gpu_xids_total{"), "the old line is not counted again");
    // An operator has repaired it.
    assert!(agent.post("/gpus/2/release").await.starts_with("HTTP/1.0 202"));
    agent.until_state("e", EngineState::Ready).await;
    assert!(agent.post("/gpus/99/release").await.starts_with("HTTP/1.0 404"));
    agent.stop().await;
}

#[tokio::test]
async fn a_gpu_that_is_gone_when_the_agent_comes_back_stays_quarantined() {
    let dir = tempfile::tempdir().unwrap();
    let mut machine = Machine::new(dir.path(), "h200_sxm_8");
    let mut config = crate::agent::drained(machine.config(dir.path()));
    config.slots = vec![daemon::config::Slot { gpus: vec!["2".into()], ..shell("e", "exec sleep 1000") }];
    config.slots[0].policy.term_grace = Duration::ZERO;
    let agent = Agent::start(config.clone()).await;
    found(&agent, 8).await;
    machine.kernel("NVRM: Xid (PCI:0000:3a:00): 79, pid='<unknown>', name=<unknown>, GPU has fallen off the bus.");
    agent.until("e", |engine| engine.health.verdict == Verdict::Quarantined && engine.pid != 0).await;
    agent.stop().await;

    machine.patch_gpu(2, json!({ "lost": true }));
    let agent = Agent::start(config).await;
    // The others have been read, and what was written down of it stands.
    let read = |snapshot: &Snapshot| snapshot.gpus.iter().filter(|gpu| gpu.facts.power_w.is_some()).count() == 7;
    let snapshot = until(&agent, "the other seven", read).await;
    assert_eq!(gpu(&snapshot, 2).verdict, Verdict::Quarantined);
    let engine = agent.until_state("e", EngineState::Quarantined).await;
    assert!(engine.reason.contains("XID 79") && engine.pid == 0, "{engine:?}");
    assert!(agent.post("/gpus/2/release").await.starts_with("HTTP/1.0 202"));
    agent.until_state("e", EngineState::Ready).await;
    agent.stop().await;
}

#[tokio::test]
async fn a_hanging_driver_is_a_state_and_everything_else_goes_on() {
    let dir = tempfile::tempdir().unwrap();
    let mut machine = Machine::new(dir.path(), "h200_sxm_8");
    let mut config = machine.config(dir.path());
    config.slots = vec![daemon::config::Slot { gpus: vec!["0".into()], ..shell("e", "exec sleep 1000") }];
    let agent = Agent::start(crate::agent::drained(config)).await;
    found(&agent, 8).await;
    machine.fake.patch(json!({ "calls": { "nvmlDeviceGetPowerUsage": { "hang": true } } })).unwrap();
    let hung = agent.until("e", |engine| engine.health.verdict == Verdict::Draining).await;
    assert!(hung.health.reason.contains("unresponsive"), "{}", hung.health.reason);
    let metrics = agent.get("/metrics").await;
    assert!(metrics.contains("trackside_gpu_stack{state=\"unresponsive\"} 1"), "the scrape does not wait for the driver");
    assert!(metrics.contains("node_cpu_seconds_total") || metrics.contains("trackside_node_info"), "the rest is there");
    // The kernel log is still heard.
    machine.kernel("NVRM: Xid (PCI:0000:2a:00): 119, Timeout after 6s of waiting for RPC response from GPU1 GSP!");
    until(&agent, "the XID", |snapshot| gpu(snapshot, 1).verdict == Verdict::Quarantined).await;
    machine.fake.patch(json!({ "calls": { "nvmlDeviceGetPowerUsage": null } })).unwrap();
    agent.until("e", |engine| engine.health.verdict == Verdict::Ok).await;
    agent.stop().await;
}

#[tokio::test]
async fn a_lost_gpu_a_hot_one_and_an_event_are_told_apart() {
    let dir = tempfile::tempdir().unwrap();
    let mut machine = Machine::new(dir.path(), "h200_sxm_8");
    let agent = Agent::start(machine.config(dir.path())).await;
    found(&agent, 8).await;
    machine.patch_gpu(4, json!({ "lost": true }));
    machine.patch_gpu(5, json!({ "CurrentClocksEventReasons": 0x40, "ClockInfo": [495, 495, 3201, 1545], "Temperature": [91] }));
    // NVML alone hears of this one.
    machine.fake.patch(json!({ "events": [{ "gpu": 6, "type": 8, "data": 62 }] })).unwrap();
    let snapshot = until(&agent, "three verdicts", |snapshot| {
        [4, 5, 6].into_iter().all(|index| gpu(snapshot, index).verdict != Verdict::Ok)
    })
    .await;
    let told = |index| (gpu(&snapshot, index).verdict, gpu(&snapshot, index).reasons[0].as_str(), gpu(&snapshot, index).capacity);
    assert_eq!(told(4), (Verdict::Quarantined, "fallen off the bus: reboot or power-cycle the node", 0.5));
    let hot = "slowed down by heat (hardware) at 91 °C, clock at 25 %: check cooling and power";
    assert_eq!(told(5), (Verdict::Degraded, hot, 0.25));
    let halted = "XID 62 (internal micro-controller halt): drain the GPU, then nvidia-smi --gpu-reset";
    assert_eq!(told(6), (Verdict::Quarantined, halted, 0.5));
    // One that does not answer has no numbers; back again, it has.
    assert_eq!(gpu(&snapshot, 4).facts.power_w, None);
    machine.patch_gpu(4, json!({ "lost": null }));
    until(&agent, "the lost one's return", |snapshot| gpu(snapshot, 4).facts.power_w.is_some()).await;
    assert!(
        agent
            .get("/metrics")
            .await
            .lines()
            .filter(|line| line.starts_with("trackside_gpu_lost{"))
            .all(|line| line.ends_with(" 0"))
    );
    agent.stop().await;
}

#[tokio::test]
async fn an_engine_is_not_started_again_before_its_memory_is_back() {
    const USED: u64 = 120_259_084_288;
    let dir = tempfile::tempdir().unwrap();
    let mut machine = Machine::new(dir.path(), "h200_sxm_8");
    let mut config = crate::agent::drained(machine.config(dir.path()));
    config.slots = vec![daemon::config::Slot { gpus: vec!["0".into()], ..shell("e", "exec sleep 1000") }];
    config.slots[0].policy.term_grace = Duration::ZERO;
    let agent = Agent::start(config).await;
    let used = |bytes: u64| move |snapshot: &Snapshot| gpu(snapshot, 0).facts.memory_used_bytes == Some(bytes);
    found(&agent, 8).await;
    agent.until_state("e", EngineState::Ready).await;
    // The first life began before the GPU was read; the second knows what was in use before it.
    let kill = |pid: u32| {
        let pid = rustix::process::Pid::from_raw(pid as i32).unwrap();
        rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
    };
    kill(agent.until("e", |engine| engine.pid != 0).await.pid);
    let second = agent.until("e", |engine| engine.restarts == 1 && engine.state == EngineState::Ready).await;
    machine.patch_gpu(0, json!({ "MemoryInfo": { "used": USED + (10 << 30) } }));
    until(&agent, "memory in use", used(USED + (10 << 30))).await;
    kill(second.pid);
    agent.until_state("e", EngineState::Crashed).await;
    // Two polls on it is still held back, though its delay of 50 ms is long over.
    let polls = agent.get("/metrics").await;
    let count = |metrics: &str| -> u64 {
        let line = metrics.lines().find(|line| line.starts_with("trackside_nvml_polls_total ")).expect("a count of polls");
        line.rsplit(' ').next().and_then(|count| count.parse().ok()).expect("a number")
    };
    let before = count(&polls);
    while count(&agent.get("/metrics").await) < before + 2 {
        tokio::task::yield_now().await;
    }
    agent.until("e", |engine| engine.state == EngineState::Crashed && engine.restarts == 1).await;
    machine.patch_gpu(0, json!({ "MemoryInfo": { "used": USED } }));
    agent.until("e", |engine| engine.restarts == 2 && engine.state == EngineState::Ready).await;
    agent.stop().await;
}
