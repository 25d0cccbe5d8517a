//! A GGUF file of any bytes: opened or refused in one line.
#![no_main]

use std::fs;
use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use tempfile::TempDir;

static FOLDER: LazyLock<TempDir> = LazyLock::new(|| TempDir::new().expect("a temporary folder"));

fuzz_target!(|bytes: &[u8]| {
    let path = FOLDER.path().join("model.gguf");
    fs::write(&path, bytes).expect("a file in it");
    match engine_assets::open(&path) {
        // What opens must also be usable, or refused again, by what comes next.
        Ok(model) => drop(engine_text::Text::new(&model.text)),
        Err(error) => assert!(!error.to_string().contains('\n')),
    }
});
