//! What is wrong with a model's files: one line that names the file, the place in it, and what to do.

use std::fmt;
use std::path::{Path, PathBuf};

/// The kind of a fault, for those who decide by it rather than read it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ErrorKind {
    /// A file, key or tensor that must be there is not.
    Missing,
    /// The file ends before what its header promises.
    Truncated,
    /// The bytes break their format.
    Malformed,
    /// Two parts of the model contradict each other.
    Mismatch,
    /// Well-formed, but nothing here can run it.
    Unsupported,
    /// Beyond one of the named maxima.
    TooLarge,
    /// The operating system refused.
    Io,
}

/// Where in a file something is wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// A metadata or JSON key.
    Key(String),
    /// A tensor.
    Tensor(String),
}

/// A fault in a model's files. Displays as one line: `FILE: [key "K"|tensor "T"] [at byte N]: WHAT; ACTION`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AssetsError {
    pub kind: ErrorKind,
    pub file: PathBuf,
    pub place: Option<Place>,
    /// Byte offset in `file`, where one is known.
    pub offset: Option<u64>,
    pub what: Box<str>,
    /// What the reader of the line can do about it.
    pub action: Box<str>,
}

impl AssetsError {
    pub(crate) fn new(kind: ErrorKind, file: &Path, what: impl Into<Box<str>>, action: impl Into<Box<str>>) -> Self {
        Self { kind, file: file.to_path_buf(), place: None, offset: None, what: what.into(), action: action.into() }
    }

    pub(crate) fn io(file: &Path, doing: &str, error: &std::io::Error) -> Self {
        let (kind, action) = match error.kind() {
            std::io::ErrorKind::NotFound => (ErrorKind::Missing, "check the path; incomplete download?"),
            _ => (ErrorKind::Io, "check the path and its permissions"),
        };
        Self::new(kind, file, format!("cannot {doing}: {error}"), action)
    }

    pub(crate) fn key(mut self, key: &str) -> Self {
        self.place = Some(Place::Key(key.to_owned()));
        self
    }

    pub(crate) fn tensor(mut self, tensor: &str) -> Self {
        self.place = Some(Place::Tensor(tensor.to_owned()));
        self
    }

    pub(crate) fn at(mut self, offset: u64) -> Self {
        self.offset = Some(offset);
        self
    }
}

impl fmt::Display for AssetsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.file.display())?;
        match &self.place {
            Some(Place::Key(key)) => write!(f, ": key {}", Quoted(key))?,
            Some(Place::Tensor(tensor)) => write!(f, ": tensor {}", Quoted(tensor))?,
            None => {}
        }
        match self.offset {
            Some(offset) if self.place.is_some() => write!(f, " at byte {offset}")?,
            Some(offset) => write!(f, ": at byte {offset}")?,
            None => {}
        }
        write!(f, ": {}; {}", self.what, self.action)
    }
}

impl std::error::Error for AssetsError {}

/// A name out of a stranger's file, fit to be shown: quoted, escaped, on one line, at most [`Quoted::MAX_CHARS`] characters.
pub(crate) struct Quoted<'a>(pub &'a str);

impl Quoted<'_> {
    const MAX_CHARS: usize = 96;
}

impl fmt::Display for Quoted<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut chars = self.0.chars();
        f.write_str("\"")?;
        for c in chars.by_ref().take(Self::MAX_CHARS) {
            write!(f, "{}", c.escape_debug())?;
        }
        f.write_str(if chars.next().is_some() { "…\"" } else { "\"" })
    }
}
