//! A GGUF file: header, metadata and tensor table. Versions 2 and 3, little-endian.
//!
//! Format: <https://github.com/ggml-org/ggml/blob/master/docs/gguf.md>.

mod config;
mod metadata;
mod reader;
mod rope;
mod split;
mod table;
mod text;

use std::collections::BTreeMap;
use std::fs::File;
use std::io::BufReader;
use std::path::Path;

use crate::architecture::{Architecture, Found, Names, unread_warning};
use crate::error::{AssetsError, ErrorKind, Quoted};
use crate::file;
use crate::gguf::metadata::{MAX_PAIRS, Metadata};
use crate::gguf::reader::Reader;
use crate::pooling::{Pooling, PoolingConfig};
use crate::{Format, ModelAssets};

const MAGIC: [u8; 4] = *b"GGUF";
const VERSIONS: std::ops::RangeInclusive<u32> = 2..=3;

/// Opens the file, and with it the others where the model is split.
pub(crate) fn open(path: &Path) -> Result<ModelAssets, AssetsError> {
    let given = Part::read(path, 0)?;
    let (files, part) = match split::count(&given.metadata)? {
        1 => (vec![path.to_path_buf()], given),
        count => split::read(path, &given.metadata, count)?,
    };
    let Part { mut metadata, mut found } = part;
    let architecture = architecture(&metadata)?;
    let mut warnings = Vec::new();
    let factors = table::take_rope_factors(&files, &mut found)?;
    let (text, generation) = text::read(&mut metadata, &mut warnings)?;
    let config = config::read(architecture, &metadata, &found, text.vocabulary_len(), factors)?;
    let (pooling, pools) = pooling(&metadata)?;
    let tensors = architecture.select(&config, Names::Gguf, files, &mut found, path)?;
    warnings.extend(unread_warning(path, &found));
    Ok(ModelAssets {
        path: path.to_path_buf(),
        format: Format::Gguf,
        config,
        pooling,
        pools,
        generation,
        tensors,
        text,
        warnings,
    })
}

/// The header of one file.
struct Part {
    metadata: Metadata,
    found: BTreeMap<String, Found>,
}

impl Part {
    /// Reads it; `number` is the file's place among those of the model.
    fn read(path: &Path, number: usize) -> Result<Self, AssetsError> {
        let (file, bytes) = file::open_regular(path)?;
        let mut reader = Reader::new(path, BufReader::with_capacity(1 << 16, file), bytes);
        let (tensors, pairs) = header(&mut reader)?;
        let metadata = Metadata::read(&mut reader, pairs)?;
        let mut found = table::read(&mut reader, tensors, &metadata)?;
        found.values_mut().for_each(|tensor| tensor.file = number);
        Ok(Self { metadata, found })
    }
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

/// `ARCHITECTURE.pooling_type` of llama.cpp, whose server divides vectors by their length.
fn pooling(metadata: &Metadata) -> Result<(PoolingConfig, bool), AssetsError> {
    let key = format!("{}.pooling_type", metadata.string("general.architecture")?);
    let pooling = match metadata.optional_unsigned(&key)?.unwrap_or(0) {
        0 => return Ok((PoolingConfig::default(), false)),
        1 => Pooling::Mean,
        2 => Pooling::Cls,
        3 => Pooling::Last,
        other => {
            let what = format!("pooling of type {other} is not supported");
            return Err(metadata.error(ErrorKind::Unsupported, &key, what, "supported: 0 (none), 1 (mean), 2 (cls), 3 (last)"));
        }
    };
    Ok((PoolingConfig { pooling, ..PoolingConfig::default() }, true))
}

fn architecture(metadata: &Metadata) -> Result<&'static Architecture, AssetsError> {
    const KEY: &str = "general.architecture";
    let name = metadata.string(KEY)?;
    let experts = metadata.optional_unsigned(&format!("{name}.expert_count"))?.is_some_and(|count| count > 0);
    Architecture::by_gguf(name, experts).ok_or_else(|| {
        let what = format!("architecture {} is not supported", Quoted(name));
        metadata.error(ErrorKind::Unsupported, KEY, what, format!("supported: {}", Architecture::supported()))
    })
}
