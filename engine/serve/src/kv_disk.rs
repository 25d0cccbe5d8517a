//! The disk tier of the KV cache: one file of fixed size per engine, a place per block, and a thread that reads and writes it.
//!
//! ```text
//!   file  = head, place 0, place 1, ...
//!   head  = magic, identity (SHA-256 of all that blocks depend on besides their tokens), bytes of a place
//!   place = record (magic, hash, parent, index, tokens, extra keys, checksum of the block, checksum of the record), block
//! ```
//! A file of another identity, be it another model, layout, hash seed or version of Trackside, is emptied at the start. The bytes of a
//! block are checked whenever they are read; what is damaged is lost and never served. A disk that is full or fails switches the tier
//! off. The engine's thread never waits for the disk: what the bounded queue cannot take is not written.

mod record;
mod worker;

use std::fs::{File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{self, Receiver, SyncSender};

use domain::{Fault, FaultKind};
use engine::kv::disk::{DISK_READS_MAX, Disk, DiskAnswer, FoundBlock};
use engine::kv::hash::{BlockHash, BlockHasher};
use engine::kv::prefix::Content;
use engine::kv::tier::DiskPlace;

use record::Layout;
use worker::{Job, Worker};

const MAGIC: &[u8; 8] = b"tracksKV";
/// Of the file; places begin behind it.
const HEAD_BYTES: u64 = 4096;
/// Memory for blocks on their way to the disk.
const QUEUE_BYTES_MAX: usize = 32 << 20;

/// Where blocks go that leave host memory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KvDiskConfig {
    /// A folder; each engine has a file of its own in it.
    pub path: PathBuf,
    /// Size of the file, at most.
    pub bytes: u64,
}

/// What the blocks of an engine depend on.
#[derive(Clone, Debug)]
pub struct Identity<'a> {
    /// `Backend::kv_layout`.
    pub layout: String,
    /// Names the weights.
    pub model: String,
    pub hash_seed: &'a str,
    pub block_tokens: usize,
    pub block_bytes: usize,
}

impl Identity<'_> {
    fn digest(&self) -> [u8; 32] {
        use sha2::Digest as _;
        let Self { layout, model, hash_seed, block_tokens, block_bytes } = self;
        let version = env!("CARGO_PKG_VERSION");
        let all = format!("{version}\n{layout}\n{model}\n{hash_seed}\n{block_tokens} {block_bytes}");
        sha2::Sha256::digest(all).into()
    }
}

/// What distinguishes weights without reading them: names, lengths and times of change of their files.
pub fn weights_identity(path: &Path) -> String {
    let mut files: Vec<PathBuf> = match std::fs::read_dir(path) {
        Ok(entries) => entries.flatten().map(|entry| entry.path()).collect(),
        Err(_) => vec![path.to_owned()],
    };
    files.sort();
    let file = |file: &PathBuf| {
        let facts = std::fs::metadata(file).ok()?;
        let changed = facts.modified().ok()?.duration_since(std::time::UNIX_EPOCH).ok()?;
        let name = file.file_name()?.to_string_lossy().into_owned();
        facts.is_file().then(|| format!("{name} {} {}", facts.len(), changed.as_nanos()))
    };
    files.iter().filter_map(file).collect::<Vec<_>>().join(", ")
}

/// The file, and the way to its thread.
pub struct KvDisk {
    jobs: SyncSender<Job>,
    answers: Receiver<DiskAnswer>,
    /// Writes that were taken and are not done.
    writing: Arc<AtomicUsize>,
    writes_max: usize,
    layout: Layout,
    spare: Receiver<Vec<u8>>,
    found: Vec<FoundBlock>,
    wake: Arc<std::sync::OnceLock<Arc<dyn Fn() + Send + Sync>>>,
}

