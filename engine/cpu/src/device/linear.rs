//! Matrix products, of one matrix or of many at once: outputs are divided into tasks.

use std::ops::Range;

use engine::device::Write;

use super::CpuDevice;
use crate::buffer::{Activation, Buffer, Shared};
use crate::kernel::linear::{Linear, panel_len};
use crate::kernel::packed::PackedLinear;
use crate::kernel::packed::activation::{ActivationBlock, Quantize, ROWS};
use crate::kernel::packed::lanes::OUTPUTS;
use crate::kernel::{BLOCK, Kernels};
use crate::packed::QuantizedRows;
use crate::weights::{Matrix, MatrixPart};

pub fn linear(
    device: &mut CpuDevice,
    weight: &Matrix,
    bias: Option<&Buffer>,
    x: &Activation,
    out: &mut Activation,
    write: Write,
) {
    assert!(write == Write::Set || out.rows() == x.rows());
    out.resize(x.rows());
    let starts = [0, u32::try_from(x.rows()).expect("fewer rows than values in memory")];
    products(device, std::slice::from_ref(weight), bias, x, &starts, out, write);
}

/// Some rows of `x` that meet one matrix, quantised from row `place` on.
#[derive(Clone, Copy)]
pub struct Piece {
    matrix: usize,
    first: usize,
    rows: usize,
    place: usize,
}

/// The products of rows `starts[i] .. starts[i + 1]` of `x` with matrix `i`, all of one size, into the same rows of `out`. All matrices' tasks
/// are divided among the threads at once.
pub fn products(
    device: &mut CpuDevice,
    weights: &[Matrix],
    bias: Option<&Buffer>,
    x: &Activation,
    starts: &[u32],
    out: &mut Activation,
    write: Write,
) {
    let [Matrix { inputs, outputs, .. }, ..] = *weights else { return };
    assert!(x.features() == inputs && out.features() == outputs, "the weights are of another size");
    assert!(weights.iter().all(|weight| weight.inputs == inputs && weight.outputs == outputs));
    assert!(starts.len() == weights.len() + 1 && starts.iter().all(|start| *start as usize <= x.rows().min(out.rows())));
    assert!(bias.is_none_or(|bias| bias.len() >= outputs) && device.scratch.stride >= panel_len(inputs));
    let packed = weights.iter().flat_map(|weight| &weight.parts).any(|part| part.packed.is_some());
    let room = if packed { device.quantized.rows_max.next_multiple_of(ROWS) } else { usize::MAX };
    let operands = Operands {
        kernels: device.kernels,
        inputs,
        outputs,
        x: Shared::read(x.as_ptr()),
        x_stride: x.stride(),
        out: Shared::new(out.as_mut_ptr()),
        out_stride: out.stride(),
        bias: Shared::read(bias.map_or(std::ptr::null(), Buffer::as_ptr)),
        add: write == Write::Add,
    };
    let mut pieces = std::mem::take(&mut device.pieces);
    let mut first = starts[0] as usize;
    let mut matrix = 0;
    while matrix < weights.len() {
        pieces.clear();
        let mut place = 0;
        while matrix < weights.len() && place < room {
            let end = starts[matrix + 1] as usize;
            let rows = (end - first).min(room - place);
            if rows > 0 {
                pieces.push(Piece { matrix, first, rows, place });
                // Each matrix's rows begin a group of blocks of their own.
                place += rows.next_multiple_of(ROWS);
            }
            first += rows;
            matrix += usize::from(first == end);
        }
        let quantized = packed.then(|| device.quantized.base(place, inputs / BLOCK));
        run(device, &operands, weights, &pieces, quantized);
    }
    device.pieces = pieces;
}

/// Quantises the pieces' rows, then computes all of their outputs.
fn run(
    device: &mut CpuDevice,
    operands: &Operands,
    weights: &[Matrix],
    pieces: &[Piece],
    quantized: Option<Shared<ActivationBlock>>,
) {
    let Operands { inputs, outputs, .. } = *operands;
    if let Some(quantized) = quantized {
        // Pieces lie one behind the other.
        let first = pieces.first().map_or(0, |piece| piece.first);
        let rows = pieces.last().map_or(0, |piece| piece.first + piece.rows - first);
        device.each_row(rows, inputs, |row| {
            let piece = pieces[pieces.partition_point(|piece| piece.first <= first + row) - 1];
            let to = QuantizedRows::row(quantized, piece.place + first + row - piece.first, inputs / BLOCK);
            operands.quantize(first + row, to);
        });
    }
    let (scratch, scratch_stride) = (device.scratch.first(), device.scratch.stride);
    let per_task = outputs_per_task(outputs, device.pool.threads());
    let tasks_each = outputs.div_ceil(per_task);
    device.pool.run(pieces.len() * tasks_each, &|task, worker| {
        let piece = pieces[task / tasks_each];
        let first = task % tasks_each * per_task;
        let product = operands.of(piece, quantized);
        let panel = scratch.get().wrapping_add(worker * scratch_stride);
        product.outputs(&weights[piece.matrix].parts, first..outputs.min(first + per_task), panel);
    });
}

