//! The operations of [`Device`] on the CPU: each checks its sizes, divides its work into tasks by rows or outputs, and calls kernels.

use engine::backend::{Batch, Capacity, DeviceError};
use engine::device::{Device, Heads, Part, RotationTable, Rows, Write};
use engine_assets::TensorIndex;

use crate::buffer::{Activation, Buffer, Shared};
use crate::error::CpuError;
use crate::kernel::Kernels;
use crate::kernel::attend::{Attend, QUERIES, scratch_len};
use crate::kernel::elementwise::{RmsNorm, Rotate, SiluMul};
use crate::kernel::linear::{Linear, panel_len};
use crate::kv::{BlockShape, KvRegion};
use crate::pool::Pool;
use crate::taken::Taken;
use crate::weights::{Files, Matrix};

/// Values of one operation below which dividing it among threads costs more than it gains.
const DIVIDE_MIN: usize = 16 * 1024;

pub(crate) struct CpuDevice {
    pub kernels: &'static Kernels,
    pub pool: Pool,
    capacity: Capacity,
    files: Files,
    kv: KvRegion,
    /// Query heads per key/value head.
    group: usize,
    taken: Taken,
    scratch: Scratch,
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
        capacity: Capacity,
        shape: BlockShape,
        group: usize,
        tensors: &TensorIndex,
    ) -> Result<Self, CpuError> {
        let blocks = capacity.kv_blocks;
        let kv = KvRegion::new(shape, blocks).map_err(|source| {
            let bytes = shape.bytes().saturating_mul(blocks);
            CpuError::Kv { blocks, bytes, source }
        })?;
        let mut scratch = Scratch { data: Buffer::new(0), stride: 0, threads };
        scratch.reserve(scratch_len(group.max(QUERIES), shape.dim, capacity.context_length));
        Ok(Self {
            kernels,
            pool: Pool::new(threads).map_err(CpuError::Thread)?,
            capacity,
            files: Files::open(tensors)?,
            kv,
            group,
            taken: Taken::new(&capacity),
            scratch,
        })
    }

    pub fn touch_weights(&self, tensors: &TensorIndex, progress: &mut dyn FnMut(u64, u64)) {
        self.files.touch(tensors, progress);
    }

    pub fn capacity(&self) -> Capacity {
        self.capacity
    }

    /// Takes over what the next forward pass computes.
    pub fn take(&mut self, batch: &Batch, last: &[u32]) -> Result<(), DeviceError> {
        self.taken.take(batch, &self.capacity, last, self.group).map_err(error)
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

    fn positions(&self) -> usize {
        self.capacity.context_length
    }

    fn matrix(&mut self, parts: &[Part<'_>]) -> Result<Matrix, DeviceError> {
        let rows = parts.iter().map(|part| self.files.rows(part)).collect::<Result<_, _>>().map_err(error)?;
        let matrix = Matrix::stack(rows).map_err(error)?;
        self.scratch.reserve(panel_len(matrix.inputs));
        Ok(matrix)
    }

    fn vector(&mut self, parts: &[Part<'_>]) -> Result<Buffer, DeviceError> {
        let len = parts.iter().map(|part| part.columns.len()).sum();
        let mut vector = Buffer::new(len);
        let mut rest = &mut vector.as_mut_slice()[..len];
        for part in parts {
            // A vector is stored as one row whatever its tensor's rank.
            let stored = self.files.rows(part).map_err(error)?;
            let (own, behind) = rest.split_at_mut(part.columns.len());
            stored.expand(self.kernels, 0, own);
            rest = behind;
        }
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
            Rows::Samples => self.capacity.slots,
        };
        Ok(Activation::new(rows, features))
    }

    fn embed(&mut self, table: &Matrix, out: &mut Activation) {
        let [stored] = &table.parts[..] else { panic!("an embedding is one tensor") };
        out.resize(self.taken.tokens.len());
        for (row, token) in self.taken.tokens.iter().enumerate() {
            stored.expand(self.kernels, *token as usize, out.row_mut(row));
        }
    }

    fn linear(&mut self, weight: &Matrix, bias: Option<&Buffer>, x: &Activation, out: &mut Activation, write: Write) {
        let (rows, add) = (x.rows(), write == Write::Add);
        assert!(x.features() == weight.inputs && out.features() == weight.outputs, "the weights are of another size");
        assert!(bias.is_none_or(|bias| bias.len() >= weight.outputs) && (!add || out.rows() == rows));
        assert!(self.scratch.stride >= panel_len(weight.inputs));
        out.resize(rows);
        let (x_stride, out_stride) = (x.stride(), out.stride());
        let (x, out) = (Shared::read(x.as_ptr()), Shared::new(out.as_mut_ptr()));
        let bias = Shared::read(bias.map_or(std::ptr::null(), Buffer::as_ptr));
        let (kernels, scratch, scratch_stride) = (self.kernels, self.scratch.first(), self.scratch.stride);
        let per_task = outputs_per_task(weight.outputs, self.pool.threads());
        self.pool.run(weight.outputs.div_ceil(per_task), &|task, worker| {
            let (mut first, end) = (task * per_task, weight.outputs.min((task + 1) * per_task));
            let mut part_first = 0;
            for part in &weight.parts {
                let part_end = part_first + part.rows;
                if first < end.min(part_end) {
                    let outputs = end.min(part_end) - first;
                    let bias = if bias.get().is_null() { bias.get() } else { bias.get().wrapping_add(first) };
                    let args = Linear {
                        weights: part.row(first - part_first),
                        row_bytes: part.row_bytes,
                        inputs: weight.inputs,
                        outputs,
                        x: x.get(),
                        x_stride,
                        rows,
                        out: out.get().wrapping_add(first),
                        out_stride,
                        bias,
                        add,
                        panel: scratch.get().wrapping_add(worker * scratch_stride),
                    };
                    // SAFETY: sizes were compared above; tasks write to different columns of `out`, which is not `x`, as it is borrowed
                    // for writing; each worker has its own panel.
                    unsafe { kernels.linear(part.dtype, rows)(&args) };
                    first += outputs;
                }
                part_first = part_end;
            }
        });
    }

    fn rms_norm(&mut self, x: &Activation, weight: &Buffer, epsilon: f32, out: &mut Activation) {
        let (rows, len) = (x.rows(), x.features());
        assert!(out.features() == len && weight.len() >= len);
        out.resize(rows);
        let (x_stride, out_stride) = (x.stride(), out.stride());
        let (x, weight, out) = (Shared::read(x.as_ptr()), Shared::read(weight.as_ptr()), Shared::new(out.as_mut_ptr()));
        let kernel = self.kernels.rms_norm;
        self.each_row(rows, len, |row| {
            let (x, out) = (x.get().wrapping_add(row * x_stride), out.get().wrapping_add(row * out_stride));
            // SAFETY: both activations have this row, of `len` values, as has the weight; each row is one call's.
            unsafe { kernel(&RmsNorm { x, weight: weight.get(), epsilon, out, len }) }
        });
    }

    fn rotate(&mut self, rotation: &RotationTable, heads: Heads, qkv: &mut Activation) {
        assert!(qkv.features() == heads.qkv_features() && rotation.dim == heads.dim && qkv.rows() == self.taken.positions.len());
        let (rows, stride, half) = (qkv.rows(), qkv.stride(), heads.dim / 2);
        let x = Shared::new(qkv.as_mut_ptr());
        let kernel = self.kernels.rotate;
        let positions = std::mem::take(&mut self.taken.positions);
        self.each_row(rows, heads.qkv_features(), |row| {
            let at = positions[row] as usize * half;
            let args = Rotate {
                x: x.get().wrapping_add(row * stride),
                heads: heads.query + heads.kv,
                dim: heads.dim,
                cos: rotation.cos[at..at + half].as_ptr(),
                sin: rotation.sin[at..at + half].as_ptr(),
                pairing: rotation.pairing,
            };
            // SAFETY: a row holds queries, then keys, then values; the table's rows are `half` long; each row is one call's.
            unsafe { kernel(&args) }
        });
        self.taken.positions = positions;
    }

    fn attend(&mut self, layer: usize, heads: Heads, qkv: &Activation, out: &mut Activation) {
        let shape = self.kv.shape();
        assert!(shape.kv_heads == heads.kv && shape.dim == heads.dim && heads.query.is_multiple_of(heads.kv));
        assert!(qkv.features() == heads.qkv_features() && out.features() == heads.query * heads.dim);
        assert!(qkv.rows() == self.taken.tokens.len());
        out.resize(qkv.rows());
        self.store_kv(layer, heads, qkv);

        let group = heads.query / heads.kv;
        assert!(group == self.group);
        let keys = Shared::new(self.kv.keys(layer));
        let (scratch, scratch_stride) = (self.scratch.first(), self.scratch.stride);
        let (q_stride, out_stride) = (qkv.stride(), out.stride());
        let (q, out) = (Shared::read(qkv.as_ptr()), Shared::new(out.as_mut_ptr()));
        let (kernel, taken) = (self.kernels.attend, &self.taken);
        // The longest contexts last in a batch would leave threads idle at the end, but order costs a sort; tiles are small.
        self.pool.run(taken.queries.len() * heads.kv, &|task, worker| {
            let (tile, head) = (&taken.queries[task / heads.kv], task % heads.kv);
            let column = head * group * heads.dim;
            let keys = keys.get().wrapping_add(head * shape.head_len());
            let args = Attend {
                q: q.get().wrapping_add(tile.first * q_stride + column),
                q_stride,
                tokens: tile.tokens,
                group,
                dim: heads.dim,
                position: taken.positions[tile.first] as usize,
                keys,
                values: keys.wrapping_add(shape.half_len()),
                block_stride: shape.len(),
                block_tokens: shape.tokens,
                blocks: taken.blocks[taken.rows[tile.row].clone()].as_ptr(),
                scale: 1.0 / (heads.dim as f32).sqrt(),
                out: out.get().wrapping_add(tile.first * out_stride + column),
                out_stride,
                scratch: scratch.get().wrapping_add(worker * scratch_stride),
            };
            // SAFETY: `Taken::take` checked that the row's blocks exist and cover its positions; the cache is only read now; tasks
            // write to different heads or tokens of `out`; each worker has its own scratch, large enough for any context.
            unsafe { kernel(&args) }
        });
    }

    fn silu_mul(&mut self, gate_up: &Activation, out: &mut Activation) {
        let (rows, len) = (gate_up.rows(), out.features());
        assert!(gate_up.features() == 2 * len);
        out.resize(rows);
        let (x_stride, out_stride) = (gate_up.stride(), out.stride());
        let (x, out) = (Shared::read(gate_up.as_ptr()), Shared::new(out.as_mut_ptr()));
        let kernel = self.kernels.silu_mul;
        self.each_row(rows, len, |row| {
            let gate = x.get().wrapping_add(row * x_stride);
            let args = SiluMul { gate, up: gate.wrapping_add(len), out: out.get().wrapping_add(row * out_stride), len };
            // SAFETY: a row of `gate_up` holds twice `len` values, one of `out` holds `len`; each row is one call's.
            unsafe { kernel(&args) }
        });
    }

    fn sampling_rows(&mut self, x: &Activation, out: &mut Activation) {
        assert!(x.features() == out.features());
        out.resize(self.taken.samples.len());
        for (row, token) in self.taken.samples.iter().enumerate() {
            out.row_mut(row).copy_from_slice(x.row(*token));
        }
    }
}

impl CpuDevice {
    /// Writes all keys and values of the batch before any query reads: a row may share blocks with a row of the same batch.
    fn store_kv(&mut self, layer: usize, heads: Heads, qkv: &Activation) {
        let shape = self.kv.shape();
        let base = Shared::new(self.kv.keys(layer));
        let (stride, q_features) = (qkv.stride(), heads.query * heads.dim);
        let x = Shared::read(qkv.as_ptr());
        let taken = std::mem::take(&mut self.taken);
        let (rows, positions) = (&taken.rows, &taken.positions);
        self.each_row(taken.queries.len(), QUERIES * 2 * heads.kv * heads.dim, |tile| {
            let tile = &taken.queries[tile];
            let blocks = &taken.blocks[rows[tile.row].clone()];
            for (token, position) in positions.iter().enumerate().skip(tile.first).take(tile.tokens) {
                let (block, at) = (blocks[*position as usize / shape.tokens], *position as usize % shape.tokens);
                for half in 0..2 {
                    for head in 0..heads.kv {
                        let from = x.get().wrapping_add(token * stride + q_features + (half * heads.kv + head) * heads.dim);
                        let offset = block.0 as usize * shape.len() + half * shape.half_len() + head * shape.head_len();
                        // SAFETY: the block exists (`Taken::take`), the position lies in it, the activation has the token's row. Only
                        // this request's row writes to this position: blocks that requests share are full and never written again.
                        unsafe { std::ptr::copy_nonoverlapping(from, base.get().add(offset + at * heads.dim), heads.dim) };
                    }
                }
            }
        });
        self.taken = taken;
    }
}

/// How many outputs one task computes: several tasks per thread, so that a late thread is made up for, but not so few outputs that
/// taking a task shows. A multiple of the kernels' panels.
fn outputs_per_task(outputs: usize, threads: usize) -> usize {
    const MULTIPLE: usize = 24;
    const TASKS_PER_THREAD: usize = 6;
    match threads {
        1 => outputs.max(1),
        _ => outputs.div_ceil(threads * TASKS_PER_THREAD).next_multiple_of(MULTIPLE),
    }
}
