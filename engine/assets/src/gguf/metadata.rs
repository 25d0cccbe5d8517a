//! GGUF metadata: typed key/value pairs. Types: <https://github.com/ggml-org/ggml/blob/master/docs/gguf.md>.

use std::collections::BTreeMap;
use std::io::Read;
use std::path::{Path, PathBuf};

use super::reader::Reader;
use crate::error::{AssetsError, ErrorKind, Place};
use crate::text::MAX_TOKENS;

/// Most pairs of one file; published ones have about 50.
pub(super) const MAX_PAIRS: u64 = 4096;
/// The longest key; the format's own limit is 65,535.
const MAX_KEY_BYTES: usize = 65_535;
/// Most array elements of one file: a vocabulary needs four arrays of its length.
const MAX_ELEMENTS: u64 = 4 * MAX_TOKENS as u64;

/// A value. Numbers keep their kind, not their width.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Value {
    Unsigned(u64),
    Signed(i64),
    Float(f64),
    Bool(bool),
    String(String),
    Strings(Vec<String>),
    Floats(Vec<f32>),
    /// Integers and booleans of any width.
    Integers(Vec<i64>),
}

impl Value {
    const fn kind(&self) -> &'static str {
        match self {
            Self::Unsigned(_) => "an unsigned integer",
            Self::Signed(_) => "a signed integer",
            Self::Float(_) => "a float",
            Self::Bool(_) => "a boolean",
            Self::String(_) => "a string",
            Self::Strings(_) => "an array of strings",
            Self::Floats(_) => "an array of floats",
            Self::Integers(_) => "an array of integers",
        }
    }
}

/// The type numbers of the format.
#[derive(Clone, Copy, PartialEq)]
enum Type {
    U8,
    I8,
    U16,
    I16,
    U32,
    I32,
    F32,
    Bool,
    String,
    Array,
    U64,
    I64,
    F64,
}

impl Type {
    #[rustfmt::skip]
    const ALL: [Self; 13] = [
        Self::U8, Self::I8, Self::U16, Self::I16, Self::U32, Self::I32, Self::F32, Self::Bool, Self::String, Self::Array, Self::U64, Self::I64, Self::F64,
    ];

    fn read<R: Read>(reader: &mut Reader<R>) -> Result<Self, AssetsError> {
        let at = reader.at();
        let number = reader.u32()?;
        let known = usize::try_from(number).ok().and_then(|number| Self::ALL.get(number).copied());
        known.ok_or_else(|| reader.error(ErrorKind::Malformed, format!("value type {number} does not exist")).at(at))
    }

    /// The fewest bytes that a value takes in the file.
    const fn least_bytes(self) -> u64 {
        match self {
            Self::U8 | Self::I8 | Self::Bool => 1,
            Self::U16 | Self::I16 => 2,
            Self::U32 | Self::I32 | Self::F32 => 4,
            Self::U64 | Self::I64 | Self::F64 | Self::String => 8,
            Self::Array => 12,
        }
    }
}

/// All pairs of a file, with the offset of each for errors.
pub(super) struct Metadata {
    path: PathBuf,
    pairs: BTreeMap<String, (u64, Value)>,
}

impl Metadata {
    /// Reads `count` pairs.
    pub fn read<R: Read>(reader: &mut Reader<R>, count: u64) -> Result<Self, AssetsError> {
        let mut pairs = BTreeMap::new();
        let mut elements = MAX_ELEMENTS;
        for _ in 0..count {
            let at = reader.at();
            let key = reader.string("a key")?;
            if key.is_empty() || key.len() > MAX_KEY_BYTES {
                return Err(reader.error(ErrorKind::Malformed, format!("a key of {} bytes", key.len())).at(at));
            }
            let value = value(reader, &mut elements).map_err(|error| error.key(&key))?;
            if pairs.contains_key(&key) {
                return Err(reader.error(ErrorKind::Malformed, "comes twice").key(&key).at(at));
            }
            pairs.insert(key, (at, value));
        }
        Ok(Self { path: reader.path().to_path_buf(), pairs })
    }

    fn get(&self, key: &str) -> Option<&Value> {
        self.pairs.get(key).map(|(_, value)| value)
    }

