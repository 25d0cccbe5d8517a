//! Random damage to good and hostile files, through the public door: an answer or an error, never a panic or a hang.
//!
//! The seeds are those of the fuzzers (`tests/fuzz/corpus`), which search deeper and for longer.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use proptest::prelude::*;
use proptest::sample::Index;

use crate::folder::{Folder, safetensors};
use crate::gguf::{Gguf, open_bytes};

fn corpus(target: &str) -> Vec<Vec<u8>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fuzz/corpus").join(target);
    let mut files: Vec<PathBuf> = fs::read_dir(&folder)
        .unwrap_or_else(|error| panic!("{}: {error}", folder.display()))
        .map(|entry| entry.expect("test files").path())
        .collect();
    files.sort();
    assert!(!files.is_empty(), "{}: no seeds", folder.display());
    files.iter().map(|file| fs::read(file).expect("test files")).collect()
}

/// Cuts a file and overwrites some of its bytes.
fn damage(mut bytes: Vec<u8>, cut: Option<Index>, writes: &[(Index, u8)]) -> Vec<u8> {
    if let Some(cut) = cut.filter(|_| !bytes.is_empty()) {
        bytes.truncate(cut.index(bytes.len()));
    }
    for (at, byte) in writes {
        if let Some(last) = bytes.len().checked_sub(1) {
            bytes[at.index(last + 1)] = *byte;
        }
    }
    bytes
}

fn writes() -> impl Strategy<Value = Vec<(Index, u8)>> {
    prop::collection::vec((any::<Index>(), prop_oneof![any::<u8>(), Just(0), Just(0xFF), Just(0x7F)]), 0..6)
}

/// Opens a folder in which one file has this content. Its error must be one line.
fn open_with(name: &str, content: &[u8]) {
    let folder = Folder::new();
    fs::write(folder.path().join(name), content).expect("test files");
    if let Err(error) = engine_assets::open(folder.path()) {
        assert!(!error.to_string().contains('\n'), "{error}");
    }
}

#[test]
fn the_fuzzers_corpus_is_harmless() {
    corpus("gguf").iter().for_each(|bytes| drop(open_bytes(bytes)));
    corpus("safetensors").iter().for_each(|bytes| open_with("model.safetensors", bytes));
    corpus("config").iter().for_each(|bytes| open_with("config.json", bytes));
    corpus("text_assets").iter().for_each(|bytes| drop(engine_assets::TextAssets::from_bytes(bytes)));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn damaged_gguf(seed in any::<Index>(), cut in prop::option::of(any::<Index>()), writes in writes()) {
        let mut seeds = corpus("gguf");
        seeds.push(Gguf::good(16).bytes());
        let seed = seeds.swap_remove(seed.index(seeds.len()));
        // The data behind the header is zeros that nobody parses: damage belongs into the header.
        let header = seed.len().min(2048);
        let mut bytes = damage(seed[..header].to_vec(), cut, &writes);
        if cut.is_none() {
            bytes.extend(&seed[header..]);
        }
        if let Err(error) = open_bytes(&bytes) {
            prop_assert!(!error.to_string().contains('\n'));
        }
    }

    #[test]
    fn damaged_safetensors(seed in any::<Index>(), cut in prop::option::of(any::<Index>()), writes in writes()) {
        let mut seeds = corpus("safetensors");
        seeds.push(safetensors(&BTreeMap::from([("a".to_owned(), vec![2, 3]), ("b".to_owned(), vec![4])]), "F16"));
        open_with("model.safetensors", &damage(seeds.swap_remove(seed.index(seeds.len())), cut, &writes));
    }

    #[test]
    fn damaged_config(seed in any::<Index>(), cut in prop::option::of(any::<Index>()), writes in writes()) {
        let mut seeds = corpus("config");
        open_with("config.json", &damage(seeds.swap_remove(seed.index(seeds.len())), cut, &writes));
    }
}
