//! The thread that reads and writes, in the order in which it was asked.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, Sender, SyncSender};
use std::sync::{Arc, OnceLock};

use engine::kv::disk::DiskAnswer;
use engine::kv::hash::BlockHash;
use engine::kv::tier::DiskPlace;

use super::HEAD_BYTES;
use super::record::Layout;

pub enum Job {
    Write { place: DiskPlace, bytes: Vec<u8> },
    Read { place: DiskPlace, hash: BlockHash },
    Clear,
}

pub struct Worker {
    pub file: File,
    pub layout: Layout,
    pub queue: Receiver<Job>,
    pub answer: Sender<DiskAnswer>,
    pub spare: SyncSender<Vec<u8>>,
    pub writing: Arc<AtomicUsize>,
    pub wake: Arc<OnceLock<Arc<dyn Fn() + Send + Sync>>>,
}

impl Worker {
    /// Works until the engine is gone or the disk fails.
    pub fn run(self) {
        let mut bytes = vec![0; self.layout.used_bytes()];
        while let Ok(job) = self.queue.recv() {
            if let Err(error) = self.work(job, &mut bytes) {
                tracing::warn!(%error, "the disk tier of the KV cache fails and is switched off");
                self.tell(DiskAnswer::Failed);
                return;
            }
        }
    }

    fn work(&self, job: Job, bytes: &mut [u8]) -> io::Result<()> {
        match job {
            Job::Write { place, bytes } => {
                let written = self.file.write_all_at(&bytes, self.layout.offset(place));
                self.writing.fetch_sub(1, Ordering::AcqRel);
                // Where there are spares enough, this one is given back.
                drop(self.spare.try_send(bytes));
                written
            }
            Job::Read { place, hash } => {
                let read = self.file.read_exact_at(bytes, self.layout.offset(place));
                let block = read.is_ok().then(|| self.layout.block(bytes, &hash)).flatten();
                match block {
                    Some(block) => self.tell(DiskAnswer::Read { hash, bytes: block.to_vec() }),
                    None => self.tell(DiskAnswer::Lost { hash }),
                }
                // The end of the file where a block should be is damage; a disk that cannot read is a failure.
                read.or_else(|error| if error.kind() == io::ErrorKind::UnexpectedEof { Ok(()) } else { Err(error) })
            }
            Job::Clear => self.file.set_len(HEAD_BYTES),
        }
    }

    fn tell(&self, answer: DiskAnswer) {
        // The engine may be gone: then nobody waits.
        if self.answer.send(answer).is_ok()
            && let Some(wake) = self.wake.get()
        {
            wake();
        }
    }
}
