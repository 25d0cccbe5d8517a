//! safetensors headers: a length, a JSON object of tensors, then their bytes without holes.
//!
//! Format: <https://github.com/huggingface/safetensors#format>.

use std::collections::BTreeMap;
use std::fmt;
use std::io::Read;
use std::path::Path;

use serde::Deserialize;
use serde::de::{IgnoredAny, MapAccess, Visitor};

use crate::architecture::Found;
use crate::error::{AssetsError, ErrorKind};
use crate::file;
use crate::tensors::DType;

/// The largest header that is read. The format allows 100 MB; the largest published shards have 2 MB.
const MAX_HEADER_BYTES: u64 = 32 << 20;
/// Most tensors of one file.
const MAX_TENSORS: usize = 1 << 18;
/// Most dimensions of one tensor.
const MAX_DIMS: usize = 8;

/// Reads one file's header. Byte ranges are absolute; all lie within the file, and cover it without holes or overlaps.
pub(crate) fn read_header(path: &Path, file: usize) -> Result<BTreeMap<String, Found>, AssetsError> {
    let error = |kind, what: String| AssetsError::new(kind, path, what, "incomplete download? fetch the file again");
    let (mut reader, file_bytes) = file::open_regular(path)?;
    let mut prefix = [0u8; 8];
    if file_bytes < 8 {
        return Err(error(ErrorKind::Truncated, format!("has {file_bytes} bytes, too few for a safetensors header")));
    }
    reader.read_exact(&mut prefix).map_err(|e| AssetsError::io(path, "read", &e))?;
    if prefix == *b"version " {
        return Err(file::git_lfs_pointer(path));
    }
    let header_bytes = u64::from_le_bytes(prefix);
    if header_bytes > MAX_HEADER_BYTES {
        return Err(error(
            ErrorKind::Malformed,
            format!("claims a header of {header_bytes} bytes; at most {MAX_HEADER_BYTES} are read"),
        )
        .at(0));
    }
    if header_bytes > file_bytes - 8 {
        return Err(error(
            ErrorKind::Truncated,
            format!("claims a header of {header_bytes} bytes and has {} after its length", file_bytes - 8),
        )
        .at(0));
    }
    let mut header = vec![0u8; header_bytes as usize];
    reader.read_exact(&mut header).map_err(|e| AssetsError::io(path, "read", &e))?;
    let Header(tensors) =
        serde_json::from_slice(&header).map_err(|e| error(ErrorKind::Malformed, format!("has a broken header: {e}")).at(8))?;

    let data = 8 + header_bytes;
    let data_bytes = file_bytes - data;
    let mut found = BTreeMap::new();
    for (name, tensor) in tensors {
        let place = place(&tensor, file, data, data_bytes).map_err(|(kind, what)| error(kind, what).tensor(&name))?;
        found.insert(name, place);
    }
    no_holes(&found, data, data_bytes).map_err(|(kind, what)| error(kind, what))?;
    Ok(found)
}

type Fault = (ErrorKind, String);

fn place(tensor: &Described, file: usize, data: u64, data_bytes: u64) -> Result<Found, Fault> {
    let (begin, end) = tensor.data_offsets;
    if tensor.shape.len() > MAX_DIMS {
        return Err((ErrorKind::Malformed, format!("has {} dimensions; at most {MAX_DIMS} are read", tensor.shape.len())));
    }
    if begin > end {
        return Err((ErrorKind::Malformed, format!("ends at {end} before it begins at {begin}")));
    }
    if end > data_bytes {
        return Err((
            ErrorKind::Truncated,
            format!("ends at byte {} of a file of {}", data.saturating_add(end), data + data_bytes),
        ));
    }
    let dtype = match tensor.dtype.as_str() {
        "F32" => Ok(DType::F32),
        "F16" => Ok(DType::F16),
        "BF16" => Ok(DType::BF16),
        other => Err(other.to_owned()),
    };
    if let Ok(dtype) = dtype {
        let implied = dtype.tensor_bytes(&tensor.shape).map_err(|what| (ErrorKind::Malformed, what))?;
        if implied != end - begin {
            return Err((
                ErrorKind::Malformed,
                format!("has {} bytes, its shape {:?} in {dtype} needs {implied}", end - begin, tensor.shape),
            ));
        }
    }
    Ok(Found { file, dtype, shape: tensor.shape.clone(), offset: data + begin, bytes: end - begin, described_at: None })
}

/// The format demands that tensors cover the data exactly: a byte that belongs to two or to none is a damaged or forged header.
fn no_holes(found: &BTreeMap<String, Found>, data: u64, data_bytes: u64) -> Result<(), Fault> {
    let mut ranges: Vec<(u64, u64, &str)> =
        found.iter().map(|(name, tensor)| (tensor.offset, tensor.bytes, name.as_str())).collect();
    ranges.sort_unstable();
    let mut at = data;
    for (offset, bytes, name) in ranges {
        if offset != at {
            let what = if offset < at { "overlaps the tensor before it" } else { "leaves a hole before it" };
            return Err((ErrorKind::Malformed, format!("tensor {} {what}", crate::error::Quoted(name))));
        }
        at += bytes;
    }
    match (data + data_bytes).checked_sub(at) {
        Some(0) => Ok(()),
        left => Err((ErrorKind::Malformed, format!("has {} bytes after its last tensor", left.unwrap_or_default()))),
    }
}

#[derive(Deserialize)]
struct Described {
    dtype: String,
    shape: Vec<usize>,
    data_offsets: (u64, u64),
}

/// The header's tensors, in file order. A name that comes twice, which a map would silently merge, is refused.
struct Header(BTreeMap<String, Described>);

impl<'de> Deserialize<'de> for Header {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Tensors;
        impl<'de> Visitor<'de> for Tensors {
            type Value = Header;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object of tensors")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Header, A::Error> {
                use serde::de::Error;
                let mut tensors = BTreeMap::new();
                while let Some(name) = map.next_key::<String>()? {
                    if name == "__metadata__" {
                        map.next_value::<IgnoredAny>()?;
                        continue;
                    }
                    if tensors.len() == MAX_TENSORS {
                        return Err(A::Error::custom(format_args!("more than {MAX_TENSORS} tensors")));
                    }
                    let described = map.next_value::<Described>()?;
                    if tensors.contains_key(&name) {
                        return Err(A::Error::custom(format_args!("tensor {} comes twice", crate::error::Quoted(&name))));
                    }
                    tensors.insert(name, described);
                }
                Ok(Header(tensors))
            }
        }
        deserializer.deserialize_map(Tensors)
    }
}