/// What all of a product's pieces share, sizes checked.
struct Operands {
    kernels: &'static Kernels,
    inputs: usize,
    outputs: usize,
    x: Shared<f32>,
    x_stride: usize,
    out: Shared<f32>,
    out_stride: usize,
    bias: Shared<f32>,
    add: bool,
}

impl Operands {
    fn quantize(&self, row: usize, to: *mut ActivationBlock) {
        let x = self.x.get().wrapping_add(row * self.x_stride);
        // SAFETY: `x` has this row, of `inputs` values, whole blocks as the weights have; `QuantizedRows::base` made room for it; each
        // row is one call's.
        unsafe { (self.kernels.quantize)(&Quantize { x, blocks: self.inputs / BLOCK, out: to }) }
    }

    fn of(&self, piece: Piece, quantized: Option<Shared<ActivationBlock>>) -> Product<'_> {
        Product {
            operands: self,
            x: self.x.get().wrapping_add(piece.first * self.x_stride),
            quantized: quantized.map(|base| QuantizedRows::row(base, piece.place, self.inputs / BLOCK).cast_const()),
            rows: piece.rows,
            out: self.out.get().wrapping_add(piece.first * self.out_stride),
        }
    }
}

/// One piece's product with its matrix.
struct Product<'a> {
    operands: &'a Operands,
    /// The piece's first row.
    x: *const f32,
    /// The rows of `x`, quantised, if some of the weights are packed.
    quantized: Option<*const ActivationBlock>,
    rows: usize,
    out: *mut f32,
}

impl Product<'_> {
    /// Computes some outputs, of whichever parts they are.
    fn outputs(&self, parts: &[MatrixPart], outputs: Range<usize>, panel: *mut f32) {
        let mut part_first = 0;
        for part in parts {
            let part_end = part_first + part.stored.rows;
            let own = outputs.start.max(part_first)..outputs.end.min(part_end);
            if own.start < own.end {
                self.part(part, part_first, own, panel);
            }
            part_first = part_end;
        }
    }

    /// Computes `outputs` of a part that begins at `part_first`.
    fn part(&self, part: &MatrixPart, part_first: usize, outputs: Range<usize>, panel: *mut f32) {
        let Operands { kernels, inputs, x_stride, out_stride, add, .. } = *self.operands;
        let rows = self.rows;
        if let (Some(packed), Some(quantized)) = (&part.packed, self.quantized) {
            // A strip belongs to the task in which it begins, to its end.
            let end = part_first + part.stored.rows;
            let begins = |output: usize| end.min(part_first + (output - part_first).next_multiple_of(OUTPUTS));
            let outputs = begins(outputs.start)..begins(outputs.end);
            if outputs.is_empty() {
                return;
            }
            let args = PackedLinear {
                strips: packed.strip((outputs.start - part_first) / OUTPUTS),
                strip_bytes: packed.strip_bytes,
                blocks: inputs / BLOCK,
                outputs: outputs.len(),
                x: quantized,
                rows,
                out: self.out.wrapping_add(outputs.start),
                out_stride,
                bias: self.bias(outputs.start),
                add,
            };
            // SAFETY: as below; strips are filled since the model was loaded, and `quantize` filled the rows' blocks.
            unsafe { kernels.packed(packed.dtype)(&args) }
        } else {
            let stored = &part.stored;
            let args = Linear {
                weights: stored.row(outputs.start - part_first),
                row_bytes: stored.row_bytes,
                inputs,
                outputs: outputs.len(),
                x: self.x,
                x_stride,
                rows,
                out: self.out.wrapping_add(outputs.start),
                out_stride,
                bias: self.bias(outputs.start),
                add,
                panel,
            };
            // SAFETY: `products` compared the sizes; tasks write to different columns of `out`, which is not `x`, as it is borrowed for
            // writing; each worker has its own panel.
            unsafe { kernels.linear(stored.dtype, rows)(&args) }
        }
    }

    fn bias(&self, output: usize) -> *const f32 {
        let bias = self.operands.bias.get().cast_const();
        if bias.is_null() { bias } else { bias.wrapping_add(output) }
    }
}

/// How many outputs one task computes: several tasks per thread, so that a late thread is made up for, but not so few outputs that
/// taking a task shows. A multiple of the kernels' panels, and of strips.
fn outputs_per_task(outputs: usize, threads: usize) -> usize {
    const MULTIPLE: usize = 24;
    const TASKS_PER_THREAD: usize = 6;
    match threads {
        1 => outputs.max(1),
        _ => outputs.div_ceil(threads * TASKS_PER_THREAD).next_multiple_of(MULTIPLE),
    }
}
