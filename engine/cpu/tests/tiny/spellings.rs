//! The same weights under other spellings of their configuration: they answer as transformers does, or are refused by name
//! (`tests/fixtures/spellings.json`, which `tests/parity/spellings.py` holds against transformers).

use std::path::Path;

use serde::Deserialize;
use serde_json::{Map, Value};
use tempfile::TempDir;

use crate::checkpoints::load;
use crate::support::{Golden, fixtures, generate, options};

#[derive(Deserialize)]
struct Case {
    case: String,
    /// A folder of `tests/fixtures/models`, whose `config.json` is changed.
    model: String,
    #[serde(default)]
    remove: Vec<String>,
    #[serde(default)]
    set: Map<String, Value>,
    /// The parts of the refusal. Empty: the folder loads, and answers as its golden says.
    #[serde(default)]
    refused: Vec<String>,
    warned: Option<String>,
}

/// A folder with the model's files, but for its configuration.
fn respelled(case: &Case, model: &Path) -> TempDir {
    let folder = TempDir::new().expect("a temporary folder");
    for entry in std::fs::read_dir(model).expect("the fixture is there").map(|entry| entry.expect("an entry")) {
        std::os::unix::fs::symlink(entry.path(), folder.path().join(entry.file_name())).expect("a link");
    }
    let config = folder.path().join("config.json");
    let text = std::fs::read_to_string(&config).expect("a configuration");
    let mut json: Map<String, Value> = serde_json::from_str(&text).expect("JSON");
    for key in &case.remove {
        assert!(json.remove(key).is_some() || key == "num_local_experts", "{}: there is no {key} to remove", case.case);
    }
    json.extend(case.set.clone());
    std::fs::remove_file(&config).expect("a link can go");
    std::fs::write(config, serde_json::to_vec(&json).expect("JSON")).expect("a file");
    folder
}

fn check(case: &Case) {
    let name = &case.case;
    let model = fixtures().join("models").join(&case.model);
    let folder = respelled(case, &model);
    let opened = engine_assets::open(folder.path());
    if !case.refused.is_empty() {
        let line = opened.map(|_| ()).expect_err(name).to_string();
        for part in &case.refused {
            assert!(line.contains(part), "{name}: does not say {part:?}: {line}");
        }
        return;
    }
    let warnings = opened.unwrap_or_else(|error| panic!("{name}: {error}")).warnings;
    match &case.warned {
        None => assert_eq!(warnings, Vec::<String>::new(), "{name}"),
        Some(of) => assert!(warnings.len() == 1 && warnings[0].contains(of), "{name}: {warnings:?}"),
    }
    let golden = Golden::read(&model.join("golden.json"));
    let got = generate(&mut load(folder.path(), &options()), &golden.requests(), usize::MAX);
    for (golden, got) in golden.cases.iter().zip(got) {
        assert_eq!(got, golden.output_ids, "{name}: prompt {:?}", golden.prompt);
    }
}

#[test]
fn spellings_answer_alike_or_are_refused_by_name() {
    let text = std::fs::read_to_string(fixtures().join("spellings.json")).expect("the cases are there");
    let cases: Vec<Case> = serde_json::from_str(&text).expect("cases");
    assert!(cases.len() >= 25, "cases are missing");
    cases.iter().for_each(check);
}
