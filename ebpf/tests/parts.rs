//! A probe has one name in all its parts: the kernel side, the agreement, the user side, the table, the committed object and its tests.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// Names of a folder's files that end so, without the ending.
fn names(folder: &str, ending: &str) -> BTreeSet<String> {
    let folder: PathBuf = Path::new(env!("CARGO_MANIFEST_DIR")).join(folder);
    fs::read_dir(&folder)
        .unwrap_or_else(|error| panic!("{}: {error}", folder.display()))
        .filter_map(|entry| {
            entry.expect("the folder can be listed").file_name().into_string().ok()?.strip_suffix(ending).map(String::from)
        })
        .filter(|name| name != "lib" && name != "parts")
        .collect()
}

#[test]
fn every_part_has_the_probes_of_the_table() {
    let table: BTreeSet<String> = ebpf::PROBES.iter().map(|probe| probe.name.to_string()).collect();
    for (folder, ending) in
        [("programs/src", ".rs"), ("abi/src", ".rs"), ("src/probe", ".rs"), ("programs", ".bpf.o"), ("tests", ".rs")]
    {
        assert_eq!(names(folder, ending), table, "{folder}/*{ending}");
    }
}

#[test]
fn the_embedded_object_is_the_committed_one() {
    for probe in ebpf::PROBES {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("programs/{}.bpf.o", probe.name));
        assert_eq!(fs::read(&path).expect("the object is committed"), probe.object, "{}", path.display());
        assert_eq!(probe.object.first_chunk(), Some(b"\x7fELF"));
    }
}
