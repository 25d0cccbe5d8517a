//! Hugging Face folders, whole and broken: each case changes one thing in a good folder of two shards.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use engine_assets::{ErrorKind, ModelAssets, RopeScaling};
use serde_json::{Map, Value, json};
use tempfile::TempDir;

const SHARDS: [&str; 2] = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"];
const INDEX: &str = "model.safetensors.index.json";

/// A good model: hidden 8, 2 layers, 2 heads, 1 key/value head, 16 tokens.
pub struct Folder(TempDir);

impl Folder {
    pub fn new() -> Self {
        let folder = Self(TempDir::new().expect("test files"));
        folder.write("config.json", config().to_string());
        folder.write("generation_config.json", json!({"eos_token_id": [2, 1], "temperature": 0.5, "top_k": 7}).to_string());
        folder.write("tokenizer.json", json!({"version": "1.0", "added_tokens": [{"id": 1, "content": "<e>"}], "model": {"type": "BPE", "vocab": {"a": 0, "<e>": 1}, "merges": []}}).to_string());
        folder
            .write("tokenizer_config.json", json!({"eos_token": {"content": "<e>"}, "chat_template": "in the json"}).to_string());
        folder.write_shards(&tensors());
        folder
    }

    pub fn path(&self) -> &Path {
        self.0.path()
    }

    pub fn file(&self, name: &str) -> PathBuf {
        self.path().join(name)
    }

    pub fn write(&self, name: &str, content: impl AsRef<[u8]>) {
        fs::write(self.file(name), content).expect("test files");
    }

    pub fn remove(&self, name: &str) {
        fs::remove_file(self.file(name)).expect("test files");
    }

    /// Changes a JSON file.
    pub fn edit(&self, name: &str, change: impl FnOnce(&mut Map<String, Value>)) {
        let mut json: Map<String, Value> =
            serde_json::from_slice(&fs::read(self.file(name)).expect("test files")).expect("test files");
        change(&mut json);
        self.write(name, Value::Object(json).to_string());
    }

    pub fn config(&self, change: Value) {
        self.edit("config.json", |config| config.extend(change.as_object().expect("test files").clone()));
    }

    /// Layer 1 and the head go into the second shard.
    pub fn write_shards(&self, tensors: &BTreeMap<String, Vec<usize>>) {
        let second = |name: &str| name.contains("layers.1.") || name == "lm_head.weight";
        let (late, early): (BTreeMap<_, _>, BTreeMap<_, _>) =
            tensors.iter().map(|(name, shape)| (name.clone(), shape.clone())).partition(|(name, _)| second(name));
        self.write(SHARDS[0], safetensors(&early, "F32"));
        self.write(SHARDS[1], safetensors(&late, "F32"));
        let weight_map: Map<String, Value> =
            tensors.keys().map(|name| (name.clone(), SHARDS[usize::from(second(name))].into())).collect();
        self.write(INDEX, json!({"metadata": {}, "weight_map": weight_map}).to_string());
    }

    pub fn with_tensors(&self, change: impl FnOnce(&mut BTreeMap<String, Vec<usize>>)) {
        let mut tensors = tensors();
        change(&mut tensors);
        self.write_shards(&tensors);
    }
}

pub fn config() -> Value {
    json!({
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_act": "silu", "hidden_size": 8, "intermediate_size": 12,
        "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 1, "max_position_embeddings": 64, "rms_norm_eps": 1e-5,
        "vocab_size": 16, "tie_word_embeddings": false, "eos_token_id": 2
    })
}

pub fn tensors() -> BTreeMap<String, Vec<usize>> {
    let mut tensors = BTreeMap::from([
        ("model.embed_tokens.weight".to_owned(), vec![16, 8]),
        ("model.norm.weight".to_owned(), vec![8]),
        ("lm_head.weight".to_owned(), vec![16, 8]),
    ]);
    for layer in 0..2 {
        for (name, shape) in [
            ("input_layernorm.weight", vec![8]),
            ("post_attention_layernorm.weight", vec![8]),
            ("self_attn.q_proj.weight", vec![8, 8]),
            ("self_attn.k_proj.weight", vec![4, 8]),
            ("self_attn.v_proj.weight", vec![4, 8]),
            ("self_attn.o_proj.weight", vec![8, 8]),
            ("mlp.gate_proj.weight", vec![12, 8]),
            ("mlp.up_proj.weight", vec![12, 8]),
            ("mlp.down_proj.weight", vec![8, 12]),
        ] {
            tensors.insert(format!("model.layers.{layer}.{name}"), shape);
        }
    }
    tensors
}

