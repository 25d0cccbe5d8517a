//! The tensor table of a GGUF file, and the one tensor that is really a setting.

use std::collections::BTreeMap;
use std::io::{Read, Seek, SeekFrom};
use std::path::PathBuf;

use super::metadata::Metadata;
use super::reader::Reader;
use crate::architecture::Found;
use crate::error::{AssetsError, ErrorKind};
use crate::file;
use crate::tensors::DType;

/// Most tensors of one file.
pub(super) const MAX_TENSORS: u64 = 1 << 16;
/// ggml's own maximum.
const MAX_DIMS: u32 = 4;
const DEFAULT_ALIGNMENT: u64 = 32;
/// llama.cpp's name for the divisors of the rotary frequencies.
const ROPE_FACTORS: &str = "rope_freqs.weight";
/// Half of the largest head.
const MAX_ROPE_FACTORS: usize = 512;

/// What a type number means: one that is read here, or the name of one that is not.
#[rustfmt::skip]
fn dtype(number: u32) -> Result<DType, String> {
    Ok(match number {
        0 => DType::F32, 1 => DType::F16, 2 => DType::Q4_0, 3 => DType::Q4_1, 6 => DType::Q5_0, 7 => DType::Q5_1,
        8 => DType::Q8_0, 12 => DType::Q4K, 13 => DType::Q5K, 14 => DType::Q6K, 30 => DType::BF16,
        other => return Err(UNSUPPORTED.iter().find(|(number, _)| *number == other).map_or_else(|| format!("type {other}"), |(_, name)| (*name).to_owned())),
    })
}

#[rustfmt::skip]
const UNSUPPORTED: &[(u32, &str)] = &[
    (9, "Q8_1"), (10, "Q2_K"), (11, "Q3_K"), (15, "Q8_K"), (16, "IQ2_XXS"),
    (17, "IQ2_XS"), (18, "IQ3_XXS"), (19, "IQ1_S"), (20, "IQ4_NL"), (21, "IQ3_S"), (22, "IQ2_S"), (23, "IQ4_XS"), (24, "I8"), (25, "I16"), (26, "I32"),
    (27, "I64"), (28, "F64"), (29, "IQ1_M"), (34, "TQ1_0"), (35, "TQ2_0"), (39, "MXFP4"),
];

/// Reads the descriptions of `count` tensors, which end the header. Byte ranges become absolute; all lie within the file.
pub(super) fn read<R: Read>(
    reader: &mut Reader<R>,
    count: u64,
    metadata: &Metadata,
) -> Result<BTreeMap<String, Found>, AssetsError> {
    let mut found = BTreeMap::new();
    for _ in 0..count {
        let at = reader.at();
        let name = reader.string("a tensor's name")?;
        let tensor = description(reader, at).map_err(|error| error.tensor(&name))?;
        if found.contains_key(&name) {
            return Err(reader.error(ErrorKind::Malformed, "comes twice").tensor(&name).at(at));
        }
        found.insert(name, tensor);
    }
    let alignment = alignment(metadata)?;
    let data = reader.at().next_multiple_of(alignment);
    let end = reader.at() + reader.left();
    for (name, tensor) in &mut found {
        place(tensor, data, end, alignment).map_err(|(kind, what)| {
            let action = if kind == ErrorKind::Truncated {
                "incomplete download? fetch the file again"
            } else {
                "the file is damaged; fetch it again"
            };
            AssetsError::new(kind, reader.path(), what, action).tensor(name).at(tensor.described_at.unwrap_or_default())
        })?;
    }
    no_overlaps(&found).map_err(|(name, at)| {
        AssetsError::new(ErrorKind::Malformed, reader.path(), "overlaps another tensor", "the file is damaged; fetch it again")
            .tensor(&name)
            .at(at)
    })?;
    Ok(found)
}