impl KvDisk {
    /// Opens or makes the file `kv-<rank>.blocks` in the configured folder and looks for what an earlier life left. Returns the tier and
    /// its places.
    pub fn open(config: &KvDiskConfig, rank: u32, identity: &Identity<'_>) -> Result<(Self, usize), Fault> {
        let path = config.path.join(format!("kv-{rank}.blocks"));
        let fault = |what: &str, error: io::Error| {
            let what = format!("the KV cache's file {} cannot be {what}", path.display());
            Fault::new(FaultKind::Storage, what, "choose another --kv-disk-path, or free it").because(error.to_string())
        };
        std::fs::create_dir_all(&config.path).map_err(|error| fault("made", error))?;
        let mut options = OpenOptions::new();
        let file = options.read(true).write(true).create(true).truncate(false).open(&path);
        let file = file.map_err(|error| fault("opened", error))?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                return Err(fault("used: another engine has it", io::ErrorKind::ResourceBusy.into()));
            }
            Err(TryLockError::Error(error)) => return Err(fault("locked", error)),
        }
        Self::start(file, config.bytes, identity).map_err(|error| fault("read or written", error))
    }

    fn start(file: File, bytes: u64, identity: &Identity<'_>) -> io::Result<(Self, usize)> {
        let layout = Layout::new(identity.block_tokens, identity.block_bytes);
        let places = usize::try_from(bytes.saturating_sub(HEAD_BYTES) / layout.place_bytes as u64).unwrap_or(usize::MAX);
        let places = places.min(u32::MAX as usize - 1);
        if places == 0 {
            let what = format!("{bytes} bytes hold no block of {} bytes", layout.place_bytes);
            return Err(io::Error::new(io::ErrorKind::InvalidInput, what));
        }
        let head = [&MAGIC[..], &identity.digest(), &(layout.place_bytes as u64).to_le_bytes()].concat();
        let mut old = vec![0; head.len()];
        let known = file.read_exact_at(&mut old, 0).is_ok() && old == head;
        let found = match known {
            true => {
                let end = HEAD_BYTES + (places * layout.place_bytes) as u64;
                if file.metadata()?.len() > end {
                    file.set_len(end)?;
                }
                look_for(&file, &layout, BlockHasher::new(identity.hash_seed, identity.block_tokens))
            }
            false => {
                file.set_len(0)?;
                file.write_all_at(&head, 0)?;
                Vec::new()
            }
        };
        let writes_max = (QUEUE_BYTES_MAX / layout.place_bytes).clamp(4, 256);
        let (jobs, queue) = mpsc::sync_channel(writes_max + DISK_READS_MAX + 1);
        let (answer, answers) = mpsc::channel();
        let (give, spare) = mpsc::sync_channel(writes_max);
        let writing = Arc::new(AtomicUsize::new(0));
        let wake: Arc<std::sync::OnceLock<Arc<dyn Fn() + Send + Sync>>> = Arc::default();
        let worker = Worker { file, layout, queue, answer, spare: give, writing: Arc::clone(&writing), wake: Arc::clone(&wake) };
        std::thread::Builder::new().name("kv-disk".into()).spawn(move || worker.run())?;
        Ok((Self { jobs, answers, writing, writes_max, layout, spare, found, wake }, places))
    }
}

/// All places whose records are whole and say what their hash says.
fn look_for(file: &File, layout: &Layout, mut hasher: BlockHasher) -> Vec<FoundBlock> {
    let mut found = Vec::new();
    let mut bytes = vec![0; layout.record_bytes];
    for place in 0..u32::MAX {
        if file.read_exact_at(&mut bytes, layout.offset(DiskPlace(place))).is_err() {
            break;
        }
        let Some(record) = layout.read(&bytes) else { continue };
        let Content { hash, parent, index, ref extra } = record.content;
        if parent.is_none() == (index == 0) && hasher.block(parent, index as usize, &record.tokens, extra) == hash {
            found.push(FoundBlock { place: DiskPlace(place), content: record.content, tokens: record.tokens });
        }
    }
    found.sort_by_key(|block| block.content.index);
    found
}

impl Disk for KvDisk {
    fn found(&mut self) -> Vec<FoundBlock> {
        std::mem::take(&mut self.found)
    }

    fn wake_with(&mut self, wake: Arc<dyn Fn() + Send + Sync>) {
        if self.wake.set(wake).is_err() {
            tracing::error!("the KV disk was given to two engines; the first is told");
        }
    }

    fn room(&self) -> usize {
        self.writes_max.saturating_sub(self.writing.load(Ordering::Acquire))
    }

    fn write(&mut self, place: DiskPlace, content: &Content, tokens: &[u32], bytes: &[u8]) {
        let mut out = self.spare.try_recv().unwrap_or_default();
        self.layout.write(content, tokens, bytes, &mut out);
        self.writing.fetch_add(1, Ordering::AcqRel);
        // A thread that has ended said so; there is nobody to write then.
        if self.jobs.try_send(Job::Write { place, bytes: out }).is_err() {
            self.writing.fetch_sub(1, Ordering::AcqRel);
        }
    }

    fn read(&mut self, place: DiskPlace, hash: BlockHash) {
        if self.jobs.try_send(Job::Read { place, hash }).is_err() {
            tracing::debug!("the KV disk's thread has ended");
        }
    }

    fn poll(&mut self) -> Option<DiskAnswer> {
        self.answers.try_recv().ok()
    }

    fn clear(&mut self) {
        if self.jobs.try_send(Job::Clear).is_err() {
            tracing::debug!("the KV disk's thread has ended");
        }
    }
}

#[cfg(test)]
mod tests;
