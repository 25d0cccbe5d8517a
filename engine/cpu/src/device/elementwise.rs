//! What goes row by row: norms, rotation, activation functions.

use engine::device::{Heads, RotationTable};

use super::CpuDevice;
use crate::buffer::{Activation, Buffer, Shared};
use crate::kernel::elementwise::{RmsNorm, Rotate, SiluMul};

pub fn rms_norm(device: &mut CpuDevice, x: &Activation, weight: &Buffer, epsilon: f32, out: &mut Activation) {
    let (rows, len) = (x.rows(), x.features());
    assert!(out.features() == len && weight.len() >= len);
    out.resize(rows);
    let (x_stride, out_stride) = (x.stride(), out.stride());
    let (x, weight, out) = (Shared::read(x.as_ptr()), Shared::read(weight.as_ptr()), Shared::new(out.as_mut_ptr()));
    let kernel = device.kernels.rms_norm;
    device.each_row(rows, len, |row| {
        let (x, out) = (x.get().wrapping_add(row * x_stride), out.get().wrapping_add(row * out_stride));
        // SAFETY: both activations have this row, of `len` values, as has the weight; each row is one call's.
        unsafe { kernel(&RmsNorm { x, weight: weight.get(), epsilon, out, len }) }
    });
}

pub fn rotate(device: &mut CpuDevice, rotation: &RotationTable, heads: Heads, qkv: &mut Activation) {
    assert!(qkv.features() == heads.qkv_features() && rotation.dim == heads.dim && qkv.rows() == device.taken.positions.len());
    let (rows, stride, half) = (qkv.rows(), qkv.stride(), heads.dim / 2);
    let x = Shared::new(qkv.as_mut_ptr());
    let kernel = device.kernels.rotate;
    let positions = std::mem::take(&mut device.taken.positions);
    device.each_row(rows, heads.qkv_features(), |row| {
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
    device.taken.positions = positions;
}

pub fn silu_mul(device: &mut CpuDevice, gate_up: &Activation, out: &mut Activation) {
    let (rows, len) = (gate_up.rows(), out.features());
    assert!(gate_up.features() == 2 * len);
    out.resize(rows);
    let (x_stride, out_stride) = (gate_up.stride(), out.stride());
    let (x, out) = (Shared::read(gate_up.as_ptr()), Shared::new(out.as_mut_ptr()));
    let kernel = device.kernels.silu_mul;
    device.each_row(rows, len, |row| {
        let gate = x.get().wrapping_add(row * x_stride);
        let args = SiluMul { gate, up: gate.wrapping_add(len), out: out.get().wrapping_add(row * out_stride), len };
        // SAFETY: a row of `gate_up` holds twice `len` values, one of `out` holds `len`; each row is one call's.
        unsafe { kernel(&args) }
    });
}
