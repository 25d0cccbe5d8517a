//! The paged key/value cache: one region, block-major, at one address for life.
//!
//! Layout, outermost first: block, layer, keys then values, head; keys `[element, token]`, so that a vector holds one element of many
//! tokens' keys and scores need no sums across lanes, and values `[token, element]`. A block of all layers is contiguous, so that it
//! can travel as one piece; the region is a memfd, so that a process on the same host can be given it.

use std::fmt;
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd};
use std::thread::JoinHandle;

use engine_assets::TensorIndex;
use memmap2::MmapMut;

use crate::backend::CpuDtype;

/// What keys and values are stored as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KvDtype {
    Float32,
    /// IEEE half precision: keys and values are rounded to it when they are stored.
    Float16,
}

impl KvDtype {
    pub(crate) const COUNT: usize = 2;

    /// By vLLM's name.
    pub fn named(name: &str) -> Option<Self> {
        [Self::Float32, Self::Float16].into_iter().find(|dtype| dtype.to_string() == name)
    }

    /// What suits a model: where weights and activations are rounded to eight bits or less, half precision is no loss, and is read twice
    /// as fast.
    pub fn suiting(tensors: &TensorIndex, dtype: CpuDtype) -> Self {
        let rounded = dtype == CpuDtype::Auto && tensors.by_name.values().any(|tensor| tensor.dtype.block_len() > 1);
        if rounded { Self::Float16 } else { Self::Float32 }
    }

    pub fn bytes(self) -> usize {
        match self {
            Self::Float32 => 4,
            Self::Float16 => 2,
        }
    }
}

/// As vLLM names it.
impl fmt::Display for KvDtype {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Float32 => "float32",
            Self::Float16 => "float16",
        })
    }
}

/// What a block holds. Sizes are in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct BlockShape {
    pub layers: usize,
    pub kv_heads: usize,
    pub tokens: usize,
    pub dim: usize,
    pub dtype: KvDtype,
}

impl BlockShape {
    /// One head's keys, or its values.
    pub fn head_bytes(self) -> usize {
        self.tokens * self.dim * self.dtype.bytes()
    }

    /// The keys, or the values, of one layer.
    pub fn half_bytes(self) -> usize {
        self.kv_heads * self.head_bytes()
    }

    pub fn bytes(self) -> usize {
        self.layers * 2 * self.half_bytes()
    }
}

pub(crate) struct KvRegion {
    map: MmapMut,
    file: File,
    shape: BlockShape,
    /// Gets the region's memory from the system, until [`KvRegion::reserved`] waits for it.
    reserving: Option<JoinHandle<io::Result<()>>>,
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
        let mut region = Self { map, file, shape, reserving: None };
        region.reserve()?;
        Ok(region)
    }

    /// Begins to get all memory of the region from the system; [`reserved`](Self::reserved) waits for it.
    pub fn reserve(&mut self) -> io::Result<()> {
        let (file, bytes) = (self.file.try_clone()?, self.map.len());
        let reserve = move || {
            let bytes = libc::off_t::try_from(bytes).map_err(|_| io::ErrorKind::OutOfMemory)?;
            // SAFETY: the descriptor is the file's, which this thread owns.
            match unsafe { libc::fallocate(file.as_raw_fd(), 0, 0, bytes) } {
                0 => Ok(()),
                _ => Err(io::Error::last_os_error()),
            }
        };
        self.reserving = Some(std::thread::Builder::new().name("kv-reserve".into()).spawn(reserve)?);
        Ok(())
    }

    /// Waits until all memory of the region is this process's: what a request needs later can no longer fail to be there.
    pub fn reserved(&mut self) -> io::Result<()> {
        self.reserving.take().map_or(Ok(()), |reserving| reserving.join().unwrap_or(Err(io::ErrorKind::Other.into())))
    }

    pub fn shape(&self) -> BlockShape {
        self.shape
    }

    /// The keys of `layer` and head 0 in block 0. The next head's lie [`BlockShape::head_bytes`] further, the values
    /// [`BlockShape::half_bytes`], the next block's keys [`BlockShape::bytes`].
    pub fn keys(&mut self, layer: usize) -> *mut u8 {
        assert!(layer < self.shape.layers);
        // SAFETY: the layer exists, so the offset lies within a block. The map is page-aligned.
        unsafe { self.map.as_mut_ptr().add(layer * 2 * self.shape.half_bytes()) }
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

    /// Gives the region's memory back; it reads as zeros until it is written again, after [`reserve`](Self::reserve).
    pub fn discard(&mut self) -> io::Result<()> {
        let (start, bytes) = (self.map.as_mut_ptr().cast(), self.map.len());
        // SAFETY: the range is this mapping, which nobody else uses while `self` is borrowed; any bytes are valid values.
        match unsafe { libc::madvise(start, bytes, libc::MADV_REMOVE) } {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    }
}
