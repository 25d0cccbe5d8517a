//! Bad input at the command line: one line that names the object and says what to do, the promised exit code, nothing left behind.
#![forbid(unsafe_code)]

use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};

use domain::FaultKind;
use tempfile::TempDir;
use tests::http::{Http, until};
use tests::process::{Process, fixture};

const PROGRAM: &str = env!("CARGO_BIN_EXE_trackside-under-test");

/// Runs a command line to its end. What it says to the person must hold every one of `words`.
fn check(args: &[&str], kind: FaultKind, words: &[&str]) {
    let (status, stderr) = Process::start(PROGRAM, args).wait();
    assert_eq!(status.code(), Some(i32::from(kind.exit_code())), "{args:?}: {stderr}");
    let said = stderr.split_once("trackside: ").map(|(_, said)| said).unwrap_or_default();
    for word in words {
        assert!(said.contains(word), "{args:?}: {word:?} is not in: {said}");
    }
    assert!(!stderr.contains("panicked"), "{stderr}");
}

fn engine(model: &Path, words: &[&str]) {
    let model = model.display().to_string();
    check(&["engine", "--model", &model, "--port", "0", "--no-kv-events"], FaultKind::Model, words);
}

/// A copy of a fixture model that a test may damage.
fn copy(name: &str) -> (TempDir, PathBuf) {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join(name);
    fs::create_dir(&path).expect("a folder");
    for entry in fs::read_dir(fixture(name)).expect("a fixture").map(|entry| entry.expect("an entry")) {
        fs::copy(entry.path(), path.join(entry.file_name())).expect("a copy");
    }
    (folder, path)
}

fn shards(folder: &Path) -> Vec<PathBuf> {
    let mut shards = tests::tree::files(folder, "safetensors");
    shards.sort();
    shards
}

#[test]
fn a_model_that_is_not_there() {
    engine(Path::new("/no/such/model"), &["/no/such/model"]);
}

#[test]
fn a_shard_that_is_missing() {
    let (_keep, folder) = copy("llama");
    let shard = shards(&folder).pop().expect("two shards");
    fs::remove_file(&shard).expect("a removed file");
    engine(&folder, &[&shard.file_name().expect("a name").to_string_lossy(), "incomplete download"]);
}

#[test]
fn a_shard_that_is_cut_short() {
    let (_keep, folder) = copy("llama");
    let shard = shards(&folder).pop().expect("two shards");
    let bytes = fs::read(&shard).expect("a shard");
    fs::write(&shard, &bytes[..bytes.len() * 6 / 10]).expect("a cut shard");
    engine(&folder, &[&shard.file_name().expect("a name").to_string_lossy(), "incomplete download"]);
}

#[test]
fn a_pointer_in_place_of_a_shard() {
    let (_keep, folder) = copy("llama");
    let shard = shards(&folder).pop().expect("two shards");
    fs::write(&shard, "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 123\n").expect("a pointer");
    engine(&folder, &["git-lfs"]);
}

#[test]
fn an_architecture_that_is_unknown() {
    let (_keep, folder) = copy("llama");
    let path = folder.join("config.json");
    let config = fs::read_to_string(&path).expect("a config").replace("LlamaForCausalLM", "MambaForCausalLM");
    fs::write(&path, config.replace("\"llama\"", "\"mamba\"")).expect("another config");
    engine(&folder, &["MambaForCausalLM", "llama"]);
}

#[test]
fn a_tokenizer_that_is_broken() {
    let (_keep, folder) = copy("llama");
    fs::write(folder.join("tokenizer.json"), "{\"model\": 3}").expect("a broken tokenizer");
    engine(&folder, &["tokenizer"]);
}

#[test]
fn up_says_the_same_at_once() {
    check(&["up", "--any-port", "--model", "/no/such/model"], FaultKind::Model, &["/no/such/model"]);
}

#[test]
fn a_port_in_use() {
    let taken = TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = taken.local_addr().expect("an address").port().to_string();
    check(&["engine", "--model", "builtin", "--no-kv-events", "--port", &port], FaultKind::Address, &[&port, "port"]);
    check(&["up", "--port", &port], FaultKind::Address, &[&port]);
}

#[test]
fn configurations_with_mistakes_are_told_all_at_once() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("config.yaml");
    let name = path.display().to_string();
    fs::write(&path, "schedulres: []\nslots: [{ kind: native, modle: builtin }]\n").expect("a config");
    check(&["node", "--config", &name], FaultKind::Config, &["schedulres", "schedulers", "modle", "model"]);
    fs::write(&path, "listen: { gatway: \"127.0.0.1:0\" }\nweights: { prefix: -1 }\n").expect("a config");
    check(&["scheduler", "--config", &name], FaultKind::Config, &["gatway", "gateway", "prefix"]);
    fs::write(&path, "a: [\n").expect("a config");
    check(&["node", "--config", &name], FaultKind::Config, &[&name]);
    check(&["scheduler", "--config", "/no/such/file"], FaultKind::Config, &["/no/such/file"]);
}

#[tokio::test]
async fn a_full_disk_below_the_log_ends_no_engine() {
    let line = "exec \"$0\" \"$@\" 2>/dev/full";
    let args = ["-c", line, PROGRAM, "engine", "--model", "builtin", "--port", "0", "--no-kv-events"];
    let mut engine = Process::start("sh", &args);
    let (http, url) = (Http::default(), format!("http://{}/health", engine.address("/address")));
    until("a healthy engine", || async { http.get(&url).await.ok().filter(|answer| answer.status.is_success()) }).await;
    engine.signal(rustix::process::Signal::TERM);
    assert!(engine.wait().0.success());
}

#[test]
fn a_scheduler_that_does_not_answer() {
    check(&["status", "--scheduler", "127.0.0.1:1"], FaultKind::Unreachable, &["127.0.0.1:1", "--scheduler"]);
    check(&["explain", "hello", "--scheduler", "127.0.0.1:1"], FaultKind::Unreachable, &["127.0.0.1:1"]);
}
