//! A GGUF file: header, metadata and tensor table. Versions 2 and 3, little-endian.
//!
//! Format: <https://github.com/ggml-org/ggml/blob/master/docs/gguf.md>.

mod config;
mod metadata;
mod reader;
mod table;
mod text;

use std::fs::File;
use std::io::BufReader;
use std::path::Path;

use crate::architecture::{Architecture, Names, unread_warning};
use crate::error::{AssetsError, ErrorKind, Quoted};
use crate::file;
use crate::gguf::metadata::{MAX_PAIRS, Metadata};
use crate::gguf::reader::Reader;
use crate::{Format, ModelAssets};

const MAGIC: [u8; 4] = *b"GGUF";
const VERSIONS: std::ops::RangeInclusive<u32> = 2..=3;

/// Opens the file.
pub(crate) fn open(path: &Path) -> Result<ModelAssets, AssetsError> {
    let (file, bytes) = file::open_regular(path)?;
    let mut reader = Reader::new(path, BufReader::with_capacity(1 << 16, file), bytes);
    let (tensors, pairs) = header(&mut reader)?;
    let mut metadata = Metadata::read(&mut reader, pairs)?;
    if let Some(count) = metadata.optional_unsigned("split.count")?.filter(|count| *count > 1) {
        let what = format!("the model is split into {count} files, which is not supported");
        return Err(metadata.error(
            ErrorKind::Unsupported,
            "split.count",
            what,
            "join them first (llama-gguf-split --merge), and give the joined file",
        ));
    }
    let architecture = architecture(&metadata)?;
    let mut found = table::read(&mut reader, tensors, &metadata)?;
    let mut warnings = Vec::new();
    let factors = table::take_rope_factors(path, &mut found)?;
    let (text, generation) = text::read(&mut metadata, &mut warnings)?;
    let tokens = text.vocabulary_len();
    let config = config::read(architecture, &metadata, &found, tokens, factors)?;
    let tensors = architecture.select(&config, Names::Gguf, vec![path.to_path_buf()], &mut found, path)?;
    warnings.extend(unread_warning(path, &found));
    Ok(ModelAssets { path: path.to_path_buf(), format: Format::Gguf, config, generation, tensors, text, warnings })
}

/// Reads the fixed part: numbers of tensors and of metadata pairs.
fn header(reader: &mut Reader<BufReader<File>>) -> Result<(u64, u64), AssetsError> {
    let magic: [u8; 4] = reader.array()?;
    if magic == *b"vers" {
        return Err(file::git_lfs_pointer(reader.path()));
    }
    if magic != MAGIC {
        return Err(reader.error(ErrorKind::Malformed, "does not begin with GGUF").at(0));
    }
    let version = reader.u32()?;
    if VERSIONS.contains(&version.swap_bytes()) {
        return Err(reader.error(ErrorKind::Unsupported, "is big-endian").at(4));
    }
    if !VERSIONS.contains(&version) {
        return Err(reader.error(ErrorKind::Unsupported, format!("is GGUF version {version}; 2 and 3 are supported")).at(4));
    }
    let tensors = reader.u64()?;
    if tensors > table::MAX_TENSORS {
        return Err(reader
            .error(ErrorKind::TooLarge, format!("claims {tensors} tensors; at most {} are read", table::MAX_TENSORS))
            .at(8));
    }
    let pairs = reader.u64()?;
    if pairs > MAX_PAIRS {
        return Err(reader
            .error(ErrorKind::TooLarge, format!("claims {pairs} metadata pairs; at most {MAX_PAIRS} are read"))
            .at(16));
    }
    Ok((tensors, pairs))
}

fn architecture(metadata: &Metadata) -> Result<&'static Architecture, AssetsError> {
    const KEY: &str = "general.architecture";
    let name = metadata.string(KEY)?;
    Architecture::by_name(name).ok_or_else(|| {
        let what = format!("architecture {} is not supported", Quoted(name));
        metadata.error(ErrorKind::Unsupported, KEY, what, format!("supported: {}", Architecture::supported()))
    })
}
