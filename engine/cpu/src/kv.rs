//! The paged key/value cache: one region, block-major, at one address for life.
//!
//! Layout in f32, outermost first: block, layer, keys then values, head, token, element. A block of all layers is contiguous, so that it
//! can travel as one piece; the region is a memfd, so that a process on the same host can be given it.

use std::fs::File;
use std::io;
use std::os::fd::FromRawFd;

use memmap2::MmapMut;

/// What a block holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct BlockShape {
    pub layers: usize,
    pub kv_heads: usize,
    pub tokens: usize,
    pub dim: usize,
}

impl BlockShape {
    /// Values of one head: `[tokens, dim]`.
    pub fn head_len(self) -> usize {
        self.tokens * self.dim
    }

    /// Values of the keys, or of the values, of one layer.
    pub fn half_len(self) -> usize {
        self.kv_heads * self.head_len()
    }

    /// Values of a block.
    pub fn len(self) -> usize {
        self.layers * 2 * self.half_len()
    }

    pub fn bytes(self) -> usize {
        self.len() * size_of::<f32>()
    }
}

pub(crate) struct KvRegion {
    map: MmapMut,
    shape: BlockShape,
}

impl KvRegion {
    pub fn new(shape: BlockShape, blocks: usize) -> io::Result<Self> {
        let bytes = shape.bytes().checked_mul(blocks).ok_or(io::ErrorKind::OutOfMemory)?;
        // SAFETY: the name is a C string; the result is checked.
        let fd = unsafe { libc::memfd_create(c"trackside-kv".as_ptr(), libc::MFD_CLOEXEC) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: a new descriptor that nobody else owns.
        let file = unsafe { File::from_raw_fd(fd) };
        file.set_len(bytes as u64)?;
        // SAFETY: the file has no name, so no other program changes its length.
        let map = unsafe { MmapMut::map_mut(&file)? };
        Ok(Self { map, shape })
    }

    pub fn shape(&self) -> BlockShape {
        self.shape
    }

    /// The keys of `layer` and head 0 in block 0. The next head's lie [`BlockShape::head_len`] further, the values
    /// [`BlockShape::half_len`], the next block's keys [`BlockShape::len`].
    pub fn keys(&mut self, layer: usize) -> *mut f32 {
        assert!(layer < self.shape.layers);
        // SAFETY: the layer exists, so the offset lies within a block. The map is page-aligned.
        unsafe { self.map.as_mut_ptr().cast::<f32>().add(layer * 2 * self.shape.half_len()) }
    }

    /// The bytes of a block of all layers.
    pub fn block(&self, block: usize) -> &[u8] {
        let bytes = self.shape.bytes();
        &self.map[block * bytes..(block + 1) * bytes]
    }

    pub fn block_mut(&mut self, block: usize) -> &mut [u8] {
        let bytes = self.shape.bytes();
        &mut self.map[block * bytes..(block + 1) * bytes]
    }

    /// Gives the region's memory back; it reads as zeros until it is written again.
    pub fn discard(&mut self) -> io::Result<()> {
        let (start, bytes) = (self.map.as_mut_ptr().cast(), self.map.len());
        // SAFETY: the range is this mapping, which nobody else uses while `self` is borrowed; any bytes are valid values.
        match unsafe { libc::madvise(start, bytes, libc::MADV_REMOVE) } {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    }
}
