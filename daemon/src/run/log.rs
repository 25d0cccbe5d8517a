//! An engine's output: a file it appends to by itself, kept bounded from outside; its last lines explain a crash.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

/// Bytes at which the file is set aside; two files per engine are kept.
pub const LOG_BYTES_MAX: u64 = 8 << 20;
/// Bytes looked at for the last lines.
const TAIL_BYTES: u64 = 16 << 10;
/// Longest line shown.
const LINE_CHARS_MAX: usize = 300;

/// The two files of one engine.
#[derive(Clone, Debug)]
pub struct Log {
    current: PathBuf,
    previous: PathBuf,
}

impl Log {
    pub fn open(state_dir: &Path, engine: &str) -> io::Result<Self> {
        let folder = state_dir.join("log");
        fs::create_dir_all(&folder)?;
        Ok(Self { current: folder.join(format!("{engine}.log")), previous: folder.join(format!("{engine}.log.1")) })
    }

    pub fn path(&self) -> &Path {
        &self.current
    }

    /// The file for the next life. What the last life wrote is set aside.
    pub fn begin(&self) -> io::Result<File> {
        if fs::metadata(&self.current).is_ok_and(|found| found.len() > 0) {
            fs::rename(&self.current, &self.previous)?;
        }
        // Append mode makes each write land at the end wherever that is, also after the file was cut from outside.
        OpenOptions::new().create(true).append(true).open(&self.current)
    }

    /// Sets the file aside when it is full. The engine keeps its descriptor, so the content is copied and the file cut; what is
    /// written between the two is lost, and its bytes are returned.
    pub fn rotate(&self, bytes_max: u64) -> io::Result<u64> {
        let mut file = match OpenOptions::new().read(true).write(true).open(&self.current) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(0),
            file => file?,
        };
        if file.metadata()?.len() <= bytes_max {
            return Ok(0);
        }
        let copied = io::copy(&mut file, &mut File::create(&self.previous)?);
        // A full disk must not stop the cutting: that is what frees it.
        let lost = file.metadata()?.len().saturating_sub(*copied.as_ref().unwrap_or(&0));
        file.set_len(0)?;
        copied.map(|_| lost)
    }

    /// The last lines, oldest first; bytes that are no text are replaced.
    pub fn tail(&self, lines: usize) -> Vec<String> {
        let mut bytes = Vec::new();
        let mut read = || -> io::Result<()> {
            let mut file = File::open(&self.current)?;
            let start = file.metadata()?.len().saturating_sub(TAIL_BYTES);
            file.seek(SeekFrom::Start(start))?;
            file.take(TAIL_BYTES).read_to_end(&mut bytes)?;
            Ok(())
        };
        if read().is_err() {
            return Vec::new();
        }
        let text = String::from_utf8_lossy(&bytes);
        let shown = text.lines().filter(|line| !line.trim().is_empty());
        let mut last: Vec<String> =
            shown.map(|line| line.chars().filter(|c| !c.is_control()).take(LINE_CHARS_MAX).collect()).collect();
        last.drain(..last.len().saturating_sub(lines));
        last
    }

    /// The first line that is a JSON object: what a native engine bound.
    pub fn first_json(&self) -> Option<serde_json::Value> {
        let mut bytes = Vec::new();
        File::open(&self.current).ok()?.take(TAIL_BYTES).read_to_end(&mut bytes).ok()?;
        let text = String::from_utf8_lossy(&bytes);
        text.lines().filter(|line| line.starts_with('{')).find_map(|line| serde_json::from_str(line).ok())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    #[test]
    fn the_log_stays_bounded_and_its_end_readable() {
        let dir = tempfile::tempdir().unwrap();
        let log = Log::open(dir.path(), "e").unwrap();
        let mut engine = log.begin().unwrap();
        for line in 0..100 {
            writeln!(engine, "line {line}").unwrap();
        }
        assert_eq!(log.tail(2), ["line 98", "line 99"]);
        assert_eq!(log.rotate(1 << 20).unwrap(), 0);
        assert_eq!(log.tail(1), ["line 99"], "a file that is not full is left alone");
        assert_eq!(log.rotate(100).unwrap(), 0);
        engine.write_all(b"after \xff\x1b[31m\n").unwrap();
        assert_eq!(log.tail(9), ["after \u{fffd}[31m"], "the engine's descriptor goes on at the start of the cut file");
        assert!(fs::read_to_string(dir.path().join("log/e.log.1")).unwrap().ends_with("line 99\n"));
    }
}
