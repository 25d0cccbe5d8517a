//! Packed weights in memory: one region for all of an engine, reserved when it starts, and the activations that meet them.

use std::collections::BTreeSet;
use std::io;
use std::sync::Arc;

use engine_assets::{DType, TensorIndex, TensorInfo};
use memmap2::{Advice, MmapMut, UncheckedAdvice};

use crate::buffer::Shared;
use crate::error::CpuError;
use crate::kernel::BLOCK;
use crate::kernel::packed::activation::{ActivationBlock, ROWS, blocks_len};
use crate::kernel::packed::lanes::OUTPUTS;
use crate::kernel::packed::pack::{Packing, packing};
use crate::pool::Pool;
use crate::weights::StoredRows;

/// Where strips lie, and what they are filled from.
pub(crate) struct PackedRegion {
    memory: Option<Arc<Memory>>,
    used: usize,
    placed: Vec<(StoredRows, PackedRows)>,
    /// Files and offsets of tensors that were packed.
    held: BTreeSet<(usize, usize)>,
    /// The one that is not worth it.
    looked_up_only: Option<(usize, usize)>,
}

/// Anonymous memory. Pages never written take none.
struct Memory {
    map: MmapMut,
    /// Of the first byte that is used: where a large page begins.
    start: usize,
}

/// Large pages: what a core reads in order, it should not stop to translate.
const LARGE_PAGE: usize = 2 << 20;

impl PackedRegion {
    /// A region in which nothing is placed: all weights stay as they are stored.
    pub fn none() -> Self {
        Self { memory: None, used: 0, placed: Vec::new(), held: BTreeSet::new(), looked_up_only: None }
    }

    /// Room for all matrices of `tensors` whose type is packed.
    pub fn reserve(tensors: &TensorIndex) -> Result<Self, CpuError> {
        let looked_up_only = tensors.looked_up_only().map(place_of);
        let multiplied = tensors.by_name.values().filter(|tensor| Some(place_of(tensor)) != looked_up_only);
        let bytes = multiplied.map(packed_bytes_max).sum::<usize>();
        if bytes == 0 {
            return Ok(Self::none());
        }
        let map = MmapMut::map_anon(bytes + LARGE_PAGE).map_err(|source| CpuError::Weights { bytes, source })?;
        // Advice only: small pages work too.
        let _ = map.advise(Advice::HugePage);
        let start = map.as_ptr().align_offset(LARGE_PAGE);
        Ok(Self { memory: Some(Arc::new(Memory { map, start })), looked_up_only, ..Self::none() })
    }

    /// Gives `stored` a place, to be filled by [`fill`](Self::fill). `None`: its type is not packed.
    pub fn place(&mut self, stored: &StoredRows) -> Result<Option<PackedRows>, String> {
        let (Some(memory), Some(packing)) = (&self.memory, packing(stored.dtype)) else { return Ok(None) };
        if self.looked_up_only == Some((stored.file, stored.offset)) {
            return Ok(None);
        }
        let strip_bytes = (packing.strip_bytes)(stored.columns / BLOCK);
        let bytes = stored.rows.div_ceil(OUTPUTS) * strip_bytes;
        let at = memory.start + self.used;
        if at + bytes > memory.map.len() {
            return Err(format!("{bytes} bytes are more than is left of the memory reserved for repacked weights"));
        }
        self.used += bytes;
        let packed = PackedRows { memory: Arc::clone(memory), at, strip_bytes, dtype: stored.dtype, rows: stored.rows };
        self.held.insert((stored.file, stored.offset));
        self.placed.push((stored.clone(), packed.clone()));
        Ok(Some(packed))
    }

    /// Bytes of all that was placed.
    pub fn bytes(&self) -> usize {
        self.used
    }

    /// Whether the tensor, or what begins where it does, has been packed.
    pub fn holds(&self, tensor: &TensorInfo) -> bool {
        self.held.contains(&place_of(tensor))
    }

    /// Packs everything placed so far, on all threads, and lets go of the stored originals. `progress` hears how many stored bytes are
    /// done; the result is their sum.
    pub fn fill(&mut self, pool: &mut Pool, progress: &mut dyn FnMut(u64)) -> u64 {
        const REPORT_EVERY: usize = 8 << 20;
        let mut done = 0;
        for (stored, packed) in &self.placed {
            let packing = packing(stored.dtype).expect("it was placed");
            let strips = stored.rows.div_ceil(OUTPUTS);
            let at_once = (REPORT_EVERY / (OUTPUTS * stored.row_bytes).max(1)).max(1);
            for first in (0..strips).step_by(at_once) {
                let end = strips.min(first + at_once);
                pool.run(end - first, &|task, _| fill_strip(packing, stored, packed, first + task));
                done += (stored.rows.min(end * OUTPUTS) - first * OUTPUTS) as u64 * stored.row_bytes as u64;
                progress(done);
            }
            stored.release();
        }
        done
    }

