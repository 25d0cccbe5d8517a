//! Model files from strangers at the command line: each hostile header is one line with key and byte, in little memory; a model in several
//! files is whole from any of them; a byte order mark is no fault.
#![forbid(unsafe_code)]

use std::fs;
use std::path::{Path, PathBuf};

use domain::FaultKind;
use serde_json::{Value, json};
use tempfile::TempDir;
use tests::http::{Http, until};
use tests::process::{Process, fixture};

const PROGRAM: &str = env!("CARGO_BIN_EXE_trackside-under-test");

/// Runs an engine that may not use more than 100 MB of data to its end, and gives what it said to the person.
fn refused(model: &Path) -> String {
    let line = "ulimit -d 100000; exec \"$0\" engine --model \"$1\" --port 0 --no-kv-events";
    let (status, stderr) = Process::start("sh", &["-c", line, PROGRAM, &model.display().to_string()]).wait();
    let name = model.display();
    assert_eq!(status.code(), Some(i32::from(FaultKind::Model.exit_code())), "{name}: {stderr}");
    let said: Vec<&str> = stderr.lines().filter(|line| line.contains("trackside: ")).collect();
    assert!(said.len() == 1 && !stderr.contains("panicked") && !stderr.contains("stack backtrace"), "{name}: {stderr}");
    said[0].to_owned()
}

async fn starts(model: &Path) -> (Process, String) {
    let model = model.display().to_string();
    let mut engine =
        Process::start(PROGRAM, &["engine", "--model", &model, "--served-model-name", "m", "--port", "0", "--no-kv-events"]);
    let url = format!("http://{}", engine.address("/address"));
    let http = Http::default();
    let health = format!("{url}/health");
    until("a healthy engine", || async { http.get(&health).await.ok().filter(|answer| answer.status.is_success()) }).await;
    (engine, url)
}

async fn post(url: &str, body: &Value) -> (u16, Value) {
    let answer = Http::default().post(url, body).await.expect("an answer");
    (answer.status.as_u16(), answer.json())
}

fn string(text: &str) -> Vec<u8> {
    [&(text.len() as u64).to_le_bytes()[..], text.as_bytes()].concat()
}

/// A key of text and what its value begins with.
fn pair(key: &str, kind: u32, value: &[u8]) -> Vec<u8> {
    [&string(key)[..], &kind.to_le_bytes(), value].concat()
}

/// A GGUF of version 3 with so many tensors and these pairs.
fn gguf(tensors: u64, pairs: &[Vec<u8>], rest: &[u8]) -> Vec<u8> {
    let count = pairs.len() as u64;
    [b"GGUF", &3u32.to_le_bytes()[..], &tensors.to_le_bytes(), &count.to_le_bytes(), &pairs.concat(), rest].concat()
}

/// Name, dimensions, type and offset of a tensor.
fn tensor(name: &str, dims: &[u64], offset: u64) -> Vec<u8> {
    let dims = [(dims.len() as u32).to_le_bytes().to_vec(), dims.iter().flat_map(|dim| dim.to_le_bytes()).collect()].concat();
    [string(name), dims, 0u32.to_le_bytes().to_vec(), offset.to_le_bytes().to_vec()].concat()
}

/// Metadata of a llama with two tokens, which the tests make wrong in one place.
fn llama(block_count: u32) -> Vec<Vec<u8>> {
    let number = |key: &str, n: u32| pair(&format!("llama.{key}"), 4, &n.to_le_bytes());
    let tokens = [&8u32.to_le_bytes()[..], &2u64.to_le_bytes(), &string("a"), &string("b")].concat();
    vec![
        pair("general.architecture", 8, &string("llama")),
        number("block_count", block_count),
        number("context_length", 64),
        number("embedding_length", 32),
        number("feed_forward_length", 64),
        number("attention.head_count", 2),
        pair("llama.attention.layer_norm_rms_epsilon", 6, &1e-5f32.to_le_bytes()),
        pair("tokenizer.ggml.model", 8, &string("gpt2")),
        pair("tokenizer.ggml.tokens", 9, &tokens),
    ]
}

