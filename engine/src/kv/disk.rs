//! The port to the disk tier. The engine says which block lies at which place; whoever implements this moves bytes, on a thread of his
//! own.

use std::sync::Arc;

use super::hash::BlockHash;
use super::prefix::Content;
use super::tier::DiskPlace;

/// Reads that are open at a time, at most: each is in memory until its block is on the device.
pub const DISK_READS_MAX: usize = 16;

/// Places for blocks on a disk. Called on the engine's thread: nothing here may block. Writes and reads are done in the order in which
/// they were asked for.
pub trait Disk: Send {
    /// Blocks that an earlier life left, parents before their children.
    fn found(&mut self) -> Vec<FoundBlock>;

    /// `wake` is to be called when there is something to [`poll`](Self::poll).
    fn wake_with(&mut self, wake: Arc<dyn Fn() + Send + Sync>);

    /// Writes that would be taken now.
    fn room(&self) -> usize;

    /// Puts a block at a place, whose former content is gone. At most [`room`](Self::room) are asked for.
    fn write(&mut self, place: DiskPlace, content: &Content, tokens: &[u32], bytes: &[u8]);

    /// Asks for the block at a place; answered once by `poll`. At most [`DISK_READS_MAX`] are open.
    fn read(&mut self, place: DiskPlace, hash: BlockHash);

    /// The next answer.
    fn poll(&mut self) -> Option<DiskAnswer>;

    /// Takes back the memory of an answer.
    fn recycle(&mut self, _bytes: Vec<u8>) {}

    /// What was written before is never to be found again.
    fn clear(&mut self);
}

/// A block on the disk that can be used again.
pub struct FoundBlock {
    pub place: DiskPlace,
    pub content: Content,
    pub tokens: Vec<u32>,
}

pub enum DiskAnswer {
    Read {
        hash: BlockHash,
        bytes: Vec<u8>,
    },
    /// What lies there is not that block, or is damaged.
    Lost {
        hash: BlockHash,
    },
    /// The disk failed; nothing that is asked for later will be done.
    Failed,
}
