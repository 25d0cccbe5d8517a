//! Model files, mapped, and matrices that lie in them as they are stored.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::sync::Arc;

use engine::device::Part;
use engine_assets::{DType, TensorIndex, TensorInfo};
use memmap2::{Advice, Mmap, UncheckedAdvice};

use crate::error::CpuError;
use crate::kernel::Kernels;
use crate::packed::PackedRows;

/// The files of one model. A file that somebody shortens while it is mapped ends the process with SIGBUS: model files are replaced,
/// not rewritten.
pub(crate) struct Files {
    maps: Vec<Arc<Mmap>>,
    /// Files, and the bytes in them that are read as they are stored.
    read: Vec<(usize, Range<usize>)>,
}

impl Files {
    pub fn open(index: &TensorIndex) -> Result<Self, CpuError> {
        let maps = index.files.iter().map(|path| {
            let map = || {
                let file = File::open(path)?;
                // SAFETY: the file is only read. That others leave it alone is asked of the operator, see above.
                let map = unsafe { Mmap::map(&file)? };
                // Advice only: reading works without.
                let _ = map.advise(Advice::WillNeed);
                Ok(Arc::new(map))
            };
            map().map_err(|source| CpuError::Map { file: path.clone(), source })
        });
        Ok(Self { maps: maps.collect::<Result<_, _>>()?, read: Vec::new() })
    }

    /// Names what is read as it is stored: all tensors but those that `skip` names.
    pub fn keep(&mut self, index: &TensorIndex, skip: &dyn Fn(&TensorInfo) -> bool) {
        let kept = index.by_name.values().filter(|tensor| !skip(tensor));
        self.read = kept.filter_map(|tensor| Some((tensor.file, self.range(tensor)?))).collect();
    }

    /// Brings what is read as it is stored into memory, so that the first request does not wait for the disk. `progress` hears of bytes as
    /// they come.
    pub fn touch(&self, progress: &mut dyn FnMut(u64)) {
        const PAGE: usize = 4096;
        const REPORT_EVERY: usize = 8 << 20;
        for (file, range) in &self.read {
            for chunk in self.maps[*file][range.clone()].chunks(REPORT_EVERY) {
                for page in chunk.chunks(PAGE) {
                    std::hint::black_box(page[0]);
                }
                progress(chunk.len() as u64);
            }
        }
    }

    /// Takes all pages out of the process. Reading them brings them back.
    pub fn release(&self) -> io::Result<()> {
        self.maps.iter().filter(|map| !map.is_empty()).try_for_each(|map| {
            // SAFETY: the map is shared with the file and only read: dropped pages come back from there, the same.
            unsafe { map.unchecked_advise(UncheckedAdvice::DontNeed) }
        })
    }

    fn bytes(&self, tensor: &TensorInfo) -> Option<&[u8]> {
        self.maps.get(tensor.file)?.get(self.range(tensor)?)
    }

    /// Where a tensor lies in its file.
    fn range(&self, tensor: &TensorInfo) -> Option<Range<usize>> {
        let start = usize::try_from(tensor.offset).ok()?;
        let end = start.checked_add(usize::try_from(tensor.bytes).ok()?)?;
        (end <= self.maps.get(tensor.file)?.len()).then_some(start..end)
    }

    /// The stored rows of a part, after a check that they are where the index says.
    pub fn rows(&self, part: &Part<'_>) -> Result<StoredRows, String> {
        let Part { tensor, rows, columns } = part;
        let dtype = tensor.dtype;
        let columns_all = tensor.shape.last().copied().unwrap_or(0);
        let rows_all = tensor.shape.iter().rev().skip(1).product::<usize>();
        let bytes_of = |columns: usize| columns / dtype.block_len() * dtype.block_bytes();
        let whole_blocks = [columns.start, columns.end, columns_all].iter().all(|at| at.is_multiple_of(dtype.block_len()));
        if columns.end > columns_all || rows.end > rows_all || !whole_blocks {
            return Err(format!("{rows:?} × {columns:?} is no part of {:?} in {dtype}", tensor.shape));
        }
        let row_bytes = bytes_of(columns_all);
        match self.bytes(tensor) {
            Some(bytes) if bytes.len() == rows_all * row_bytes => Ok(StoredRows {
                map: Arc::clone(&self.maps[tensor.file]),
                file: tensor.file,
                offset: tensor.offset as usize + rows.start * row_bytes + bytes_of(columns.start),
                dtype,
                rows: rows.len(),
                columns: columns.len(),
                row_bytes,
            }),
            _ => Err(format!("{} bytes at {} are not what its shape implies, or not in the file", tensor.bytes, tensor.offset)),
        }
    }
}

/// Some rows of a stored tensor, `row_bytes` apart.
#[derive(Clone)]
pub(crate) struct StoredRows {
    map: Arc<Mmap>,
    /// Index into [`TensorIndex::files`].
    pub file: usize,
    /// Of the first row's first byte in the file.
    pub offset: usize,
    pub dtype: DType,
    pub rows: usize,
    pub columns: usize,
    pub row_bytes: usize,
}

impl StoredRows {
    /// The first stored byte of `row`.
    pub fn row(&self, row: usize) -> *const u8 {
        assert!(row < self.rows);
        // SAFETY: `Files::rows` checked that all rows lie within the map.
        unsafe { self.map.as_ptr().add(self.offset + row * self.row_bytes) }
    }

    /// The stored bytes of `row`.
    pub fn row_slice(&self, row: usize) -> &[u8] {
        let bytes = self.columns / self.dtype.block_len() * self.dtype.block_bytes();
        // SAFETY: as `row`.
        unsafe { std::slice::from_raw_parts(self.row(row), bytes) }
    }

    /// Takes the rows' pages out of the process. Reading them brings them back.
    pub fn release(&self) {
        const PAGE: usize = 4096;
        let (start, end) = (self.offset.next_multiple_of(PAGE), (self.offset + self.rows * self.row_bytes) / PAGE * PAGE);
        if start < end && end <= self.map.len() {
            // SAFETY: the map is shared with the file and only read: dropped pages come back from there, the same.
            // Advice only: without, the pages stay until somebody needs the memory.
            let _ = unsafe { self.map.unchecked_advise_range(UncheckedAdvice::DontNeed, start, end - start) };
        }
    }

    /// Expands one row to f32.
    pub fn expand(&self, kernels: &Kernels, row: usize, out: &mut [f32]) {
        assert!(out.len() == self.columns);
        // SAFETY: the row lies within the map and `out` has room for it; `kernels` are this machine's.
        unsafe { kernels.expand(self.dtype)(self.row(row), self.columns, out.as_mut_ptr()) }
    }
}

/// One tensor of a matrix.
pub(crate) struct MatrixPart {
    pub stored: StoredRows,
    /// The same, packed, where that is how it is multiplied.
    pub packed: Option<PackedRows>,
}

/// Tensors stacked along their rows: `[outputs, inputs]`.
pub struct Matrix {
    pub(crate) parts: Vec<MatrixPart>,
    pub(crate) outputs: usize,
    pub(crate) inputs: usize,
}

impl Matrix {
    pub(crate) fn stack(parts: Vec<StoredRows>) -> Result<Self, String> {
        let inputs = parts.first().map_or(0, |part| part.columns);
        match parts.iter().find(|part| part.columns != inputs) {
            Some(odd) => Err(format!("{} columns do not stack on {inputs}", odd.columns)),
            None => Ok(Self {
                outputs: parts.iter().map(|part| part.rows).sum(),
                inputs,
                parts: parts.into_iter().map(|stored| MatrixPart { stored, packed: None }).collect(),
            }),
        }
    }
}
