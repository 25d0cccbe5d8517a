//! A Hugging Face folder whose `model.safetensors` is any bytes: opened or refused in one line.
#![no_main]

use std::fs;
use std::path::Path;
use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use tempfile::TempDir;

/// A copy of a committed tiny model.
static FOLDER: LazyLock<TempDir> = LazyLock::new(|| {
    let folder = TempDir::new().expect("a temporary folder");
    let good = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fixtures/models/llama");
    for entry in fs::read_dir(good).expect("the tiny model") {
        let file = entry.expect("its files").path();
        fs::copy(&file, folder.path().join(file.file_name().expect("a name"))).expect("a copy");
    }
    folder
});

fuzz_target!(|bytes: &[u8]| {
    fs::write(FOLDER.path().join("model.safetensors"), bytes).expect("a file in it");
    if let Err(error) = engine_assets::open(FOLDER.path()) {
        assert!(!error.to_string().contains('\n'));
    }
});
