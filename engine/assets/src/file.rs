//! Reading a model's small files whole, within a maximum, and its JSON with the forgiveness that real files need.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use serde::de::DeserializeOwned;

use crate::error::{AssetsError, ErrorKind};

/// The largest JSON file that is a configuration.
pub(crate) const MAX_CONFIG_BYTES: u64 = 4 << 20;
/// The largest `model.safetensors.index.json`: a million tensors fit.
pub(crate) const MAX_INDEX_BYTES: u64 = 64 << 20;
/// The largest tokenizer file; half of what an upload to a scheduler may carry.
pub(crate) const MAX_TOKENIZER_BYTES: u64 = 48 << 20;

/// Opens a regular file and tells its length. A folder, pipe or device is refused: reading one could wait for ever.
pub(crate) fn open_regular(path: &Path) -> Result<(File, u64), AssetsError> {
    let found = std::fs::metadata(path).map_err(|error| AssetsError::io(path, "open", &error))?;
    if !found.is_file() {
        return Err(AssetsError::new(ErrorKind::Malformed, path, "is not a regular file", "replace it by the model's file"));
    }
    let file = File::open(path).map_err(|error| AssetsError::io(path, "open", &error))?;
    Ok((file, found.len()))
}

/// Reads a whole file of at most `max` bytes.
pub(crate) fn read(path: &Path, max: u64) -> Result<Vec<u8>, AssetsError> {
    let (file, bytes) = open_regular(path)?;
    let too_large = |bytes: u64| {
        AssetsError::new(
            ErrorKind::TooLarge,
            path,
            format!("is {bytes} bytes; at most {max} are read"),
            "check that it is the right file",
        )
    };
    if bytes > max {
        return Err(too_large(bytes));
    }
    let mut content = Vec::with_capacity(bytes as usize);
    // The file may grow while it is read, so the limit holds for the reading, not only for the length seen before.
    file.take(max + 1).read_to_end(&mut content).map_err(|error| AssetsError::io(path, "read", &error))?;
    if content.len() as u64 > max {
        return Err(too_large(content.len() as u64));
    }
    if content.starts_with(b"version https://git-lfs.github.com/spec/") {
        return Err(git_lfs_pointer(path));
    }
    Ok(content)
}

/// As [`read`], but a file that does not exist is `None`.
pub(crate) fn read_optional(path: &Path, max: u64) -> Result<Option<Vec<u8>>, AssetsError> {
    match std::fs::symlink_metadata(path) {
        // A dangling link is a download gone wrong, not an absent file: `read` says so.
        Ok(_) => read(path, max).map(Some),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(AssetsError::io(path, "open", &error)),
    }
}

/// Parses JSON. A byte order mark is skipped, as RFC 8259 §8.1 allows.
pub(crate) fn parse_json<T: DeserializeOwned>(path: &Path, content: &[u8]) -> Result<T, AssetsError> {
    serde_json::from_slice(without_bom(content)).map_err(|error| {
        let what = if content.is_empty() { "is empty".to_owned() } else { format!("is not the JSON expected: {error}") };
        AssetsError::new(ErrorKind::Malformed, path, what, "fetch the file again, or correct it")
    })
}

/// The bytes after a UTF-8 byte order mark, if there is one.
pub(crate) fn without_bom(content: &[u8]) -> &[u8] {
    content.strip_prefix(b"\xEF\xBB\xBF").unwrap_or(content)
}

/// The file is the text that git puts in place of a large file until it is fetched.
pub(crate) fn git_lfs_pointer(path: &Path) -> AssetsError {
    AssetsError::new(
        ErrorKind::Truncated,
        path,
        "is a git-lfs pointer, not the file itself",
        "incomplete download? run `git lfs pull` in the model's folder",
    )
}
