//! Who may import whom, and where unsafe and wire types may stand: docs/ARCHITECTURE.md as a test.
#![forbid(unsafe_code)]

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use tests::tree;

/// Every crate of the workspace, and all of ours that it may import. Dev-dependencies are free: a test may look anywhere.
const ARROWS: &[(&str, &str, &[&str])] = &[
    ("domain", "domain", &[]),
    ("proto", "proto", &["domain"]),
    ("engine", "engine", &["domain", "engine-assets"]),
    ("engine-assets", "engine/assets", &[]),
    ("engine-text", "engine/text", &["domain", "engine-assets"]),
    ("engine-cpu", "engine/cpu", &["domain", "engine", "engine-assets"]),
    ("engine-cuda", "engine/cuda", &["domain", "engine"]),
    ("engine-serve", "engine/serve", &["domain", "proto", "engine", "engine-assets", "engine-text", "engine-cpu", "engine-cuda"]),
    ("ebpf-abi", "ebpf/abi", &[]),
    ("ebpf", "ebpf", &["domain", "ebpf-abi"]),
    ("nvml", "daemon/nvml", &[]),
    ("nvml-fake", "daemon/nvml/fake", &[]),
    ("daemon", "daemon", &["domain", "proto", "ebpf", "nvml", "engine-assets"]),
    ("scheduler", "scheduler", &["domain", "proto", "engine-assets", "engine-text"]),
    ("trackside", "cli", &["domain", "engine-assets", "engine-cuda", "engine-serve", "ebpf", "daemon", "scheduler"]),
];

/// Crates whose job is unsafe; every other crate root forbids it.
const UNSAFE: &[&str] = &["engine-cpu", "engine-cuda", "ebpf", "nvml", "nvml-fake"];

/// Crates that speak a protocol in their `edge` modules only.
const EDGED: &[&str] = &["daemon", "engine-serve", "scheduler"];

/// Names in the `[dependencies]` and `[build-dependencies]` tables of a manifest.
fn dependencies(manifest: &str) -> BTreeSet<String> {
    let mut wanted = false;
    let mut names = BTreeSet::new();
    for line in manifest.lines().map(str::trim) {
        if line.starts_with('[') {
            wanted = ["dependencies]", "build-dependencies]"].iter().any(|end| line == format!("[{end}"))
                || (line.starts_with("[target.") && line.ends_with(".dependencies]"));
        } else if wanted && let Some(end) = line.find(['.', '=', ' ']) {
            names.insert(line[..end].to_owned());
        }
    }
    names
}

#[test]
fn crates_import_along_the_declared_arrows_only() {
    let root = tree::root();
    let ours: BTreeSet<&str> = ARROWS.iter().map(|(name, ..)| *name).collect();
    let mut wrong = Vec::new();
    for (name, folder, may) in ARROWS {
        for used in dependencies(&tree::read(&root.join(folder).join("Cargo.toml"))) {
            if ours.contains(used.as_str()) && !may.contains(&used.as_str()) {
                wrong.push(format!("{name} imports {used}"));
            }
        }
    }
    assert_eq!(wrong, Vec::<String>::new(), "draw the arrow in docs/decisions/ first, then here");
}

#[test]
fn every_member_of_the_workspace_is_in_the_table() {
    let manifest = tree::read(&tree::root().join("Cargo.toml"));
    let members = manifest.split_once("members = [").and_then(|(_, rest)| rest.split_once(']')).expect("a member list").0;
    let members: BTreeSet<&str> =
        members.lines().map(|line| line.trim().trim_matches(['"', ','])).filter(|line| !line.is_empty()).collect();
    let mut table: BTreeSet<&str> = ARROWS.iter().map(|(_, folder, _)| *folder).collect();
    table.insert("tests");
    assert_eq!(members, table);
}

#[test]
fn unsafe_is_forbidden_where_it_is_not_the_crates_job() {
    let root = tree::root();
    for (name, folder, _) in ARROWS {
        let text = tree::read(&root.join(folder).join("src/lib.rs"));
        assert_eq!(text.contains("#![forbid(unsafe_code)]"), !UNSAFE.contains(name), "{name}");
    }
}

#[test]
fn wire_types_stay_at_the_edge() {
    let root = tree::root();
    let folders: BTreeMap<&str, &str> = ARROWS.iter().map(|(name, folder, _)| (*name, *folder)).collect();
    let mut wrong = Vec::new();
    for name in EDGED {
        let src = root.join(folders[name]).join("src");
        for file in tree::files(&src, "rs") {
            let inside = file.strip_prefix(&src).expect("below src");
            let edge = inside.starts_with("edge") || inside == Path::new("edge.rs");
            for (number, line) in tree::read(&file).lines().enumerate() {
                let code = line.split("//").next().unwrap_or_default();
                let word = |at: usize| !code[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_');
                let speaks = code.match_indices("proto::").any(|(at, _)| word(at));
                if !edge && speaks {
                    wrong.push(format!("{}:{}: {}", file.display(), number + 1, line.trim()));
                }
            }
        }
    }
    assert_eq!(wrong, Vec::<String>::new(), "convert to a noun of `domain` at the edge");
}
