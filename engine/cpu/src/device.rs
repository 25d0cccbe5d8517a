//! The operations of [`Device`] on the CPU: each checks its sizes, divides its work into tasks by rows or outputs, and calls kernels.

mod attention;
mod elementwise;
mod experts;
mod linear;
mod low_rank;

use std::io;

use engine::backend::{Batch, Capacity, DeviceError, Reserved};
use engine::device::{Causal, Device, Gate, Heads, LowRank, Part, RotationTable, Rows, Write};
use engine_assets::{Pooling, TensorIndex};

use self::attention::Division;
pub use self::experts::Routing;
use self::linear::Piece;
use crate::backend::CpuDtype;
use crate::buffer::{Activation, Buffer, Shared};
use crate::error::CpuError;
use crate::kernel::BLOCK;
use crate::kernel::Kernels;
use crate::kernel::attend::{QUERIES, scratch_len};
use crate::kernel::linear::panel_len;
use crate::kv::{BlockShape, KvRegion};
use crate::memory;
use crate::packed::{PackedRegion, QuantizedRows};
use crate::pool::Pool;
use crate::taken::Taken;
use crate::weights::{Files, Matrix, MatrixPart};

/// Values of one operation below which dividing it among threads costs more than it gains.
const DIVIDE_MIN: usize = 16 * 1024;

pub(crate) struct CpuDevice {
    pub kernels: &'static Kernels,
    pub pool: Pool,
    capacity: Capacity,
    files: Files,
    kv: KvRegion,
    taken: Taken,
    division: Division,
    scratch: Scratch,
    packed: PackedRegion,
    /// The rows that the current product multiplies, where its weights are packed.
    quantized: QuantizedRows,
    /// The division of the current product; reused.
    pieces: Vec<Piece>,
    /// Of all activations there are.
    activation_bytes: usize,
}

/// Memory for the kernels, `stride` values for each thread.
struct Scratch {
    data: Buffer,
    stride: usize,
    threads: usize,
}

impl Scratch {
    /// Sees to it that every thread has room for `len` values. Called while a model is loaded, not in a step.
    fn reserve(&mut self, len: usize) {
        if self.stride < len {
            self.stride = len.next_multiple_of(Buffer::LINE);
            self.data = Buffer::new(self.threads * self.stride);
        }
    }

    /// The first thread's; the next one's lies `stride` further.
    fn first(&mut self) -> Shared<f32> {
        Shared::new(self.data.as_mut_ptr())
    }
}

impl CpuDevice {
    pub fn new(
        kernels: &'static Kernels,
        threads: usize,
        dtype: CpuDtype,
        capacity: Capacity,
        shape: BlockShape,
        group: usize,
        tensors: &TensorIndex,
    ) -> Result<Self, CpuError> {
        let blocks = capacity.kv_blocks;
        let bytes = shape.bytes().saturating_mul(blocks);
        if let Some(available) = memory::available().filter(|available| *available < bytes as u64) {
            return Err(CpuError::KvTooLarge { blocks, bytes, available });
        }
        let kv = KvRegion::new(shape, blocks).map_err(|source| CpuError::Kv { blocks, bytes, source })?;
        let mut scratch = Scratch { data: Buffer::new(0), stride: 0, threads };
        scratch.reserve(scratch_len(group.max(QUERIES), shape.dim));
        Ok(Self {
            kernels,
            pool: Pool::new(threads).map_err(CpuError::Thread)?,
            capacity,
            files: Files::open(tensors)?,
            kv,
            taken: Taken::new(&capacity),
            division: Division::new(shape, group, threads, &capacity),
            scratch,
            packed: match dtype {
                CpuDtype::Auto => PackedRegion::reserve(tensors)?,
                CpuDtype::Float32 => PackedRegion::none(),
            },
            quantized: QuantizedRows::new(capacity.batch_tokens.max(capacity.slots)),
            pieces: Vec::new(),
            activation_bytes: 0,
        })
    }