    /// An error about a key, at its place in the file if it has one.
    pub fn error(&self, kind: ErrorKind, key: &str, what: impl Into<Box<str>>, action: impl Into<Box<str>>) -> AssetsError {
        let error = AssetsError::new(kind, &self.path, what, action).key(key);
        match self.pairs.get(key) {
            Some((at, _)) => error.at(*at),
            None => error,
        }
    }

    /// Adds its place in the file to an error about a key.
    pub fn locate(&self, error: AssetsError) -> AssetsError {
        let at = match &error.place {
            Some(Place::Key(key)) => self.pairs.get(key).map(|(at, _)| *at),
            _ => None,
        };
        AssetsError { offset: error.offset.or(at), ..error }
    }

    fn wrong(&self, key: &str, value: &Value, expected: &str) -> AssetsError {
        self.error(
            ErrorKind::Malformed,
            key,
            format!("is {}, not {expected}", value.kind()),
            "the file is damaged; fetch it again",
        )
    }

    pub fn missing(&self, key: &str) -> AssetsError {
        self.error(ErrorKind::Missing, key, "is missing", "the file is incomplete; convert or fetch it again")
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    pub fn optional_string(&self, key: &str) -> Result<Option<&str>, AssetsError> {
        match self.get(key) {
            None => Ok(None),
            Some(Value::String(string)) => Ok(Some(string)),
            Some(other) => Err(self.wrong(key, other, "a string")),
        }
    }

    pub fn string(&self, key: &str) -> Result<&str, AssetsError> {
        self.optional_string(key)?.ok_or_else(|| self.missing(key))
    }

    pub fn optional_unsigned(&self, key: &str) -> Result<Option<u64>, AssetsError> {
        match self.get(key) {
            None => Ok(None),
            Some(Value::Unsigned(number)) => Ok(Some(*number)),
            Some(Value::Signed(number)) if *number >= 0 => Ok(Some(number.unsigned_abs())),
            Some(other) => Err(self.wrong(key, other, "a whole number")),
        }
    }

    pub fn optional_size(&self, key: &str) -> Result<Option<usize>, AssetsError> {
        match self.optional_unsigned(key)? {
            None => Ok(None),
            Some(number) => usize::try_from(number)
                .map(Some)
                .map_err(|_| self.error(ErrorKind::TooLarge, key, format!("is {number}"), "fetch the file again")),
        }
    }

    pub fn size(&self, key: &str) -> Result<usize, AssetsError> {
        self.optional_size(key)?.ok_or_else(|| self.missing(key))
    }

    pub fn optional_token_id(&self, key: &str) -> Result<Option<u32>, AssetsError> {
        match self.optional_unsigned(key)? {
            None => Ok(None),
            Some(number) => u32::try_from(number)
                .map(Some)
                .map_err(|_| self.error(ErrorKind::Malformed, key, format!("{number} is no token id"), "fetch the file again")),
        }
    }

    pub fn optional_float(&self, key: &str) -> Result<Option<f64>, AssetsError> {
        match self.get(key) {
            None => Ok(None),
            Some(Value::Float(number)) => Ok(Some(*number)),
            Some(Value::Unsigned(number)) => Ok(Some(*number as f64)),
            Some(other) => Err(self.wrong(key, other, "a number")),
        }
    }

    pub fn optional_flag(&self, key: &str) -> Result<Option<bool>, AssetsError> {
        match self.get(key) {
            None => Ok(None),
            Some(Value::Bool(flag)) => Ok(Some(*flag)),
            Some(other) => Err(self.wrong(key, other, "a boolean")),
        }
    }

    /// Takes an array of strings out; absent is empty.
    pub fn take_strings(&mut self, key: &str) -> Result<Vec<String>, AssetsError> {
        match self.pairs.get_mut(key).map(|(_, value)| value) {
            None => Ok(Vec::new()),
            Some(Value::Strings(strings)) => Ok(std::mem::take(strings)),
            Some(other) => {
                let other = other.clone();
                Err(self.wrong(key, &other, "an array of strings"))
            }
        }
    }

    /// An array of floats; absent is empty.
    pub fn floats(&self, key: &str) -> Result<&[f32], AssetsError> {
        match self.get(key) {
            None => Ok(&[]),
            Some(Value::Floats(floats)) => Ok(floats),
            Some(other) => Err(self.wrong(key, other, "an array of floats")),
        }
    }

    /// An array of integers; absent is empty.
    pub fn integers(&self, key: &str) -> Result<&[i64], AssetsError> {
        match self.get(key) {
            None => Ok(&[]),
            Some(Value::Integers(integers)) => Ok(integers),
            Some(other) => Err(self.wrong(key, other, "an array of integers")),
        }
    }
}

fn value<R: Read>(reader: &mut Reader<R>, elements: &mut u64) -> Result<Value, AssetsError> {
    Ok(match Type::read(reader)? {
        Type::U8 => Value::Unsigned(reader.array::<1>()?[0].into()),
        Type::U16 => Value::Unsigned(u16::from_le_bytes(reader.array()?).into()),
        Type::U32 => Value::Unsigned(reader.u32()?.into()),
        Type::U64 => Value::Unsigned(reader.u64()?),
        Type::I8 => Value::Signed(i8::from_le_bytes(reader.array()?).into()),
        Type::I16 => Value::Signed(i16::from_le_bytes(reader.array()?).into()),
        Type::I32 => Value::Signed(i32::from_le_bytes(reader.array()?).into()),
        Type::I64 => Value::Signed(i64::from_le_bytes(reader.array()?)),
        Type::F32 => Value::Float(f32::from_le_bytes(reader.array()?).into()),
        Type::F64 => Value::Float(f64::from_le_bytes(reader.array()?)),
        Type::Bool => Value::Bool(reader.array::<1>()?[0] != 0),
        Type::String => Value::String(reader.string("a string")?),
        Type::Array => array(reader, elements)?,
    })
}

fn array<R: Read>(reader: &mut Reader<R>, elements: &mut u64) -> Result<Value, AssetsError> {
    let at = reader.at();
    let item = Type::read(reader)?;
    if item == Type::Array {
        // No key that a model needs nests arrays, and depth is how a parser's stack is attacked.
        return Err(reader.error(ErrorKind::Unsupported, "an array inside an array").at(at));
    }
    let count = reader.u64()?;
    if count > reader.left() / item.least_bytes() {
        return Err(reader
            .error(ErrorKind::Truncated, format!("an array of {count} items, and {} bytes left in the file", reader.left()))
            .at(at));
    }
    if count > *elements {
        return Err(reader
            .error(ErrorKind::TooLarge, format!("an array of {count} items; at most {MAX_ELEMENTS} are read from one file"))
            .at(at));
    }
    *elements -= count;
    let count = count as usize;
    fn list<R: Read, T>(
        reader: &mut Reader<R>,
        count: usize,
        item: impl Fn(&mut Reader<R>) -> Result<T, AssetsError>,
    ) -> Result<Vec<T>, AssetsError> {
        let mut list = Vec::with_capacity(count);
        for _ in 0..count {
            list.push(item(reader)?);
        }
        Ok(list)
    }
    Ok(match item {
        Type::String => Value::Strings(list(reader, count, |reader| reader.string("a string"))?),
        Type::F32 => Value::Floats(list(reader, count, |reader| reader.array().map(f32::from_le_bytes))?),
        Type::F64 => Value::Floats(list(reader, count, |reader| reader.array().map(|bytes| f64::from_le_bytes(bytes) as f32))?),
        Type::U8 | Type::Bool => {
            Value::Integers(list(reader, count, |reader| reader.array().map(|[byte]: [u8; 1]| byte.into()))?)
        }
        Type::I8 => Value::Integers(list(reader, count, |reader| reader.array().map(|bytes| i8::from_le_bytes(bytes).into()))?),
        Type::U16 => Value::Integers(list(reader, count, |reader| reader.array().map(|bytes| u16::from_le_bytes(bytes).into()))?),
        Type::I16 => Value::Integers(list(reader, count, |reader| reader.array().map(|bytes| i16::from_le_bytes(bytes).into()))?),
        Type::U32 => Value::Integers(list(reader, count, |reader| reader.u32().map(i64::from))?),
        Type::I32 => Value::Integers(list(reader, count, |reader| reader.array().map(|bytes| i32::from_le_bytes(bytes).into()))?),
        // Nothing that is read here needs more than 63 bits; larger ones fail their own check as negative numbers.
        Type::U64 => Value::Integers(list(reader, count, |reader| reader.u64().map(|number| number as i64))?),
        Type::I64 => Value::Integers(list(reader, count, |reader| reader.array().map(i64::from_le_bytes))?),
        Type::Array => return Err(reader.error(ErrorKind::Unsupported, "an array inside an array")),
    })
}
