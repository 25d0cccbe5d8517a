//! A model in several GGUF files, as `llama-gguf-split` makes them: `NAME-00001-of-00003.gguf`, numbered from 1 in names and from 0
//! inside (`split.no`). The first holds the metadata, each its own tensors. Any of them may be given; all are needed.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::Part;
use super::metadata::Metadata;
use crate::architecture::Found;
use crate::error::{AssetsError, ErrorKind, Quoted};

/// Most files of one model.
const MAX_FILES: u64 = 1024;

const COUNT: &str = "split.count";
const NUMBER: &str = "split.no";
const TENSORS: &str = "split.tensors.count";

/// How many files the model has; 1 where nothing is said.
pub(super) fn count(metadata: &Metadata) -> Result<u64, AssetsError> {
    match metadata.optional_unsigned(COUNT)?.unwrap_or(1) {
        count if count <= MAX_FILES => Ok(count.max(1)),
        count => {
            Err(metadata.error(ErrorKind::TooLarge, COUNT, format!("is {count}; at most {MAX_FILES} are read"), "check the file"))
        }
    }
}

/// Reads all files of the model of which `given` is one: the paths in order, the metadata of the first, and the tensors of all.
pub(super) fn read(given: &Path, metadata: &Metadata, count: u64) -> Result<(Vec<PathBuf>, Part), AssetsError> {
    let files = files(given, metadata, count)?;
    let mut whole: Option<Part> = None;
    for (number, file) in files.iter().enumerate() {
        let part = Part::read(file, number)?;
        agrees(&part.metadata, number as u64, count)?;
        match &mut whole {
            None => whole = Some(part),
            Some(whole) => merge(&mut whole.found, part, file)?,
        }
    }
    let whole = whole.ok_or_else(|| metadata.error(ErrorKind::Malformed, COUNT, "is 0", "fetch the file again"))?;
    if let Some(tensors) = whole.metadata.optional_unsigned(TENSORS)?
        && tensors != whole.found.len() as u64
    {
        let what = format!("is {tensors}, and the {count} files hold {} tensors", whole.found.len());
        return Err(whole.metadata.error(
            ErrorKind::Mismatch,
            TENSORS,
            what,
            "the files are of different models; fetch them again",
        ));
    }
    Ok((files, whole))
}

/// The names of all files, from the name of one.
fn files(given: &Path, metadata: &Metadata, count: u64) -> Result<Vec<PathBuf>, AssetsError> {
    let name = given.file_stem().and_then(|stem| stem.to_str()).unwrap_or_default();
    let ending = format!("-of-{count:05}");
    let prefix = name.strip_suffix(&ending).and_then(|name| name.rsplit_once('-')).map(|(prefix, _)| prefix);
    let Some(prefix) = prefix else {
        let what = format!("the model is split into {count} files, and the name does not say how the others are called");
        return Err(metadata.error(
            ErrorKind::Missing,
            COUNT,
            what,
            format!("rename the files to NAME-00001{ending}.gguf and so on"),
        ));
    };
    (1..=count)
        .map(|number| {
            let file = given.with_file_name(format!("{prefix}-{number:05}{ending}.gguf"));
            if file.exists() {
                return Ok(file);
            }
            let what = format!("file {number} of the model's {count} does not exist");
            Err(AssetsError::new(ErrorKind::Missing, &file, what, "incomplete download? fetch it"))
        })
        .collect()
}

/// Each file says where it belongs.
fn agrees(metadata: &Metadata, number: u64, count: u64) -> Result<(), AssetsError> {
    for (key, expected) in [(NUMBER, number), (COUNT, count)] {
        match metadata.optional_unsigned(key)? {
            Some(found) if found == expected => {}
            found => {
                let found = found.map_or("missing".to_owned(), |found| found.to_string());
                let what = format!("is {found}, and {expected} in the other files and their names");
                return Err(metadata.error(
                    ErrorKind::Mismatch,
                    key,
                    what,
                    "the files are of different models; fetch them again",
                ));
            }
        }
    }
    Ok(())
}

fn merge(whole: &mut BTreeMap<String, Found>, part: Part, file: &Path) -> Result<(), AssetsError> {
    for (name, tensor) in part.found {
        if whole.contains_key(&name) {
            let what = format!("{} lies in an earlier file of the model, too", Quoted(&name));
            return Err(AssetsError::new(
                ErrorKind::Malformed,
                file,
                what,
                "the files are of different models; fetch them again",
            )
            .tensor(&name));
        }
        whole.insert(name, tensor);
    }
    Ok(())
}