    /// Packs what is to be packed and brings the rest into memory; `progress` hears `(done, total)` bytes of stored weights.
    pub fn ready_weights(&mut self, tensors: &TensorIndex, progress: &mut dyn FnMut(u64, u64)) {
        let total = tensors.total_bytes();
        progress(0, total);
        self.files.keep(tensors, &|tensor| self.packed.holds(tensor));
        self.fill_weights(&mut |done| progress(done.min(total), total));
        progress(total, total);
    }

    /// The same, when they were [released](Self::release_weights). `progress` hears the bytes that are done.
    pub fn fill_weights(&mut self, progress: &mut dyn FnMut(u64)) {
        let mut done = self.packed.fill(&mut self.pool, progress);
        self.files.touch(&mut |bytes| {
            done += bytes;
            progress(done);
        });
    }

    /// Gives the memory of all matrices back. They are what they were when they are [filled](Self::fill_weights).
    pub fn release_weights(&mut self) -> io::Result<()> {
        self.packed.release()?;
        self.files.release()
    }

    pub fn capacity(&self) -> Capacity {
        self.capacity
    }

    pub fn reserved(&self) -> Reserved {
        let kv = self.capacity.kv_blocks * self.kv.shape().bytes();
        Reserved { weights: self.packed.bytes(), kv, activations: self.activation_bytes }
    }

    pub fn kv(&self) -> &KvRegion {
        &self.kv
    }

    pub fn kv_mut(&mut self) -> &mut KvRegion {
        &mut self.kv
    }

    /// Takes over what the next forward pass computes. `pooling`: how the model embeds, where it does.
    pub fn take(&mut self, batch: &Batch, last: &[u32], pooling: Option<Pooling>) -> Result<(), DeviceError> {
        self.taken.take(batch, &self.capacity, last, pooling).map_err(error)?;
        self.division.divide(&self.taken);
        Ok(())
    }

    /// Calls `row` for each of `rows` rows of `features` values, on several threads where that pays.
    fn each_row(&mut self, rows: usize, features: usize, row: impl Fn(usize) + Sync) {
        let per_task = DIVIDE_MIN.div_ceil(features.max(1)).min(rows.max(1));
        self.pool.run(rows.div_ceil(per_task), &|task, _| {
            (task * per_task..rows.min((task + 1) * per_task)).for_each(&row);
        });
    }
}

fn error(what: String) -> DeviceError {
    DeviceError { device: "cpu".to_owned(), what }
}

impl Device for CpuDevice {
    type Matrix = Matrix;
    type Vector = Buffer;
    type Rotation = RotationTable;
    type Activation = Activation;
    type Routing = Routing;

    fn positions(&self) -> usize {
        self.capacity.context_length
    }

