//! Matrix products: outputs are divided into tasks.

use std::ops::Range;

use engine::device::Write;

use super::CpuDevice;
use crate::buffer::{Activation, Buffer, Shared};
use crate::kernel::linear::{Linear, panel_len};
use crate::kernel::packed::PackedLinear;
use crate::kernel::packed::activation::{ActivationBlock, Quantize};
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
    linear_rows(device, weight, bias, x, 0..x.rows(), out, write);
}

/// The product of some rows of `x`, into the same rows of `out`, which has them.
pub fn linear_rows(
    device: &mut CpuDevice,
    weight: &Matrix,
    bias: Option<&Buffer>,
    x: &Activation,
    chosen: Range<usize>,
    out: &mut Activation,
    write: Write,
) {
    let (rows, add) = (chosen.len(), write == Write::Add);
    assert!(x.features() == weight.inputs && out.features() == weight.outputs, "the weights are of another size");
    assert!(bias.is_none_or(|bias| bias.len() >= weight.outputs) && chosen.end <= x.rows() && chosen.end <= out.rows());
    assert!(device.scratch.stride >= panel_len(weight.inputs));
    let packed = weight.parts.iter().any(|part| part.packed.is_some());
    let rows_at_once = if packed { device.quantized.rows_max } else { rows.max(1) };
    for first in chosen.clone().step_by(rows_at_once) {
        let rows = rows_at_once.min(chosen.end - first);
        let (x_stride, out_stride) = (x.stride(), out.stride());
        let product = Product {
            kernels: device.kernels,
            inputs: weight.inputs,
            x: Shared::read(x.as_ptr().wrapping_add(first * x_stride)),
            x_stride,
            quantized: packed.then(|| device.quantized.base(rows, weight.inputs / BLOCK)),
            rows,
            out: Shared::new(out.as_mut_ptr().wrapping_add(first * out_stride)),
            out_stride,
            bias: Shared::read(bias.map_or(std::ptr::null(), Buffer::as_ptr)),
            add,
        };
        if let Some(quantized) = product.quantized {
            device.each_row(rows, weight.inputs, |row| product.quantize(quantized, row));
        }
        let (scratch, scratch_stride) = (device.scratch.first(), device.scratch.stride);
        let per_task = outputs_per_task(weight.outputs, device.pool.threads());
        device.pool.run(weight.outputs.div_ceil(per_task), &|task, worker| {
            let outputs = task * per_task..weight.outputs.min((task + 1) * per_task);
            let panel = scratch.get().wrapping_add(worker * scratch_stride);
            product.outputs(&weight.parts, outputs, panel);
        });
    }
}

/// One matrix product, sizes checked: what its tasks share.
struct Product {
    kernels: &'static Kernels,
    inputs: usize,
    x: Shared<f32>,
    x_stride: usize,
    /// The rows of `x`, quantised, if some of the weights are packed.
    quantized: Option<Shared<ActivationBlock>>,
    rows: usize,
    out: Shared<f32>,
    out_stride: usize,
    bias: Shared<f32>,
    add: bool,
}

impl Product {
    fn quantize(&self, to: Shared<ActivationBlock>, row: usize) {
        let blocks = self.inputs / BLOCK;
        let x = self.x.get().wrapping_add(row * self.x_stride);
        // SAFETY: `x` has this row, of `inputs` values, whole blocks as the weights have; `QuantizedRows::base` made room for it; each
        // row is one call's.
        unsafe { (self.kernels.quantize)(&Quantize { x, blocks, out: QuantizedRows::row(to, row, blocks) }) }
    }

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
        let Self { kernels, inputs, rows, out_stride, add, .. } = *self;
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
                x: quantized.get(),
                rows,
                out: self.out.get().wrapping_add(outputs.start),
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
                x: self.x.get(),
                x_stride: self.x_stride,
                rows,
                out: self.out.get().wrapping_add(outputs.start),
                out_stride,
                bias: self.bias(outputs.start),
                add,
                panel,
            };
            // SAFETY: `linear` compared the sizes; tasks write to different columns of `out`, which is not `x`, as it is borrowed for
            // writing; each worker has its own panel.
            unsafe { kernels.linear(stored.dtype, rows)(&args) }
        }
    }

    fn bias(&self, output: usize) -> *const f32 {
        let bias = self.bias.get().cast_const();
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