/// A safetensors file of zeros, in the order of the names.
pub fn safetensors(tensors: &BTreeMap<String, Vec<usize>>, dtype: &str) -> Vec<u8> {
    let size = if dtype == "F32" { 4 } else { 2 };
    let (mut header, mut at) = (Map::new(), 0);
    for (name, shape) in tensors {
        let end = at + shape.iter().product::<usize>() * size;
        header.insert(name.clone(), json!({"dtype": dtype, "shape": shape, "data_offsets": [at, end]}));
        at = end;
    }
    with_header(&Value::Object(header).to_string(), at)
}

fn with_header(header: &str, data: usize) -> Vec<u8> {
    let mut file = (header.len() as u64).to_le_bytes().to_vec();
    file.extend(header.as_bytes());
    file.extend(vec![0; data]);
    file
}

pub fn opens(change: impl FnOnce(&Folder)) -> ModelAssets {
    let folder = Folder::new();
    change(&folder);
    engine_assets::open(folder.path()).unwrap_or_else(|error| panic!("{error}"))
}

/// The error is one line, of this kind, and says all of `says`.
#[track_caller]
pub fn refuses(change: impl FnOnce(&Folder), kind: ErrorKind, says: &[&str]) {
    let folder = Folder::new();
    change(&folder);
    let error = engine_assets::open(folder.path()).map(|_| ()).expect_err("was opened");
    let line = error.to_string();
    assert_eq!(error.kind, kind, "{line}");
    assert!(!line.contains('\n'), "{line}");
    assert!(line.starts_with(folder.path().to_str().expect("test files")), "does not begin with a file of the model: {line}");
    for part in says {
        assert!(line.contains(part), "does not say {part:?}: {line}");
    }
}

#[test]
fn a_good_folder_opens() {
    let model = opens(|_| {});
    assert_eq!(model.tensors.by_name.len(), 21);
    assert_eq!(model.config.head_dim, 4);
    assert_eq!((model.config.rope.theta, &model.config.rope.scaling), (10_000.0, &RopeScaling::None));
    assert_eq!(model.generation.eos, [2, 1], "the list, and the tokenizer's own, each once");
    assert_eq!((model.generation.temperature, model.generation.top_k, model.generation.top_p), (Some(0.5), Some(7), None));
    assert_eq!(model.warnings, Vec::<String>::new());
}

#[test]
fn shards() {
    use ErrorKind::*;
    refuses(|f| f.remove(SHARDS[1]), Missing, &[SHARDS[1], "lm_head.weight", "incomplete download?"]);
    refuses(
        |f| {
            f.edit(INDEX, |index| {
                drop(index["weight_map"].as_object_mut().unwrap().insert("ghost.weight".into(), SHARDS[1].into()))
            })
        },
        Missing,
        &[SHARDS[1], "ghost.weight", "incomplete download?"],
    );
    let cut = |f: &Folder| {
        let whole = fs::read(f.file(SHARDS[1])).unwrap();
        f.write(SHARDS[1], &whole[..whole.len() * 6 / 10]);
    };
    refuses(cut, Truncated, &[SHARDS[1], "tensor \"", "incomplete download?"]);
    let pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:0123\nsize 4\n";
    refuses(|f| f.write(SHARDS[0], pointer), Truncated, &[SHARDS[0], "git-lfs pointer", "git lfs pull"]);
    refuses(|f| f.write("tokenizer.json", pointer), Truncated, &["tokenizer.json", "git-lfs pointer"]);
    refuses(|f| f.write(SHARDS[0], ""), Truncated, &[SHARDS[0]]);
    refuses(|f| f.remove(INDEX), Missing, &["model.safetensors", "incomplete download?"]);
    refuses(
        |f| {
            f.edit(INDEX, |index| {
                drop(index["weight_map"].as_object_mut().unwrap().insert("x".into(), "../x.safetensors".into()))
            })
        },
        Malformed,
        &[INDEX, "../x.safetensors", "plain file name"],
    );
    refuses(|f| f.write(INDEX, "{"), Malformed, &[INDEX]);
}

