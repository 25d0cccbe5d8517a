//! Matrix products: outputs are divided into tasks.

use std::ops::Range;

use engine::device::Write;

use super::CpuDevice;
use crate::buffer::{Activation, Buffer, Shared};
use crate::kernel::linear::{Linear, panel_len};
use crate::weights::Matrix;

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
    let (x_stride, out_stride) = (x.stride(), out.stride());
    let x = Shared::read(x.as_ptr().wrapping_add(chosen.start * x_stride));
    let out = Shared::new(out.as_mut_ptr().wrapping_add(chosen.start * out_stride));
    let bias = Shared::read(bias.map_or(std::ptr::null(), Buffer::as_ptr));
    let (kernels, scratch, scratch_stride) = (device.kernels, device.scratch.first(), device.scratch.stride);
    let per_task = outputs_per_task(weight.outputs, device.pool.threads());
    device.pool.run(weight.outputs.div_ceil(per_task), &|task, worker| {
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
