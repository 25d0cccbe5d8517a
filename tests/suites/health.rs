//! A GPU falls sick under load, over a fake `libnvidia-ml.so` and a kernel log that the test writes: work moves away from its engine at once and
//! alone, no request fails, and it comes back on evidence of repair.
#![forbid(unsafe_code)]

use std::io::Write;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use nvml_fake::Fake;
use serde_json::Value;
use tests::http::{Http, until};
use tests::ledger::{Fate, Shot, fire, summary};
use tests::process::Process;

const PROGRAM: &str = env!("CARGO_BIN_EXE_trackside-under-test");

/// Writes a line to the kernel log, stamped now.
fn kernel(log: &Path, sequence: u32, message: &str) {
    let uptime = std::fs::read_to_string("/proc/uptime").expect("a /proc");
    let seconds: f64 = uptime.split(' ').next().and_then(|seconds| seconds.parse().ok()).expect("seconds since boot");
    let mut file = std::fs::File::options().append(true).open(log).expect("the log");
    writeln!(file, "4,{sequence},{:.0},-;{message}", seconds * 1e6).expect("a line");
}

/// Picks of each engine and why it is not well, as the scheduler has them.
async fn engines(http: &Http, admin: &str) -> Option<Vec<(u64, String)>> {
    let fleet = http.get(&format!("http://{admin}/debug/fleet")).await.ok()?.json();
    let engines = fleet["nodes"][0]["engines"].as_array()?;
    let engine = |engine: &Value| Some((engine["picks"].as_u64()?, engine["reason"].as_str()?.to_owned()));
    (engines.len() == 2 && engines.iter().all(|engine| engine["state"] == "ready"))
        .then(|| engines.iter().filter_map(engine).collect())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn work_leaves_a_sick_gpu_and_comes_back_when_it_is_repaired() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let http = Http::default();
    let log = folder.path().join("root/dev/kmsg");
    std::fs::create_dir_all(log.parent().expect("a folder")).expect("a root");
    std::fs::write(&log, "").expect("a log");
    let fake = Fake::install(folder.path(), "h200_sxm_8").expect("the library");
    let mut scheduler = Process::start(PROGRAM, &["scheduler", "--any-port"]);
    let (gateway, admin, nodes) = (scheduler.address("/gateway"), scheduler.address("/admin"), scheduler.address("/nodes"));
    let slot =
        |gpu| format!("{{ kind: native, model: builtin, port: 0, kv_events_port: 0, kv_replay_port: 0, gpus: [\"{gpu}\"] }}");
    let (library, root) = (fake.library().display(), folder.path().join("root").display().to_string());
    let config = format!(
        "schedulers: [\"{nodes}\"]\nhost_root: {root}\nnvml: {{ library: {library} }}\nslots: [{}, {}]\n",
        slot(0),
        slot(1)
    );
    std::fs::write(folder.path().join("node.yaml"), config).expect("a config");
    let (config, state) = (folder.path().join("node.yaml"), folder.path().join("state"));
    let (config, state) = (config.display().to_string(), state.display().to_string());
    let flags = ["node", "--any-port", "--config", &config, "--state-dir", &state, "--on-stop", "drain"];
    let mut node = Process::start(PROGRAM, &flags);

    let known = until("the node's GPUs", || async {
        let fleet = http.get(&format!("http://{admin}/debug/fleet")).await.ok()?.json();
        (fleet["nodes"][0]["gpus"].as_array()?.len() == 8).then_some(())
    });
    known.await;
    until("two engines", || engines(&http, &admin)).await;
    let over = Arc::new(AtomicBool::new(false));
    let (url, stop) = (format!("http://{gateway}/v1/chat/completions"), over.clone());
    let load = tokio::spawn(async move {
        let (mut fates, mut round) = (Vec::new(), 0);
        while !stop.load(Ordering::Relaxed) {
            let shot = |i| Shot { user: format!("{round} {i} hello"), stream: i % 2 == 0, tokens_max: 4 };
            let shots: Vec<Shot> = (0..8).map(shot).collect();
            fates.extend(fire(&url, &shots, 4, Arc::default()).await);
            round += 1;
        }
        fates
    });
    // Both take work.
    let both = |at_least: u64| engines_when(&http, &admin, move |engines| engines.iter().all(|(picks, _)| *picks >= at_least));
    both(5).await;

    kernel(&log, 0, "NVRM: Xid (PCI:0000:18:00): 95, pid=4711, name=python3, Uncontained: LTC TAG (0x2,0x0)");
    engines_when(&http, &admin, |engines| engines[0].1.starts_with("GPU 0: XID 95")).await;
    // Asked once more: a decision under way at that moment has been counted by now.
    let sick = engines(&http, &admin).await.expect("two engines");
    let later = engines_when(&http, &admin, |engines| engines[1].0 >= sick[1].0 + 50).await;
    assert_eq!(later[0].0, sick[0].0, "a pick after the report was taken in");
    assert_eq!(later[1].1, "", "the other GPU is well");

    kernel(&log, 1, "NVRM: Xid (PCI:0000:18:00): 154, GPU recovery action changed from 0x1 (GPU Reset Required) to 0x0 (None)");
    let before = later[0].0;
    engines_when(&http, &admin, move |engines| engines[0].0 >= before + 5).await;

    over.store(true, Ordering::Relaxed);
    let fates = load.await.expect("the load ends");
    let failed = fates.iter().find(|fate| !matches!(fate, Fate::Answered(..)));
    assert!(failed.is_none() && !fates.is_empty(), "{:?} {failed:?}", summary(&fates));
    node.signal(rustix::process::Signal::TERM);
    node.wait();
}

async fn engines_when(http: &Http, admin: &str, wanted: impl Fn(&[(u64, String)]) -> bool) -> Vec<(u64, String)> {
    until("engines as wanted", || async { engines(http, admin).await.filter(|engines| wanted(engines)) }).await
}