    fn matrix(&mut self, parts: &[Part<'_>]) -> Result<Matrix, DeviceError> {
        let rows = parts.iter().map(|part| self.files.rows(part)).collect::<Result<_, _>>().map_err(error)?;
        let mut matrix = Matrix::stack(rows).map_err(error)?;
        for part in &mut matrix.parts {
            part.packed = self.packed.place(&part.stored).map_err(error)?;
        }
        if matrix.parts.iter().any(|part| part.packed.is_some()) {
            self.quantized.reserve(matrix.inputs / BLOCK);
        }
        self.scratch.reserve(panel_len(matrix.inputs));
        Ok(matrix)
    }

    fn vector(&mut self, parts: &[Part<'_>], offset: f32) -> Result<Buffer, DeviceError> {
        let len = parts.iter().map(|part| part.columns.len()).sum();
        let mut vector = Buffer::new(len);
        let mut rest = &mut vector.as_mut_slice()[..len];
        for part in parts {
            // A vector is stored as one row whatever its tensor's rank.
            let stored = self.files.rows(part).map_err(error)?;
            let (own, behind) = rest.split_at_mut(part.columns.len());
            stored.expand(self.kernels, 0, own);
            own.iter_mut().for_each(|value| *value += offset);
            rest = behind;
        }
        Ok(vector)
    }

    fn values(&mut self, values: &[f32]) -> Result<Buffer, DeviceError> {
        let mut vector = Buffer::new(values.len());
        vector.as_mut_slice()[..values.len()].copy_from_slice(values);
        Ok(vector)
    }

    fn rotation(&mut self, table: RotationTable) -> Result<RotationTable, DeviceError> {
        let values = self.capacity.context_length * table.dim / 2;
        if table.cos.len() < values || table.sin.len() < values {
            return Err(error(format!("{} cosines for {} positions", table.cos.len(), self.capacity.context_length)));
        }
        Ok(table)
    }

    fn activation(&mut self, rows: Rows, features: usize) -> Result<Activation, DeviceError> {
        let rows = match rows {
            Rows::Tokens => self.capacity.batch_tokens,
            Rows::Samples => self.capacity.logit_rows,
            Rows::Assignments(per_token) => self.capacity.batch_tokens * per_token,
        };
        let activation = Activation::new(rows, features);
        self.activation_bytes += rows * activation.stride() * size_of::<f32>();
        Ok(activation)
    }

    fn routing(&mut self, experts: usize, per_token: usize) -> Result<Routing, DeviceError> {
        Ok(Routing::new(experts, per_token, self.capacity.batch_tokens))
    }

    fn embed(&mut self, table: &Matrix, scale: f32, out: &mut Activation) {
        let [MatrixPart { stored, .. }] = &table.parts[..] else { panic!("an embedding is one tensor") };
        out.resize(self.taken.tokens.len());
        for (row, token) in self.taken.tokens.iter().enumerate() {
            stored.expand(self.kernels, *token as usize, out.row_mut(row));
            if scale != 1.0 {
                out.row_mut(row).iter_mut().for_each(|value| *value *= scale);
            }
        }
    }

    fn linear(&mut self, weight: &Matrix, bias: Option<&Buffer>, x: &Activation, out: &mut Activation, write: Write) {
        linear::linear(self, weight, bias, x, out, write);
    }

    fn low_rank(&mut self, adapters: &[Vec<LowRank<Buffer>>], x: &Activation, out: &mut Activation) {
        low_rank::low_rank(self, adapters, x, out);
    }

    fn rms_norm(&mut self, x: &Activation, weight: &Buffer, epsilon: f32, out: &mut Activation) {
        elementwise::rms_norm(self, x, weight, epsilon, out);
    }

    fn rotate(&mut self, rotation: &RotationTable, heads: Heads, qkv: &mut Activation) {
        elementwise::rotate(self, rotation, heads, qkv);
    }

    fn norm_heads(&mut self, query: &Buffer, key: &Buffer, epsilon: f32, heads: Heads, qkv: &mut Activation) {
        elementwise::norm_heads(self, query, key, epsilon, heads, qkv);
    }

    fn attend(&mut self, causal: Causal, qkv: &Activation, out: &mut Activation) {
        attention::attend(self, causal, qkv, out);
    }

    fn gate_mul(&mut self, gate: Gate, gate_up: &Activation, out: &mut Activation) {
        elementwise::gate_mul(self, gate, gate_up, out);
    }

    fn add(&mut self, x: &Activation, out: &mut Activation) {
        elementwise::add(self, x, out);
    }

    fn route(&mut self, logits: &Activation, renormalise: bool, routing: &mut Routing) {
        experts::route(logits, renormalise, routing);
    }

    fn dispatch(&mut self, routing: &Routing, x: &Activation, out: &mut Activation) {
        experts::dispatch(self, routing, x, out);
    }

    fn linear_experts(&mut self, routing: &Routing, weights: &[Matrix], x: &Activation, out: &mut Activation) {
        experts::linear(self, routing, weights, x, out);
    }

    fn combine(&mut self, routing: &Routing, x: &Activation, out: &mut Activation) {
        experts::combine(self, routing, x, out);
    }

    fn sampling_rows(&mut self, x: &Activation, out: &mut Activation) {
        assert!(x.features() == out.features());
        out.resize(self.taken.samples.len());
        for (row, token) in self.taken.samples.iter().enumerate() {
            out.row_mut(row).copy_from_slice(x.row(*token));
        }
    }
}
