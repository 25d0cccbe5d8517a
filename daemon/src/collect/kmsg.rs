//! The kernel log, from `/dev/kmsg`: XIDs as they are written, each once, also over an agent's restart.
//!
//! A thread of its own reads records (`priority,sequence,µs since boot,flags;message`, Documentation/ABI/testing/dev-kmsg) and keeps the
//! sequence number. Where the ring was faster than the reader, the kernel answers EPIPE: that is counted, and nobody pretends to know
//! what was lost. Reading needs CAP_SYSLOG where `kernel.dmesg_restrict` is 1.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::xid::{Parsed, parse};

/// The kernel's own limit of one record is 8 KiB (`CONSOLE_EXT_LOG_MAX`).
const RECORD_BYTES_MAX: usize = 16 << 10;
/// Longest wait before the thread looks whether it is to end.
const LOOK_EVERY: Timespec = Timespec { tv_sec: 0, tv_nsec: 200_000_000 };
/// Pause at the end of what is not a device (a file, a closed pipe): these are always ready to read.
const IDLE: Duration = Duration::from_millis(5);

/// One record of the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Record<'r> {
    pub sequence: u64,
    /// Since boot.
    pub at: Duration,
    pub message: &'r str,
}

/// Reads a record's first line; `None` for continuation lines (` KEY=value`) and what is no record.
pub fn record(line: &str) -> Option<Record<'_>> {
    let (head, message) = line.split_once(';')?;
    let mut fields = head.split(',');
    let (_priority, sequence, micros) = (fields.next()?.parse::<u32>().ok()?, fields.next()?, fields.next()?);
    Some(Record { sequence: sequence.parse().ok()?, at: Duration::from_micros(micros.parse().ok()?), message })
}

/// What the reader has done; totals since its start.
#[derive(Debug, Default)]
pub struct Totals {
    pub records: AtomicU64,
    /// Times that the ring overran the reader.
    pub overruns: AtomicU64,
    /// Records lost in them, by the gap in the sequence.
    pub lost: AtomicU64,
    /// Sequence of the last record + 1; 0 before the first.
    pub next: AtomicU64,
}

/// Told of every line about an XID.
pub trait Listener: Send {
    fn line(&mut self, record: Record<'_>, parsed: Parsed<'_>);
}

/// Splits what was read into records, and passes on what is about an XID.
#[derive(Debug)]
pub struct Splitter {
    totals: Arc<Totals>,
    /// Records before this were taken in by an earlier agent.
    from: u64,
    part: Vec<u8>,
}

impl Splitter {
    pub fn new(totals: Arc<Totals>, from: u64) -> Self {
        Self { totals, from, part: Vec::new() }
    }

    /// Takes in bytes as they come; lines may be cut anywhere.
    pub fn take(&mut self, bytes: &[u8], listener: &mut dyn Listener) {
        let mut rest = bytes;
        while let Some(end) = rest.iter().position(|byte| *byte == b'\n') {
            let (line, after) = (&rest[..end], &rest[end + 1..]);
            rest = after;
            if self.part.is_empty() {
                self.line(line, listener);
            } else {
                let mut whole = std::mem::take(&mut self.part);
                whole.extend_from_slice(line);
                self.line(&whole, listener);
                whole.clear();
                self.part = whole;
            }
        }
        // A line that never ends is nobody's.
        if self.part.len() + rest.len() <= RECORD_BYTES_MAX {
            self.part.extend_from_slice(rest);
        } else {
            self.part.clear();
        }
    }

    fn line(&mut self, line: &[u8], listener: &mut dyn Listener) {
        if line.first() == Some(&b' ') {
            return;
        }
        let text = String::from_utf8_lossy(line);
        let Some(record) = record(&text) else { return };
        self.totals.records.fetch_add(1, Ordering::Relaxed);
        let next = self.totals.next.load(Ordering::Relaxed);
        if next != 0 && record.sequence > next {
            self.totals.lost.fetch_add(record.sequence - next, Ordering::Relaxed);
        }
        self.totals.next.store(record.sequence + 1, Ordering::Relaxed);
        if record.sequence < self.from {
            return;
        }
        match parse(record.message) {
            Parsed::Other => {}
            parsed => listener.line(record, parsed),
        }
    }
}

/// The reading thread.
pub struct Reader {
    pub totals: Arc<Totals>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Reader {
    /// Opens the log and reads it from sequence `from`. The error says why there is none.
    pub fn start(path: &Path, from: u64, listener: Box<dyn Listener>) -> io::Result<Self> {
        let file = File::options().read(true).custom_flags(libc::O_NONBLOCK | libc::O_CLOEXEC).open(path)?;
        let (totals, stop) = (Arc::new(Totals::default()), Arc::new(AtomicBool::new(false)));
        let reading = Reading { file, path: path.to_owned(), splitter: Splitter::new(totals.clone(), from), listener };
        let (counted, ended) = (totals.clone(), stop.clone());
        let thread = std::thread::Builder::new().name("kmsg".into()).spawn(move || reading.run(&counted, &ended))?;
        Ok(Self { totals, stop, thread: Some(thread) })
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ended = thread.join();
        }
    }
}

struct Reading {
    file: File,
    path: PathBuf,
    splitter: Splitter,
    listener: Box<dyn Listener>,
}

impl Reading {
    fn run(mut self, totals: &Totals, stop: &AtomicBool) {
        let mut buffer = vec![0; RECORD_BYTES_MAX];
        while !stop.load(Ordering::Relaxed) {
            match self.file.read(&mut buffer) {
                Ok(0) => std::thread::sleep(IDLE),
                Ok(read) => self.splitter.take(&buffer[..read], self.listener.as_mut()),
                Err(error) => match error.raw_os_error() {
                    Some(libc::EAGAIN) => {
                        let ready = poll(&mut [PollFd::new(&self.file, PollFlags::IN)], Some(&LOOK_EVERY));
                        if ready.is_err() {
                            std::thread::sleep(IDLE);
                        }
                    }
                    Some(libc::EINTR) => {}
                    Some(libc::EPIPE) => {
                        totals.overruns.fetch_add(1, Ordering::Relaxed);
                    }
                    _ => {
                        tracing::error!(path = %self.path.display(), %error, "the kernel log cannot be read any more");
                        return;
                    }
                },
            }
        }
    }
}