#[test]
fn one_file_counts_before_an_index() {
    let model = opens(|f| {
        f.write("model.safetensors", safetensors(&tensors(), "BF16"));
        f.remove(SHARDS[1]);
    });
    assert_eq!(model.tensors.files.len(), 1);
}

#[test]
fn odd_shards_are_told() {
    let model =
        opens(|f| f.edit(INDEX, |index| drop(index["weight_map"].as_object_mut().unwrap().shift_remove("model.norm.weight"))));
    assert!(
        model.warnings[0].contains("model.norm.weight") && model.warnings[0].contains("not in the index"),
        "{:?}",
        model.warnings
    );
    let mut more = BTreeMap::from([("model.norm.weight".to_owned(), vec![8]), ("rotary.inv_freq".to_owned(), vec![2])]);
    more.extend(tensors().into_iter().filter(|(name, _)| name.contains("layers.1.") || name == "lm_head.weight"));
    let model = opens(|f| f.write(SHARDS[1], safetensors(&more, "F32")));
    assert_eq!(model.tensors.get("model.norm.weight").unwrap().file, 0, "the index decides");
    let warnings = model.warnings.join("\n");
    assert!(
        warnings.contains("model.norm.weight") && warnings.contains("not read by this architecture: \"rotary.inv_freq\""),
        "{warnings}"
    );
}

#[test]
fn headers() {
    use ErrorKind::*;
    let one = |header: &str, data: usize| {
        let file = with_header(header, data);
        move |f: &Folder| f.write("model.safetensors", file)
    };
    refuses(|f| f.write("model.safetensors", u64::MAX.to_le_bytes()), Malformed, &["18446744073709551615 bytes", "at byte 0"]);
    refuses(|f| f.write("model.safetensors", 1000u64.to_le_bytes()), Truncated, &["1000 bytes"]);
    refuses(one("{", 0), Malformed, &["broken header"]);
    refuses(one(r#"{"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 4]}}"#, 4), Malformed, &["tensor \"a\"", "needs 8"]);
    refuses(one(r#"{"a": {"dtype": "F32", "shape": [1], "data_offsets": [4, 0]}}"#, 4), Malformed, &["tensor \"a\""]);
    refuses(one(r#"{"a": {"dtype": "F32", "shape": [1], "data_offsets": [4, 8]}}"#, 8), Malformed, &["hole"]);
    refuses(
        one(
            r#"{"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}, "b": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}"#,
            4,
        ),
        Malformed,
        &["overlaps"],
    );
    refuses(one(r#"{"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}"#, 8), Malformed, &["after its last tensor"]);
    refuses(
        one(
            r#"{"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}, "a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}"#,
            4,
        ),
        Malformed,
        &["comes twice"],
    );
    refuses(
        one(r#"{"a": {"dtype": "F32", "shape": [4294967296, 4294967296, 4], "data_offsets": [0, 4]}}"#, 4),
        Malformed,
        &["overflows"],
    );
}

#[test]
fn element_types() {
    for dtype in ["I8", "F8_E4M3"] {
        let known = safetensors(&tensors(), "F32");
        let header_end = known.windows(2).position(|pair| pair == b"}}").unwrap() + 2;
        let header = String::from_utf8(known[8..header_end].to_vec()).unwrap().replace("F32", dtype);
        let file = with_header(&header, known.len() - header_end);
        refuses(|f| f.write("model.safetensors", file), ErrorKind::Unsupported, &["tensor \"", dtype, "BF16"]);
    }
}

#[test]
fn paths() {
    let folder = Folder::new();
    let line = |path: &Path| engine_assets::open(path).map(|_| ()).expect_err("was opened").to_string();
    assert!(line(&folder.file("absent")).contains("No such file"));
    assert!(line(&folder.file("config.json")).contains("neither a folder nor a .gguf file"));
}
