//! Case B10: a model in two GGUF files loads whole from either, or says which is missing.

use std::fs;

use engine_assets::{AssetsError, ErrorKind, ModelAssets};
use tempfile::TempDir;

use crate::gguf::{Gguf, Value};

fn u16_(n: u16) -> Value {
    Value(2, n.to_le_bytes().to_vec())
}

/// The good model with its last three tensors in a second file, as `llama-gguf-split` writes them.
fn halves() -> [Gguf; 2] {
    let good = Gguf::good(16);
    let (first, second) = good.tensors.split_at(good.tensors.len() - 3);
    let numbered = |gguf: Gguf, number| {
        gguf.pair("split.no", u16_(number)).pair("split.count", u16_(2)).pair("split.tensors.count", u16_(11))
    };
    [
        numbered(Gguf { tensors: first.to_vec(), ..good.clone() }, 0),
        numbered(Gguf { tensors: second.to_vec(), pairs: vec![], ..good.clone() }, 1),
    ]
}

const NAMES: [&str; 2] = ["m-00001-of-00002.gguf", "m-00002-of-00002.gguf"];

/// Writes the files that there are and opens one.
fn open(files: &[(&str, &Gguf)], given: &str) -> Result<ModelAssets, Box<AssetsError>> {
    let folder = TempDir::new().expect("a folder");
    for (name, gguf) in files {
        fs::write(folder.path().join(name), gguf.bytes()).expect("test files");
    }
    engine_assets::open(&folder.path().join(given)).map_err(Box::new)
}

#[track_caller]
fn refuses(files: &[(&str, &Gguf)], given: &str, kind: ErrorKind, says: &[&str]) {
    let error = open(files, given).map(|_| ()).expect_err("was opened");
    assert_eq!(error.kind, kind, "{error}");
    for part in says {
        assert!(error.to_string().contains(part), "does not say {part:?}: {error}");
    }
}

#[test]
fn either_file_opens_the_whole() {
    let [first, second] = halves();
    for given in NAMES {
        let model = open(&[(NAMES[0], &first), (NAMES[1], &second)], given).unwrap_or_else(|error| panic!("{error}"));
        assert_eq!((model.tensors.files.len(), model.tensors.by_name.len()), (2, 11));
        let file_of = |tensor: &str| model.tensors.get(tensor).unwrap().file;
        assert_eq!((file_of("model.embed_tokens.weight"), file_of("model.layers.0.mlp.down_proj.weight")), (0, 1));
    }
    let alone = Gguf::good(16).pair("split.no", u16_(0)).pair("split.count", u16_(1));
    assert!(open(&[("m-00001-of-00001.gguf", &alone)], "m-00001-of-00001.gguf").is_ok());
}

#[test]
fn never_half() {
    use ErrorKind::*;
    let [first, second] = halves();
    refuses(&[(NAMES[1], &second)], NAMES[1], Missing, &[NAMES[0], "file 1 of the model's 2"]);
    refuses(&[(NAMES[0], &first)], NAMES[0], Missing, &[NAMES[1], "incomplete download?"]);
    refuses(&[("renamed.gguf", &first)], "renamed.gguf", Missing, &["split.count", "NAME-00001-of-00002.gguf"]);
    let three = second.clone().replace("split.count", u16_(3));
    refuses(&[(NAMES[0], &first), (NAMES[1], &three)], NAMES[0], Mismatch, &[NAMES[1], "split.count", "is 3"]);
    refuses(&[(NAMES[0], &first), (NAMES[1], &first)], NAMES[0], Mismatch, &[NAMES[1], "split.no", "is 0"]);
    let repeated = Gguf { tensors: first.tensors.clone(), ..second.clone() };
    refuses(&[(NAMES[0], &first), (NAMES[1], &repeated)], NAMES[0], Malformed, &[NAMES[1], "earlier file"]);
    let fewer = Gguf { tensors: second.tensors[1..].to_vec(), ..second.clone() };
    refuses(&[(NAMES[0], &first), (NAMES[1], &fewer)], NAMES[0], Mismatch, &["split.tensors.count", "is 11"]);
    let endless = first.clone().replace("split.count", Value(4, 100_000u32.to_le_bytes().to_vec()));
    refuses(&[(NAMES[0], &endless)], NAMES[0], TooLarge, &["split.count", "100000"]);
}
