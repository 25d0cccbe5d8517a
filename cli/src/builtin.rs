//! The built-in model: in the binary, unpacked to the cache folder under its digest, served under the name `builtin`.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use domain::{Fault, FaultKind};
use sha2::{Digest, Sha256};

use crate::hub;

/// The name by which every command knows the built-in model.
pub const NAME: &str = "builtin";

static MODEL: &[u8] = include_bytes!("../builtin/trackside-builtin.gguf");

/// Turns what the user wrote behind `--model` into a path: unpacks the built-in model, fetches what is meant to be on the Hub. A folder
/// or file of that name comes first.
pub fn resolve(model: &str) -> Result<PathBuf, Fault> {
    match on_hub(model) {
        _ if model == NAME => unpack(&cache_folder()?),
        Some(id) => hub::fetch(&id, &hub::Settings::from_env()),
        None => Ok(PathBuf::from(model)),
    }
}

/// The id, where a model's name is one and nothing here is called so.
pub fn on_hub(model: &str) -> Option<hub::Id> {
    if Path::new(model).exists() { None } else { hub::Id::parse(model) }
}

/// `$TRACKSIDE_CACHE`, else `$XDG_CACHE_HOME/trackside`, else `~/.cache/trackside`, else a folder of this user below the temporary one.
fn cache_folder() -> Result<PathBuf, Fault> {
    let set = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let folder = set("TRACKSIDE_CACHE")
        .or_else(|| set("XDG_CACHE_HOME").map(|cache| cache.join("trackside")))
        .or_else(|| set("HOME").map(|home| home.join(".cache/trackside")));
    // A service without a home still has its temporary folder; the user's id keeps two users apart.
    Ok(folder.unwrap_or_else(|| std::env::temp_dir().join(format!("trackside-{}", rustix::process::getuid().as_raw()))))
}

fn unpack(folder: &Path) -> Result<PathBuf, Fault> {
    let digest = Sha256::digest(MODEL);
    let name: String = digest.iter().take(8).map(|byte| format!("{byte:02x}")).collect();
    let path = folder.join(format!("builtin-{name}.gguf"));
    // The name says what must be inside; a file cut short by a full disk does not say so and is written again.
    if fs::read(&path).is_ok_and(|found| found == MODEL) {
        return Ok(path);
    }
    let part = folder.join(format!("builtin-{name}.{}.part", std::process::id()));
    let write = || -> std::io::Result<()> {
        fs::create_dir_all(folder)?;
        let mut file = fs::File::create(&part)?;
        file.write_all(MODEL)?;
        file.sync_all()?;
        fs::rename(&part, &path)
    };
    write().map(|()| path.clone()).map_err(|error| {
        let _ = fs::remove_file(&part);
        let what = format!("cannot unpack the built-in model to {}", path.display());
        Fault::new(FaultKind::Storage, what, "free space there, or set TRACKSIDE_CACHE to a folder that can be written")
            .because(error)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unpacks_once_and_again_when_the_copy_is_damaged() {
        let folder = tempfile::tempdir().unwrap();
        let path = unpack(folder.path()).unwrap();
        assert_eq!(fs::read(&path).unwrap(), MODEL);
        fs::write(&path, &MODEL[..1000]).unwrap();
        assert_eq!(unpack(folder.path()).unwrap(), path);
        assert_eq!(fs::read(&path).unwrap(), MODEL);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "no part file is left");
    }

    #[test]
    fn a_folder_that_cannot_be_written_is_a_fault_that_says_so() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let fault = unpack(file.path()).unwrap_err();
        assert_eq!(fault.kind, FaultKind::Storage);
        assert!(fault.to_string().contains("TRACKSIDE_CACHE"), "{fault}");
    }
}
