//! Low-rank adapters: a few dot products per token, in an order of sums that depends on the adapter alone.

use engine::device::LowRank;
use engine_assets::MAX_ADAPTER_RANK;

use super::CpuDevice;
use crate::buffer::{Activation, Buffer, Shared};

pub fn low_rank(device: &mut CpuDevice, adapters: &[Vec<LowRank<Buffer>>], x: &Activation, out: &mut Activation) {
    let (tokens, features, out_stride) = (out.rows(), out.features(), out.stride());
    assert!(x.rows() == tokens && tokens == device.taken.adapters.len());
    for part in adapters.iter().flatten() {
        assert!(part.inputs == x.features() && part.outputs.end <= features && part.rank <= MAX_ADAPTER_RANK);
        assert!(part.a.len() >= part.rank * part.inputs && part.b.len() >= part.outputs.len() * part.rank);
    }
    let to = Shared::new(out.as_mut_ptr());
    let of_token = std::mem::take(&mut device.taken.adapters);
    device.each_row(tokens, features, |token| {
        let Some(parts) = of_token[token].and_then(|slot| adapters.get(slot.0 as usize)) else { return };
        // SAFETY: `out` has this row, of `features` values; each row is one call's.
        let out = unsafe { std::slice::from_raw_parts_mut(to.get().add(token * out_stride), features) };
        parts.iter().for_each(|part| add(part, x.row(token), out));
    });
    device.taken.adapters = of_token;
}

fn add(part: &LowRank<Buffer>, x: &[f32], out: &mut [f32]) {
    let mut narrow = [0f32; MAX_ADAPTER_RANK];
    let narrow = &mut narrow[..part.rank];
    for (value, row) in narrow.iter_mut().zip(part.a.as_slice().chunks_exact(part.inputs)) {
        *value = dot(row, x) * part.scale;
    }
    for (value, row) in out[part.outputs.clone()].iter_mut().zip(part.b.as_slice().chunks_exact(part.rank)) {
        *value += dot(row, narrow);
    }
}

/// Eight chains of sums, so that the compiler can use vectors.
fn dot(a: &[f32], b: &[f32]) -> f32 {
    const LANES: usize = 8;
    let mut sums = [0f32; LANES];
    let (whole, rest) = (a.chunks_exact(LANES), b.chunks_exact(LANES));
    let tail: f32 = whole.remainder().iter().zip(rest.remainder()).map(|(a, b)| a * b).sum();
    for (a, b) in whole.zip(rest) {
        for ((sum, a), b) in sums.iter_mut().zip(a).zip(b) {
            *sum += a * b;
        }
    }
    sums.iter().sum::<f32>() + tail
}
