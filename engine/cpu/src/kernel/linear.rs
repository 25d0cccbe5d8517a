//! Matrix products with weights as they are stored.
//!
//! Few rows of `x`: each block of weights is expanded in registers and used for all of them. Many rows: a panel of
//! weight rows is expanded to memory that stays in the cache, then multiplied in tiles. Both walk the inputs in the same order.

use super::format::Format;
use super::simd::{BLOCK, LANES, Simd};

/// `out[m][n] = Σ_k x[m][k] · w[n][k] (+ bias[n]) (+ out[m][n])` for all `rows` of `x` and `outputs` rows of `w`.
pub(crate) struct Linear {
    /// First of `outputs` rows of stored weights, `row_bytes` apart, each of `inputs` weights.
    pub weights: *const u8,
    pub row_bytes: usize,
    pub inputs: usize,
    pub outputs: usize,
    /// First of `rows` rows of `inputs` values, `x_stride` apart.
    pub x: *const f32,
    pub x_stride: usize,
    pub rows: usize,
    /// First of `rows` rows of `outputs` values, `out_stride` apart.
    pub out: *mut f32,
    pub out_stride: usize,
    /// `outputs` values, or null.
    pub bias: *const f32,
    /// Whether to add to what `out` holds.
    pub add: bool,
    /// [`panel_len`]`(inputs)` values of this thread's own.
    pub panel: *mut f32,
}

/// Rows of `x` from which expanding a panel pays.
pub(crate) const PANEL_MIN_ROWS: usize = 7;
/// Rows of weights in a panel: with 1,536 inputs 144 KiB, which a second-level cache holds.
const PANEL_OUTPUTS: usize = 24;

/// Values of the scratch that [`panels`] needs.
pub(crate) const fn panel_len(inputs: usize) -> usize {
    PANEL_OUTPUTS * inputs.next_multiple_of(BLOCK)
}

/// All outputs of the `M` rows that there are, `N` at a time, each the next of its own stretch of the weights: streams side by side, as packed
/// products read their strips.
///
/// # Safety
/// `args.rows` is `M`; the pointers of `args` are good for what its fields say, nothing else writes there meanwhile, and the processor
/// has `S`.
#[inline(always)]
pub(crate) unsafe fn direct<S: Simd, F: Format, const M: usize, const N: usize>(args: &Linear) {
    let each = args.outputs / N;
    // SAFETY: outputs stay below `args.outputs`; what is left over goes one output at a time.
    unsafe {
        for output in 0..each {
            direct_tile::<S, F, M, N>(args, output, each);
        }
        for output in each * N..args.outputs {
            direct_tile::<S, F, M, 1>(args, output, 0);
        }
    }
}

#[inline(always)]
unsafe fn direct_tile<S: Simd, F: Format, const M: usize, const N: usize>(args: &Linear, output: usize, apart: usize) {
    /// How far ahead of the arithmetic weights are fetched.
    const AHEAD_BYTES: usize = 1024;
    const LINE: usize = 64;
    let block_bytes = F::offset(1);
    // SAFETY: `M` rows and outputs `output + n × apart` exist. Prefetches may point behind the weights.
    unsafe {
        let weights = args.weights.add(output * args.row_bytes);
        let apart_bytes = apart * args.row_bytes;
        let x = args.x;
        let mut sums = [[S::splat(0.0); N]; M];
        for block in 0..args.inputs / BLOCK {
            for n in 0..N {
                let row = weights.add(n * apart_bytes);
                for line in (0..block_bytes).step_by(LINE) {
                    S::prefetch(row.wrapping_add(F::offset(block) + AHEAD_BYTES + line));
                }
                let values = F::block::<S>(row, block);
                for (m, sums) in sums.iter_mut().enumerate() {
                    sums[n] = S::block_fma(values, x.add(m * args.x_stride + block * BLOCK), sums[n]);
                }
            }
        }
        let tail = args.inputs % BLOCK;
        if tail > 0 {
            let whole = args.inputs - tail;
            for n in 0..N {
                let values = tail_block::<S, F>(weights.add(n * apart_bytes + F::offset(whole / BLOCK)), tail);
                for (m, sums) in sums.iter_mut().enumerate() {
                    let mut padded = [0f32; BLOCK];
                    std::ptr::copy_nonoverlapping(x.add(m * args.x_stride + whole), padded.as_mut_ptr(), tail);
                    sums[n] = S::block_fma(values, padded.as_ptr(), sums[n]);
                }
            }
        }
        finish::<S, M, N>(args, 0, output, apart, &sums);
    }
}

/// The last `tail < 32` weights of a row, zeros behind. Only element types can end so: rows of block types are whole blocks.
#[inline(always)]
unsafe fn tail_block<S: Simd, F: Format>(from: *const u8, tail: usize) -> S::Block {
    let mut padded = [0u8; BLOCK * size_of::<f32>()];
    // SAFETY: `tail` weights are readable, and all types have zero bytes for zero.
    unsafe {
        std::ptr::copy_nonoverlapping(from, padded.as_mut_ptr(), tail / F::DTYPE.block_len() * F::DTYPE.block_bytes());
        F::block::<S>(padded.as_ptr(), 0)
    }
}

