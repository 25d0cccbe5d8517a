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

/// A folder, or the `.gguf` file in it: of several the last, any being as good as another.
pub fn load(model: &Path, options: &CpuOptions) -> CpuBackend {
    load_file(&file(model), options)
}

pub fn file(model: &Path) -> PathBuf {
    let entries = std::fs::read_dir(model).expect("the checkpoint is there");
    let files = entries.map(|entry| entry.expect("a folder can be listed").path());
    files.filter(|file| file.extension().is_some_and(|extension| extension == "gguf")).max().unwrap_or_else(|| model.to_owned())
}
