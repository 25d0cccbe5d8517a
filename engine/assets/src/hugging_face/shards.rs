//! The weights of a folder: one `model.safetensors`, or shards that an index names.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use crate::architecture::Found;
use crate::error::{AssetsError, ErrorKind, Quoted};
use crate::file::{self, MAX_INDEX_BYTES};
use crate::safetensors;

const SINGLE: &str = "model.safetensors";
const INDEX: &str = "model.safetensors.index.json";
/// Most shards of one model; the largest published ones have 252.
const MAX_SHARDS: usize = 4096;

#[derive(Deserialize)]
struct Index {
    weight_map: BTreeMap<String, String>,
}

/// Reads all headers: the files, and every tensor in them.
pub(super) fn read(folder: &Path, warnings: &mut Vec<String>) -> Result<(Vec<PathBuf>, BTreeMap<String, Found>), AssetsError> {
    // transformers looks for the single file first, too.
    let single = folder.join(SINGLE);
    if single.symlink_metadata().is_ok() {
        let found = safetensors::read_header(&single, 0)?;
        return Ok((vec![single], found));
    }
    let path = folder.join(INDEX);
    let Some(content) = file::read_optional(&path, MAX_INDEX_BYTES)? else {
        return Err(AssetsError::new(
            ErrorKind::Missing,
            folder,
            format!("holds neither {SINGLE} nor {INDEX}"),
            "incomplete download? weights in other formats must be converted to safetensors",
        ));
    };
    let Index { weight_map } = file::parse_json(&path, &content)?;
    sharded(folder, &path, weight_map, warnings)
}

fn sharded(
    folder: &Path,
    index: &Path,
    weight_map: BTreeMap<String, String>,
    warnings: &mut Vec<String>,
) -> Result<(Vec<PathBuf>, BTreeMap<String, Found>), AssetsError> {
    let mut shards: Vec<&str> = weight_map.values().map(String::as_str).collect();
    shards.sort_unstable();
    shards.dedup();
    if shards.len() > MAX_SHARDS {
        return Err(AssetsError::new(
            ErrorKind::TooLarge,
            index,
            format!("names {} shards; at most {MAX_SHARDS} are read", shards.len()),
            "check the file",
        ));
    }
    let mut files = Vec::with_capacity(shards.len());
    let mut found: BTreeMap<String, Found> = BTreeMap::new();
    let (mut twice, mut unlisted) = (Vec::new(), Vec::new());
    for shard in &shards {
        // An index is data from a stranger: it may name files of this folder and nothing else.
        if Path::new(shard).file_name().is_none_or(|name| name != *shard) {
            return Err(AssetsError::new(
                ErrorKind::Malformed,
                index,
                format!("names the shard {}, which is no plain file name", Quoted(shard)),
                "fetch the file again",
            ));
        }
        let path = folder.join(shard);
        if !path.exists() {
            let tensor = weight_map.iter().find(|(_, file)| file == shard).map(|(tensor, _)| tensor.as_str()).unwrap_or_default();
            let what = format!(
                "the shard that {INDEX} names does not exist (and with it {} tensors)",
                weight_map.values().filter(|file| file == shard).count()
            );
            return Err(AssetsError::new(ErrorKind::Missing, &path, what, "incomplete download? fetch the shard").tensor(tensor));
        }
        for (name, tensor) in safetensors::read_header(&path, files.len())? {
            match weight_map.get(&name) {
                // A tensor may lie in two shards of a badly edited folder: the one that the index names counts.
                Some(named) if named != shard => twice.push(name),
                Some(_) => drop(found.insert(name, tensor)),
                None if found.contains_key(&name) => twice.push(name),
                None => {
                    unlisted.push(name.clone());
                    found.insert(name, tensor);
                }
            }
        }
        files.push(path);
    }
    for (odd, names) in [("also in a shard that the index does not name", &twice), ("in a shard but not in the index", &unlisted)]
    {
        if let Some(first) = names.first() {
            warnings.push(format!("{}: {} tensors lie {odd}, such as {}", index.display(), names.len(), Quoted(first)));
        }
    }
    for (name, shard) in &weight_map {
        let in_its_shard = found.get(name).is_some_and(|tensor| files.get(tensor.file) == Some(&folder.join(shard)));
        if !in_its_shard {
            let what = format!("{INDEX} says that it lies in this shard, but it does not");
            return Err(AssetsError::new(
                ErrorKind::Missing,
                &folder.join(shard),
                what,
                "incomplete download? fetch index and shards of one revision",
            )
            .tensor(name));
        }
    }
    Ok((files, found))
}
