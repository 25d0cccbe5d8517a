//! What goes row by row: norms, rotation, activation functions.

use engine::device::{Gate, Heads, RotationTable};

use super::CpuDevice;
use crate::buffer::{Activation, Buffer, Shared};
use crate::kernel::elementwise::{GateMul, RmsNorm, Rotate};

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

pub fn norm_heads(device: &mut CpuDevice, query: &Buffer, key: &Buffer, epsilon: f32, heads: Heads, qkv: &mut Activation) {
    assert!(qkv.features() == heads.qkv_features() && query.len() >= heads.dim && key.len() >= heads.dim);
    let (rows, stride) = (qkv.rows(), qkv.stride());
    let x = Shared::new(qkv.as_mut_ptr());
    let (query, key) = (Shared::read(query.as_ptr()), Shared::read(key.as_ptr()));
    let kernel = device.kernels.rms_norm;
    device.each_row(rows, heads.qkv_features(), |row| {
        for head in 0..heads.query + heads.kv {
            let x = x.get().wrapping_add(row * stride + head * heads.dim);
            let weight = if head < heads.query { query } else { key };
            // SAFETY: a row holds queries, then keys, then values, `dim` each; the weights have as many; each value is read before the
            // result is written in its place; each row is one call's.
            unsafe { kernel(&RmsNorm { x, weight: weight.get(), epsilon, out: x, len: heads.dim }) }
        }
    });
}

pub fn gate_mul(device: &mut CpuDevice, gate: Gate, gate_up: &Activation, out: &mut Activation) {
    let (rows, len) = (gate_up.rows(), out.features());
    assert!(gate_up.features() == 2 * len);
    out.resize(rows);
    let (x_stride, out_stride) = (gate_up.stride(), out.stride());
    let (x, out) = (Shared::read(gate_up.as_ptr()), Shared::new(out.as_mut_ptr()));
    let kernel = match gate {
        Gate::Silu => device.kernels.silu_mul,
        Gate::GeluTanh => device.kernels.gelu_mul,
    };
    device.each_row(rows, len, |row| {
        let gate = x.get().wrapping_add(row * x_stride);
        let args = GateMul { gate, up: gate.wrapping_add(len), out: out.get().wrapping_add(row * out_stride), len };
        // SAFETY: a row of `gate_up` holds twice `len` values, one of `out` holds `len`; each row is one call's.
        unsafe { kernel(&args) }
    });
}

pub fn add(device: &mut CpuDevice, x: &Activation, out: &mut Activation) {
    let (rows, len) = (x.rows(), x.features());
    assert!(out.features() == len && out.rows() == rows);
    let (x_stride, out_stride) = (x.stride(), out.stride());
    let (x, out) = (Shared::read(x.as_ptr()), Shared::new(out.as_mut_ptr()));
    device.each_row(rows, len, |row| {
        // SAFETY: both activations have this row, of `len` values; each row is one call's.
        let (x, out) = unsafe {
            (
                std::slice::from_raw_parts(x.get().add(row * x_stride), len),
                std::slice::from_raw_parts_mut(out.get().add(row * out_stride), len),
            )
        };
        out.iter_mut().zip(x).for_each(|(out, x)| *out += x);
    });
}
