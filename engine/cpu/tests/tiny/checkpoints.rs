//! The committed checkpoints: a folder each, with `golden.json` beside the Hugging Face files or the `model.gguf`.

use std::path::{Path, PathBuf};

use engine_cpu::{CpuBackend, CpuOptions};

use crate::support::{fixtures, load_file};

/// All of them, for [`load`].
pub fn checkpoints() -> Vec<PathBuf> {
    let entries = std::fs::read_dir(fixtures().join("models")).expect("the fixtures are there");
    let mut models: Vec<PathBuf> = entries.map(|entry| entry.expect("a folder can be listed").path()).collect();
    models.retain(|model| model.join("golden.json").exists());
    models.sort();
    models
}

pub fn load(model: &Path, options: &CpuOptions) -> CpuBackend {
    let gguf = model.join("model.gguf");
    load_file(if gguf.exists() { &gguf } else { model }, options)
}
