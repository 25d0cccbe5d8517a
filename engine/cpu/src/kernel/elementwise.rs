//! Kernels over single tokens: normalisation, the gate of the feed-forward layer, rotary positions.

use engine_assets::RopePairing;

use super::simd::{LANES, Simd, exp};

/// `out = x / sqrt(mean(x²) + epsilon) · weight` over `len` values.
pub(crate) struct RmsNorm {
    pub x: *const f32,
    pub weight: *const f32,
    pub epsilon: f32,
    pub out: *mut f32,
    pub len: usize,
}

/// `out = f(gate) · up` over `len` values.
pub(crate) struct GateMul {
    pub gate: *const f32,
    pub up: *const f32,
    pub out: *mut f32,
    pub len: usize,
}

/// Turns `heads` heads of `dim` values, one after the other at `x`, by one position.
pub(crate) struct Rotate {
    pub x: *mut f32,
    pub heads: usize,
    pub dim: usize,
    /// `dim / 2` values each.
    pub cos: *const f32,
    pub sin: *const f32,
    pub pairing: RopePairing,
}

/// # Safety
/// The pointers of `args` are good for what its fields say, nothing else writes there meanwhile, and the processor has `S`.
#[inline(always)]
pub(crate) unsafe fn rms_norm<S: Simd>(args: &RmsNorm) {
    let whole = args.len - args.len % LANES;
    let tail = args.len - whole;
    // SAFETY: whole vectors, then the tail by itself.
    unsafe {
        let mut squares = S::splat(0.0);
        for at in (0..whole).step_by(LANES) {
            let x = S::load(args.x.add(at));
            squares = S::fma(x, x, squares);
        }
        if tail > 0 {
            let x = S::load_partial(args.x.add(whole), tail);
            squares = S::fma(x, x, squares);
        }
        let mean = S::sum(squares) / args.len as f32;
        let factor = 1.0 / (mean + args.epsilon).sqrt();
        let factors = S::splat(factor);
        for at in (0..whole).step_by(LANES) {
            S::store(args.out.add(at), S::mul(S::mul(S::load(args.x.add(at)), factors), S::load(args.weight.add(at))));
        }
        for at in whole..args.len {
            *args.out.add(at) = *args.x.add(at) * factor * *args.weight.add(at);
        }
    }
}

/// `f(x) = x / (1 + exp(-x))`; with `GELU`, `f(x) = x / 2 · (1 + tanh(u))`, `u = √(2/π) · (x + 0.044715 x³)`, which is
/// `x / (1 + exp(-2u))`.
///
/// # Safety
/// As [`rms_norm`].
#[inline(always)]
pub(crate) unsafe fn gate_mul<S: Simd, const GELU: bool>(args: &GateMul) {
    #[inline(always)]
    unsafe fn vector<S: Simd, const GELU: bool>(gate: S::V, up: S::V) -> S::V {
        /// √(8/π).
        const SLOPE: f32 = 1.595_769;
        // SAFETY: arithmetic on values only.
        unsafe {
            let u = if GELU {
                let cubic = S::fma(S::mul(gate, gate), S::splat(0.044_715), S::splat(1.0));
                S::mul(S::mul(gate, S::splat(SLOPE)), cubic)
            } else {
                gate
            };
            let e = exp::<S>(S::sub(S::splat(0.0), u));
            S::mul(S::div(gate, S::add(S::splat(1.0), e)), up)
        }
    }
    let whole = args.len - args.len % LANES;
    let tail = args.len - whole;
    // SAFETY: whole vectors, then the tail by itself.
    unsafe {
        for at in (0..whole).step_by(LANES) {
            S::store(args.out.add(at), vector::<S, GELU>(S::load(args.gate.add(at)), S::load(args.up.add(at))));
        }
        if tail > 0 {
            let result =
                vector::<S, GELU>(S::load_partial(args.gate.add(whole), tail), S::load_partial(args.up.add(whole), tail));
            S::store_partial(args.out.add(whole), result, tail);
        }
    }
}

/// # Safety
/// As [`rms_norm`].
#[inline(always)]
pub(crate) unsafe fn rotate(args: &Rotate) {
    let half = args.dim / 2;
    for head in 0..args.heads {
        // SAFETY: `heads` heads of `dim` values, `half` cosines and sines.
        let (x, cos, sin) = unsafe {
            (
                std::slice::from_raw_parts_mut(args.x.add(head * args.dim), args.dim),
                std::slice::from_raw_parts(args.cos, half),
                std::slice::from_raw_parts(args.sin, half),
            )
        };
        match args.pairing {
            RopePairing::Halves => {
                let (left, right) = x.split_at_mut(half);
                for (((a, b), cos), sin) in left.iter_mut().zip(right).zip(cos).zip(sin) {
                    (*a, *b) = turn(*a, *b, *cos, *sin);
                }
            }
            RopePairing::Adjacent => {
                for ((pair, cos), sin) in x.chunks_exact_mut(2).zip(cos).zip(sin) {
                    (pair[0], pair[1]) = turn(pair[0], pair[1], *cos, *sin);
                }
            }
        }
    }
}

#[inline(always)]
fn turn(a: f32, b: f32, cos: f32, sin: f32) -> (f32, f32) {
    (a * cos - b * sin, b * cos + a * sin)
}
