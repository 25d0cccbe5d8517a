//! A JSON object read key by key.

use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use crate::error::{AssetsError, ErrorKind, Quoted};
use crate::file::{self, MAX_CONFIG_BYTES};

/// A JSON object whose complaints name file and key. `null` counts as absent, as in transformers.
pub(crate) struct Json {
    pub path: PathBuf,
    map: Map<String, Value>,
}

impl Json {
    pub fn read(path: &Path) -> Result<Self, AssetsError> {
        let content = file::read(path, MAX_CONFIG_BYTES)?;
        Self::parse(path, &content)
    }

    /// As [`Json::read`]; a file that does not exist is `None`.
    pub fn read_optional(path: &Path) -> Result<Option<Self>, AssetsError> {
        file::read_optional(path, MAX_CONFIG_BYTES)?.map(|content| Self::parse(path, &content)).transpose()
    }

    fn parse(path: &Path, content: &[u8]) -> Result<Self, AssetsError> {
        Ok(Self { path: path.to_path_buf(), map: file::parse_json(path, content)? })
    }

    pub fn get(&self, key: &str) -> Option<&Value> {
        self.map.get(key).filter(|value| !value.is_null())
    }

    pub fn error(&self, kind: ErrorKind, key: &str, what: impl Into<Box<str>>, action: impl Into<Box<str>>) -> AssetsError {
        AssetsError::new(kind, &self.path, what, action).key(key)
    }

    pub fn wrong(&self, key: &str, expected: &str) -> AssetsError {
        let shown = self.get(key).map(|value| value.to_string()).unwrap_or_default();
        self.error(
            ErrorKind::Malformed,
            key,
            format!("is {}, not {expected}", Quoted(&shown)),
            "correct it, or fetch the file again",
        )
    }

    pub fn size(&self, key: &str) -> Result<usize, AssetsError> {
        self.optional_size(key)?.ok_or_else(|| self.error(ErrorKind::Missing, key, "is missing", "fetch the file again"))
    }

    pub fn optional_size(&self, key: &str) -> Result<Option<usize>, AssetsError> {
        match self.get(key) {
            None => Ok(None),
            Some(value) => value
                .as_u64()
                .and_then(|size| usize::try_from(size).ok())
                .map(Some)
                .ok_or_else(|| self.wrong(key, "a whole number")),
        }
    }

    pub fn optional_number(&self, key: &str) -> Result<Option<f64>, AssetsError> {
        match self.get(key) {
            None => Ok(None),
            Some(value) => value.as_f64().map(Some).ok_or_else(|| self.wrong(key, "a number")),
        }
    }

    pub fn optional_u32(&self, key: &str) -> Result<Option<u32>, AssetsError> {
        match self.get(key) {
            None => Ok(None),
            Some(value) => value
                .as_u64()
                .and_then(|n| u32::try_from(n).ok())
                .map(Some)
                .ok_or_else(|| self.wrong(key, "a whole number below 2^32")),
        }
    }

    pub fn optional_flag(&self, key: &str) -> Result<Option<bool>, AssetsError> {
        match self.get(key) {
            None => Ok(None),
            Some(value) => value.as_bool().map(Some).ok_or_else(|| self.wrong(key, "true or false")),
        }
    }

    pub fn object(&self, key: &str) -> Result<Option<&Map<String, Value>>, AssetsError> {
        match self.get(key) {
            None => Ok(None),
            Some(value) => value.as_object().map(Some).ok_or_else(|| self.wrong(key, "an object")),
        }
    }

    /// A token id or a list of them; absent is an empty list.
    pub fn token_ids(&self, key: &str) -> Result<Vec<u32>, AssetsError> {
        let id = |value: &Value| {
            value.as_u64().and_then(|id| u32::try_from(id).ok()).ok_or_else(|| self.wrong(key, "a token id or a list of them"))
        };
        match self.get(key) {
            None => Ok(Vec::new()),
            Some(Value::Array(ids)) => ids.iter().map(id).collect(),
            Some(value) => Ok(vec![id(value)?]),
        }
    }
}