/// One entry: dimensions (fastest first), type, offset relative to the data.
fn description<R: Read>(reader: &mut Reader<R>, at: u64) -> Result<Found, AssetsError> {
    let dims = reader.u32()?;
    if dims == 0 || dims > MAX_DIMS {
        return Err(reader.error(ErrorKind::Malformed, format!("has {dims} dimensions, not 1 to {MAX_DIMS}")).at(at));
    }
    let mut shape = Vec::with_capacity(dims as usize);
    for _ in 0..dims {
        let dim = reader.u64()?;
        shape.push(
            usize::try_from(dim).map_err(|_| reader.error(ErrorKind::TooLarge, format!("has a dimension of {dim}")).at(at))?,
        );
    }
    shape.reverse();
    let dtype = dtype(reader.u32()?);
    let bytes = match dtype {
        Ok(dtype) => dtype.tensor_bytes(&shape).map_err(|what| reader.error(ErrorKind::Malformed, what).at(at))?,
        // Nobody reads it, so its size does not matter; if somebody wants to, that is the error.
        Err(_) => 0,
    };
    Ok(Found { file: 0, dtype, shape, offset: reader.u64()?, bytes, described_at: Some(at) })
}

fn alignment(metadata: &Metadata) -> Result<u64, AssetsError> {
    const KEY: &str = "general.alignment";
    match metadata.optional_unsigned(KEY)? {
        None => Ok(DEFAULT_ALIGNMENT),
        Some(alignment) if alignment.is_power_of_two() && alignment <= 1 << 16 => Ok(alignment),
        Some(alignment) => Err(metadata.error(
            ErrorKind::Malformed,
            KEY,
            format!("{alignment} is no power of two up to 65536"),
            "the file is damaged; fetch it again",
        )),
    }
}

fn place(tensor: &mut Found, data: u64, file_end: u64, alignment: u64) -> Result<(), (ErrorKind, String)> {
    if !tensor.offset.is_multiple_of(alignment) {
        return Err((ErrorKind::Malformed, format!("has offset {}, no multiple of {alignment}", tensor.offset)));
    }
    let begin = data.checked_add(tensor.offset);
    match begin.and_then(|begin| begin.checked_add(tensor.bytes)) {
        Some(end) if end <= file_end => {
            tensor.offset += data;
            Ok(())
        }
        Some(end) => Err((ErrorKind::Truncated, format!("ends at byte {end} of a file of {file_end}"))),
        None => Err((ErrorKind::Malformed, format!("has offset {}, which overflows", tensor.offset))),
    }
}

/// A byte that belongs to two tensors means that one of them would silently be read as the other.
fn no_overlaps(found: &BTreeMap<String, Found>) -> Result<(), (String, u64)> {
    let mut ranges: Vec<_> =
        found.iter().map(|(name, tensor)| (tensor.offset, tensor.bytes, name, tensor.described_at)).collect();
    ranges.sort_unstable();
    for pair in ranges.windows(2) {
        if pair[0].0 + pair[0].1 > pair[1].0 {
            return Err((pair[1].2.clone(), pair[1].3.unwrap_or_default()));
        }
    }
    Ok(())
}

/// Takes `rope_freqs.weight` out and reads its few numbers: Llama 3.1's frequency scaling, which GGUF spells as a tensor.
pub(super) fn take_rope_factors(files: &[PathBuf], found: &mut BTreeMap<String, Found>) -> Result<Option<Vec<f32>>, AssetsError> {
    let Some(tensor) = found.remove(ROPE_FACTORS) else {
        return Ok(None);
    };
    let path = files[tensor.file].as_path();
    let error = |what: String| {
        AssetsError::new(ErrorKind::Unsupported, path, what, "fetch or convert the file again")
            .tensor(ROPE_FACTORS)
            .at(tensor.described_at.unwrap_or_default())
    };
    if tensor.dtype != Ok(DType::F32) || tensor.shape.len() != 1 || tensor.shape[0] > MAX_ROPE_FACTORS {
        return Err(error(format!("is no vector of at most {MAX_ROPE_FACTORS} F32 numbers")));
    }
    let (mut file, _) = file::open_regular(path)?;
    let mut bytes = vec![0; tensor.bytes as usize];
    file.seek(SeekFrom::Start(tensor.offset))
        .and_then(|_| file.read_exact(&mut bytes))
        .map_err(|e| AssetsError::io(path, "read", &e))?;
    let factors: Vec<f32> = bytes.chunks_exact(4).map(|four| f32::from_le_bytes([four[0], four[1], four[2], four[3]])).collect();
    if factors.iter().any(|factor| !(factor.is_finite() && *factor > 0.0)) {
        return Err(error("holds a number that is not positive".to_owned()));
    }
    Ok(Some(factors))
}
