//! LoRA adapters: what PEFT wrote is read, and what cannot be served is refused by name.

use std::fs;
use std::path::Path;

use engine_assets::{Adapter, AssetsError, ErrorKind};
use serde_json::{Map, Value, json};
use tempfile::TempDir;

use crate::fixtures::models;

fn open(path: &Path, base: &str, rank_max: usize) -> Result<Adapter, AssetsError> {
    let base = engine_assets::open(&models().join(base)).unwrap_or_else(|error| panic!("{error}"));
    Adapter::open(path, &base, rank_max)
}

fn fixture(name: &str) -> std::path::PathBuf {
    models().join("../adapters").join(name)
}

#[test]
fn what_peft_wrote_is_read() {
    let all = open(&fixture("qwen3-all"), "qwen3", 64).unwrap_or_else(|error| panic!("{error}"));
    assert_eq!((all.modules.len(), all.rank()), (3 * 7, 4));
    let down = &all.modules["model.layers.2.mlp.down_proj"];
    assert_eq!((down.rank, down.inputs, down.outputs, down.scale), (4, 80, 48, 2.0));
    assert_eq!((down.a.len(), down.b.len()), (4 * 80, 48 * 4));
    let stabilised = open(&fixture("qwen3-rslora"), "qwen3", 3).unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(stabilised.modules.len(), 3 * 3);
    assert_eq!(stabilised.modules["model.layers.0.self_attn.v_proj"].scale, (4.0 / 3f64.sqrt()) as f32);
}

/// Changes a copy of a good adapter.
#[track_caller]
fn refuses(change: impl FnOnce(&Path), kind: ErrorKind, says: &[&str]) {
    let copy = TempDir::new().expect("test files");
    for name in ["adapter_config.json", "adapter_model.safetensors"] {
        fs::copy(fixture("qwen3-all").join(name), copy.path().join(name)).expect("test files");
    }
    change(copy.path());
    let error = open(copy.path(), "qwen3", 64).map(|_| ()).expect_err("was opened");
    let line = error.to_string();
    assert_eq!(error.kind, kind, "{line}");
    for part in says {
        assert!(line.contains(part), "does not say {part:?}: {line}");
    }
}

fn config(change: Value) -> impl FnOnce(&Path) {
    move |folder| {
        let path = folder.join("adapter_config.json");
        let mut config: Map<String, Value> = serde_json::from_slice(&fs::read(&path).expect("test files")).expect("test files");
        config.extend(change.as_object().expect("test files").clone());
        fs::write(path, Value::Object(config).to_string()).expect("test files");
    }
}

/// A file with these tensors of zeros in place of the adapter's.
fn tensors(tensors: &[(&str, &[usize])]) -> impl FnOnce(&Path) {
    let tensors = tensors.iter().map(|(name, shape)| (format!("base_model.model.{name}"), shape.to_vec())).collect();
    move |folder| {
        fs::write(folder.join("adapter_model.safetensors"), crate::folder::safetensors(&tensors, "F32")).expect("test files")
    }
}

#[test]
fn what_cannot_be_served_is_refused() {
    use ErrorKind::*;
    refuses(|folder| fs::remove_file(folder.join("adapter_config.json")).expect("test files"), Missing, &["adapter_config.json"]);
    refuses(
        |folder| fs::remove_file(folder.join("adapter_model.safetensors")).expect("test files"),
        Missing,
        &["adapter_model.safetensors"],
    );
    refuses(config(json!({"peft_type": "IA3"})), Unsupported, &["peft_type", "IA3"]);
    refuses(config(json!({"use_dora": true})), Unsupported, &["use_dora"]);
    refuses(config(json!({"bias": "all"})), Unsupported, &["bias"]);
    refuses(config(json!({"modules_to_save": ["lm_head"]})), Unsupported, &["modules_to_save"]);
    refuses(config(json!({"alpha_pattern": {"q_proj": 3}})), Unsupported, &["alpha_pattern"]);
    refuses(config(json!({"lora_alpha": null})), Missing, &["lora_alpha"]);
    let q = "model.layers.0.self_attn.q_proj";
    let a = format!("{q}.lora_A.weight");
    let b = format!("{q}.lora_B.weight");
    refuses(tensors(&[(&a, &[4, 48])]), Missing, &[q, "only one of lora_A and lora_B"]);
    refuses(tensors(&[(&a, &[4, 48]), (&b, &[80, 3])]), Mismatch, &[q, "[80, 48]", "own base model"]);
    refuses(tensors(&[(&a, &[65, 48]), (&b, &[80, 65])]), TooLarge, &[q, "rank 65", "--max-lora-rank"]);
    refuses(tensors(&[("lm_head.lora_A.weight", &[4, 48]), ("lm_head.lora_B.weight", &[761, 4])]), Unsupported, &["lm_head"]);
    refuses(
        tensors(&[("model.layers.0.self_attn.q_proj.weight", &[80, 48])]),
        Unsupported,
        &["q_proj.weight", "no part of a LoRA"],
    );
    refuses(tensors(&[]), Missing, &["holds no tensors"]);
}
