//! A cursor over a GGUF file that knows where it is and never believes a length.

use std::io::Read;
use std::path::Path;

use crate::error::{AssetsError, ErrorKind};

/// The longest string that is read: templates are the longest ones.
const MAX_STRING_BYTES: u64 = 1 << 20;

/// Reads little-endian scalars and strings, comparing every length with what the file still holds.
pub(super) struct Reader<R> {
    input: R,
    path: std::path::PathBuf,
    at: u64,
    end: u64,
}

impl<R: Read> Reader<R> {
    /// A reader of `bytes` bytes from the beginning of the file.
    pub fn new(path: &Path, input: R, bytes: u64) -> Self {
        Self { input, path: path.to_path_buf(), at: 0, end: bytes }
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Offset of the next byte.
    pub fn at(&self) -> u64 {
        self.at
    }

    /// Bytes from here to the end of the file.
    pub fn left(&self) -> u64 {
        self.end - self.at
    }

    /// An error at this place.
    pub fn error(&self, kind: ErrorKind, what: impl Into<Box<str>>) -> AssetsError {
        let action = match kind {
            ErrorKind::Truncated => "incomplete download? fetch the file again",
            ErrorKind::Unsupported => "use another file",
            _ => "the file is damaged or no GGUF; fetch it again",
        };
        AssetsError::new(kind, &self.path, what, action).at(self.at)
    }

    fn fill(&mut self, buffer: &mut [u8]) -> Result<(), AssetsError> {
        if buffer.len() as u64 > self.left() {
            return Err(
                self.error(ErrorKind::Truncated, format!("the file ends {} bytes too early", buffer.len() as u64 - self.left()))
            );
        }
        self.input.read_exact(buffer).map_err(|error| AssetsError::io(&self.path, "read", &error).at(self.at))?;
        self.at += buffer.len() as u64;
        Ok(())
    }

    pub fn array<const N: usize>(&mut self) -> Result<[u8; N], AssetsError> {
        let mut array = [0; N];
        self.fill(&mut array)?;
        Ok(array)
    }

    pub fn u32(&mut self) -> Result<u32, AssetsError> {
        self.array().map(u32::from_le_bytes)
    }

    pub fn u64(&mut self) -> Result<u64, AssetsError> {
        self.array().map(u64::from_le_bytes)
    }

    /// A string: length, then bytes. `what` names it in errors.
    pub fn string(&mut self, what: &str) -> Result<String, AssetsError> {
        let start = self.at;
        let length = self.u64()?;
        if length > self.left() {
            return Err(self
                .error(ErrorKind::Truncated, format!("{what} of {length} bytes, and {} left in the file", self.left()))
                .at(start));
        }
        if length > MAX_STRING_BYTES {
            return Err(self
                .error(ErrorKind::TooLarge, format!("{what} of {length} bytes; at most {MAX_STRING_BYTES} are read"))
                .at(start));
        }
        let mut bytes = vec![0; length as usize];
        self.fill(&mut bytes)?;
        String::from_utf8(bytes).map_err(|error| {
            self.error(ErrorKind::Malformed, format!("{what} is not UTF-8"))
                .at(start + 8 + error.utf8_error().valid_up_to() as u64)
        })
    }
}