/// Case B9.
#[test]
fn hostile_headers_are_one_line_each() {
    let with = |more: Vec<u8>| [llama(1), vec![more]].concat();
    let scores = [&0u32.to_le_bytes()[..], &2u64.to_le_bytes(), &[0, 0]].concat();
    let nested: Vec<u8> =
        std::iter::repeat_n([&9u32.to_le_bytes()[..], &1u64.to_le_bytes()].concat(), 10_000).flatten().collect();
    let embedding = tensor("token_embd.weight", &[32, 2], 0);
    for (name, bytes, says) in [
        ("key-length", gguf(0, &[(1u64 << 48).to_le_bytes().to_vec()], &[]), &["281474976710656 bytes", "at byte 24"][..]),
        ("empty-key", gguf(0, &[pair("", 4, &1u32.to_le_bytes())], &[]), &["a key of 0 bytes", "at byte 24"]),
        (
            "scores",
            gguf(0, &with(pair("tokenizer.ggml.scores", 9, &scores)), &[]),
            &["tokenizer.ggml.scores", "at byte", "integers"],
        ),
        ("dimensions", gguf(1, &llama(1), &tensor("t", &[1; 9], 0)), &["tensor \"t\" at byte", "9 dimensions"]),
        ("product", gguf(1, &llama(1), &tensor("t", &[1 << 32, 1 << 32, 4], 0)), &["tensor \"t\" at byte", "overflows"]),
        (
            "layers",
            gguf(1, &llama(1_000_000), &[&embedding[..], &[0; 512]].concat()),
            &["llama.block_count", "at byte", "1000000"],
        ),
        ("offset", gguf(1, &llama(1), &tensor("t", &[4], 1 << 40)), &["tensor \"t\" at byte", "incomplete download?"]),
        ("nested", gguf(0, &with(pair("k", 9, &nested)), &[]), &["key \"k\" at byte", "array inside an array"]),
    ] {
        let folder = TempDir::new().expect("a temporary folder");
        let path = folder.path().join(format!("{name}.gguf"));
        fs::write(&path, bytes).expect("a file");
        let line = refused(&path);
        for part in says {
            assert!(line.contains(part), "{name}: does not say {part:?}: {line}");
        }
    }
}

/// A copy of a fixture model that a test may change.
fn copy(name: &str) -> (TempDir, PathBuf) {
    let folder = tempfile::tempdir().expect("a temporary folder");
    for entry in fs::read_dir(fixture(name)).expect("a fixture").map(|entry| entry.expect("an entry")) {
        if entry.path().is_file() {
            fs::copy(entry.path(), folder.path().join(entry.file_name())).expect("a copy");
        }
    }
    let path = folder.path().to_owned();
    (folder, path)
}

/// Case B3: an index that names a tensor which its shard lacks. The other faults of shards are in `refused.rs`.
#[test]
fn a_tensor_that_its_shard_lacks() {
    let (_keep, folder) = copy("llama");
    let path = folder.join("model.safetensors.index.json");
    let mut index: Value = serde_json::from_slice(&fs::read(&path).expect("an index")).expect("JSON");
    let shard = index["weight_map"]["lm_head.weight"].clone();
    index["weight_map"]["model.layers.9.mlp.up_proj.weight"] = shard.clone();
    fs::write(path, index.to_string()).expect("an index");
    let line = refused(&folder);
    assert!(line.contains("model.layers.9.mlp.up_proj.weight") && line.contains("incomplete download?"), "{line}");
    assert!(line.contains(shard.as_str().expect("a shard")), "{line}");
}