#[inline(always)]
unsafe fn finish<S: Simd, const M: usize, const N: usize>(
    args: &Linear,
    row: usize,
    output: usize,
    apart: usize,
    sums: &[[S::V; N]; M],
) {
    // SAFETY: as the caller's tile.
    unsafe {
        for (m, sums) in sums.iter().enumerate() {
            for (n, sum) in sums.iter().enumerate() {
                let output = output + n * apart;
                let out = args.out.add((row + m) * args.out_stride + output);
                let mut value = S::sum(*sum);
                if !args.bias.is_null() {
                    value += *args.bias.add(output);
                }
                if args.add {
                    value += *out;
                }
                *out = value;
            }
        }
    }
}

/// Any number of rows.
///
/// # Safety
/// As [`direct`], for any number of rows.
#[inline(always)]
pub(crate) unsafe fn panels<S: Simd, F: Format>(args: &Linear) {
    let stride = args.inputs.next_multiple_of(BLOCK);
    let mut first = 0;
    while first < args.outputs {
        let outputs = PANEL_OUTPUTS.min(args.outputs - first);
        // SAFETY: the panel has room for PANEL_OUTPUTS rows of `stride`; rows and outputs exist.
        unsafe {
            for n in 0..outputs {
                expand::<S, F>(args.weights.add((first + n) * args.row_bytes), args.inputs, args.panel.add(n * stride));
            }
            let mut row = 0;
            while row < args.rows {
                match args.rows - row {
                    1 => panel_rows::<S, 1>(args, stride, row, first, outputs),
                    2 => panel_rows::<S, 2>(args, stride, row, first, outputs),
                    _ => panel_rows::<S, 3>(args, stride, row, first, outputs),
                }
                row += 3;
            }
        }
        first += outputs;
    }
}

/// All of a panel's outputs for `M` rows of `x`.
#[inline(always)]
unsafe fn panel_rows<S: Simd, const M: usize>(args: &Linear, stride: usize, row: usize, first: usize, outputs: usize) {
    // SAFETY: as `panels`.
    unsafe {
        let x = args.x.add(row * args.x_stride);
        let mut n = 0;
        while n + 2 <= outputs {
            let sums = dot_tile::<S, M, 2>(x, args.x_stride, args.panel.add(n * stride), stride, args.inputs);
            finish::<S, M, 2>(args, row, first + n, 1, &sums);
            n += 2;
        }
        while n < outputs {
            let sums = dot_tile::<S, M, 1>(x, args.x_stride, args.panel.add(n * stride), stride, args.inputs);
            finish::<S, M, 1>(args, row, first + n, 1, &sums);
            n += 1;
        }
    }
}

/// Dot products of `M` rows of `x` with `N` rows of `w`, per lane.
///
/// # Safety
/// `M` rows of `len` values lie `x_stride` apart at `x`, `N` rows `w_stride` apart at `w`; the processor has `S`.
#[inline(always)]
pub(crate) unsafe fn dot_tile<S: Simd, const M: usize, const N: usize>(
    x: *const f32,
    x_stride: usize,
    w: *const f32,
    w_stride: usize,
    len: usize,
) -> [[S::V; N]; M] {
    let mut sums = [[unsafe { S::splat(0.0) }; N]; M];
    let whole = len - len % LANES;
    // SAFETY: all reads are within `len` values of their row.
    unsafe {
        let mut at = 0;
        while at < whole {
            let mut values = [S::splat(0.0); N];
            for (n, value) in values.iter_mut().enumerate() {
                *value = S::load(w.add(n * w_stride + at));
            }
            for (m, sums) in sums.iter_mut().enumerate() {
                let x = S::load(x.add(m * x_stride + at));
                for n in 0..N {
                    sums[n] = S::fma(values[n], x, sums[n]);
                }
            }
            at += LANES;
        }
        if whole < len {
            for (m, sums) in sums.iter_mut().enumerate() {
                let x = S::load_partial(x.add(m * x_stride + whole), len - whole);
                for (n, sum) in sums.iter_mut().enumerate() {
                    *sum = S::fma(S::load_partial(w.add(n * w_stride + whole), len - whole), x, *sum);
                }
            }
        }
    }
    sums
}

/// Expands `weights` stored weights to f32 at `out`.
///
/// # Safety
/// The stored weights are readable, `out` has room for `weights` values, and the processor has `S`.
#[inline(always)]
pub(crate) unsafe fn expand<S: Simd, F: Format>(stored: *const u8, weights: usize, out: *mut f32) {
    let tail = weights % BLOCK;
    // SAFETY: whole blocks, then the tail through a buffer of a block's size.
    unsafe {
        for block in 0..weights / BLOCK {
            S::block_store(F::block::<S>(stored, block), out.add(block * BLOCK));
        }
        if tail > 0 {
            let whole = weights - tail;
            let mut padded = [0f32; BLOCK];
            S::block_store(tail_block::<S, F>(stored.add(F::offset(whole / BLOCK)), tail), padded.as_mut_ptr());
            std::ptr::copy_nonoverlapping(padded.as_ptr(), out.add(whole), tail);
        }
    }
}