    /// Gives the strips' memory back, until they are [filled](Self::fill) again.
    pub fn release(&self) -> io::Result<()> {
        let Some(memory) = &self.memory else { return Ok(()) };
        // SAFETY: anonymous memory reads as zeros behind this, valid bytes of a strip; nobody holds a reference into it.
        unsafe { memory.map.unchecked_advise(UncheckedAdvice::DontNeed) }
    }
}

fn place_of(tensor: &TensorInfo) -> (usize, usize) {
    (tensor.file, tensor.offset as usize)
}

fn fill_strip(packing: &Packing, stored: &StoredRows, packed: &PackedRows, strip: usize) {
    // The outputs that the last strip has too many are copies of the last: computed, and never written anywhere.
    let rows = std::array::from_fn(|output| stored.row_slice((strip * OUTPUTS + output).min(stored.rows - 1)));
    // SAFETY: `place` gave this strip's bytes to these rows alone, each strip is one task's, and nobody multiplies while a model loads.
    let out = unsafe { std::slice::from_raw_parts_mut(packed.strip(strip).cast_mut(), packed.strip_bytes) };
    (packing.pack)(&rows, stored.columns / BLOCK, out);
}

/// At most so many bytes does a tensor take, whatever its division into parts of whole rows.
fn packed_bytes_max(tensor: &TensorInfo) -> usize {
    /// Parts of a tensor of which each may end within a strip: queries, keys and values, or gate and up, in one.
    const PARTS_MAX: usize = 4;
    let [.., rows, columns] = tensor.shape[..] else { return 0 };
    let Some(packing) = packing(tensor.dtype) else { return 0 };
    // Experts: matrices one after the other.
    let matrices: usize = tensor.shape[..tensor.shape.len() - 2].iter().product();
    matrices * (rows.div_ceil(OUTPUTS) + PARTS_MAX) * (packing.strip_bytes)(columns / BLOCK)
}

/// Rows of weights in strips.
#[derive(Clone)]
pub(crate) struct PackedRows {
    memory: Arc<Memory>,
    at: usize,
    pub strip_bytes: usize,
    pub dtype: DType,
    rows: usize,
}

impl PackedRows {
    /// The first byte of a strip.
    pub fn strip(&self, strip: usize) -> *const u8 {
        assert!(strip * OUTPUTS < self.rows);
        self.memory.map.as_ptr().wrapping_add(self.at + strip * self.strip_bytes)
    }
}

/// Rows of activations in blocks of eight-bit numbers, as [`kernel::packed::activation`](crate::kernel::packed::activation) lays them
/// out.
pub(crate) struct QuantizedRows {
    blocks: Box<[ActivationBlock]>,
    /// Rows that there is room for, of the longest product's inputs.
    pub rows_max: usize,
}

impl QuantizedRows {
    pub fn new(rows: usize) -> Self {
        /// More rows go in several rounds.
        const ROWS_MAX: usize = 512;
        Self { blocks: Box::default(), rows_max: rows.min(ROWS_MAX) }
    }

    /// Sees to it that rows of `blocks` blocks have room. Called while a model is loaded, not in a step.
    pub fn reserve(&mut self, blocks: usize) {
        let len = blocks_len(self.rows_max, blocks);
        if self.blocks.len() < len {
            self.blocks = bytemuck::allocation::zeroed_slice_box(len);
        }
    }

    /// Where the first block of `row` goes, in a product of rows of `blocks` blocks.
    pub fn row(base: Shared<ActivationBlock>, row: usize, blocks: usize) -> *mut ActivationBlock {
        base.get().wrapping_add(row / ROWS * ROWS * blocks + row % ROWS)
    }

    /// The first block, after a check that `rows` rows of `blocks` blocks have room.
    pub fn base(&mut self, rows: usize, blocks: usize) -> Shared<ActivationBlock> {
        assert!(blocks_len(rows, blocks) <= self.blocks.len(), "no room for {rows} rows of {blocks} blocks");
        Shared::new(self.blocks.as_mut_ptr())
    }
}