/// Cases B3 and B5 at the door: a byte order mark and DOS line ends load; an untied model without a head does not.
#[tokio::test]
async fn configurations_as_editors_leave_them() {
    let (_keep, folder) = copy("qwen3");
    let path = folder.join("config.json");
    let config = fs::read_to_string(&path).expect("a configuration").replace('\n', "\r\n");
    fs::write(&path, format!("\u{feff}{config}")).expect("a file");
    let (_engine, url) = starts(&folder).await;
    let (status, answer) =
        post(&format!("{url}/v1/completions"), &json!({"prompt": "a", "max_tokens": 2, "ignore_eos": true})).await;
    assert_eq!((status, &answer["usage"]["completion_tokens"]), (200, &json!(2)), "{answer}");

    let (_keep, folder) = copy("llama31");
    let path = folder.join("config.json");
    let config = fs::read_to_string(&path).expect("a configuration");
    let tied = "\"tie_word_embeddings\": true";
    assert!(config.contains(tied));
    fs::write(&path, config.replace(tied, "\"tie_word_embeddings\": false")).expect("a file");
    let line = refused(&folder);
    assert!(line.contains("lm_head.weight") && line.contains("tie_word_embeddings"), "{line}");
}

/// Case B10: whole from any file, or the missing one is named; without a template of its own, a chat is a 400 that says so.
#[tokio::test]
async fn a_split_model_is_whole_from_any_file() {
    let golden: Value =
        serde_json::from_slice(&fs::read(fixture("gguf-split-q8_0/golden.json")).expect("a golden")).expect("JSON");
    let case = &golden["cases"][0];
    for given in ["model-00003-of-00003.gguf", "model-00001-of-00003.gguf"] {
        let model = fixture("gguf-split-q8_0").join(given).display().to_string();
        let args = ["engine", "--model", &model, "--port", "0", "--no-kv-events", "--dtype", "float32"];
        let mut engine = Process::start(PROGRAM, &args);
        let url = format!("http://{}", engine.address("/address"));
        let (http, health) = (Http::default(), format!("{url}/health"));
        until("a healthy engine", || async { http.get(&health).await.ok().filter(|answer| answer.status.is_success()) }).await;
        let asked = json!({"prompt": case["prompt_ids"], "max_tokens": 40, "temperature": 0, "ignore_eos": true, "return_token_ids": true});
        let (status, answer) = post(&format!("{url}/v1/completions"), &asked).await;
        assert_eq!((status, &answer["choices"][0]["token_ids"]), (200, &case["output_ids"]), "{given}: {answer}");
        // The template comes with the metadata.
        let chat = json!({"messages": [{"role": "user", "content": "a"}], "max_tokens": 1});
        let (status, answer) = post(&format!("{url}/v1/chat/completions"), &chat).await;
        assert_eq!(status, 200, "{answer}");
    }
    let (_keep, folder) = copy("gguf-split-q8_0");
    fs::remove_file(folder.join("model-00001-of-00003.gguf")).expect("a removed file");
    let line = refused(&folder.join("model-00002-of-00003.gguf"));
    assert!(line.contains("model-00001-of-00003.gguf") && line.contains("file 1 of the model's 3"), "{line}");
}

#[tokio::test]
async fn a_chat_without_a_template_is_refused() {
    let (_keep, folder) = copy("qwen3");
    fs::remove_file(folder.join("chat_template.jinja")).expect("a removed file");
    let (_engine, url) = starts(&folder).await;
    let chat = json!({"messages": [{"role": "user", "content": "a"}], "max_tokens": 1});
    let (status, answer) = post(&format!("{url}/v1/chat/completions"), &chat).await;
    let message = answer["error"]["message"].as_str().unwrap_or_default();
    assert!(status == 400 && message.contains("no chat template"), "{answer}");
    let (status, _) = post(&format!("{url}/v1/completions"), &json!({"prompt": "a", "max_tokens": 1})).await;
    assert_eq!(status, 200, "completions need none");
}
