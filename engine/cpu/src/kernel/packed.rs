//! Matrix products of quantised weights, repacked, and activations quantised to eight bits.
//!
//! Weights lie in strips of eight outputs ([`format`]), activations in blocks of 32 bytes ([`activation`]). The value of an output is
//! one chain of multiply-adds over the blocks of its inputs, each an exact integer times the product of two scales; it depends on that
//! output's weights and that row of activations alone, and is the same, bit for bit, for any number of rows or threads and on every
//! instruction set.

pub(crate) mod activation;
#[cfg(target_arch = "x86_64")]
pub(crate) mod avx2;
pub(crate) mod format;
pub(crate) mod lanes;
pub(crate) mod pack;
pub(crate) mod portable;
#[cfg(target_arch = "x86_64")]
pub(crate) mod vnni;

use self::activation::{ActivationBlock, ROWS};
use self::format::Packed;
use self::lanes::{Lanes, OUTPUTS};

/// Strips begin at cache lines.
pub(crate) const STRIP_ALIGN: usize = 64;

/// `out[m][n] = Σ_k x[m][k] · w[n][k] (+ bias[n]) (+ out[m][n])` for all `rows` of `x` and `outputs` rows of `w`.
pub(crate) struct PackedLinear {
    /// First of `outputs / 8` strips, rounded up, `strip_bytes` apart.
    pub strips: *const u8,
    pub strip_bytes: usize,
    /// Blocks of 32 inputs; a multiple of the format's [`UNIT`](Packed::UNIT).
    pub blocks: usize,
    pub outputs: usize,
    /// Blocks of `rows` rows, as [`activation::blocks_len`] says.
    pub x: *const ActivationBlock,
    pub rows: usize,
    /// First of `rows` rows of `outputs` values, `out_stride` apart.
    pub out: *mut f32,
    pub out_stride: usize,
    /// `outputs` values, or null.
    pub bias: *const f32,
    /// Whether to add to what `out` holds.
    pub add: bool,
}

/// Where a strip's quants begin: behind the scales of `blocks` blocks, at a cache line.
pub(crate) const fn quants_at<F: Packed>(blocks: usize) -> usize {
    (blocks / F::UNIT * F::SCALE_BYTES).next_multiple_of(STRIP_ALIGN)
}

/// Bytes of a strip of `blocks` blocks.
pub(crate) const fn strip_bytes<F: Packed>(blocks: usize) -> usize {
    quants_at::<F>(blocks) + (blocks * F::QUANT_BYTES).next_multiple_of(STRIP_ALIGN)
}

/// # Safety
/// The pointers of `args` are good for what its fields say, nothing else writes to `out` meanwhile, and the processor has `L`.
#[inline(always)]
pub(crate) unsafe fn linear<L: Lanes, F: Packed>(args: &PackedLinear) {
    /// Activations that stay in a second-level cache while all strips pass by.
    const ROWS_BYTES: usize = 192 << 10;
    let group_bytes = (args.blocks * ROWS * size_of::<ActivationBlock>()).max(1);
    let rows_together = (ROWS_BYTES / group_bytes).max(1) * ROWS;
    let mut first = 0;
    while first < args.rows {
        let end = args.rows.min(first + rows_together);
        let mut output = 0;
        while output < args.outputs {
            let mut row = first;
            while row < end {
                // SAFETY: `ROWS` rows or as many as are left, and a strip's outputs or as many as are left, exist.
                unsafe {
                    match end - row {
                        1 => tile::<L, F, 1>(args, row, output),
                        2 => tile::<L, F, 2>(args, row, output),
                        3 => tile::<L, F, 3>(args, row, output),
                        _ => tile::<L, F, 4>(args, row, output),
                    }
                }
                row += ROWS;
            }
            output += OUTPUTS;
        }
        first = end;
    }
}

/// One strip's outputs, from `output` on, for `M` rows from `row` on, a multiple of [`ROWS`].
#[inline(always)]
unsafe fn tile<L: Lanes, F: Packed, const M: usize>(args: &PackedLinear, row: usize, output: usize) {
    /// How far ahead of the arithmetic weights are fetched: a page, beyond which the processor does not look by itself.
    const AHEAD_BYTES: usize = 4096;
    const LINE: usize = 64;
    // SAFETY: the strip and the rows' blocks exist. Prefetches may point behind the weights.
    unsafe {
        let strip = args.strips.add(output / OUTPUTS * args.strip_bytes);
        let mut scales = strip;
        let mut quants = strip.add(quants_at::<F>(args.blocks));
        let mut x = args.x.add(row * args.blocks);
        let mut sums = [L::splat(0.0); M];
        for _ in 0..args.blocks / F::UNIT {
            for block in 0..F::UNIT {
                for line in (0..F::QUANT_BYTES).step_by(LINE) {
                    L::prefetch(quants.wrapping_add(AHEAD_BYTES + line));
                }
                F::block::<L, M>(scales, quants, block, x, &mut sums);
                quants = quants.add(F::QUANT_BYTES);
                x = x.add(ROWS);
            }
            scales = scales.add(F::SCALE_BYTES);
        }
        finish::<L, M>(args, row, output, sums);
    }
}

#[inline(always)]
unsafe fn finish<L: Lanes, const M: usize>(args: &PackedLinear, row: usize, output: usize, sums: [L::Floats; M]) {
    let whole = output + OUTPUTS <= args.outputs;
    // SAFETY: as `tile`; a strip's padding is computed in memory of our own, and not written.
    unsafe {
        for (m, sum) in sums.into_iter().enumerate() {
            let out = args.out.add((row + m) * args.out_stride + output);
            if whole {
                let mut value = sum;
                if !args.bias.is_null() {
                    value = L::add(value, L::load(args.bias.add(output)));
                }
                if args.add {
                    value = L::add(value, L::load(out));
                }
                L::store(out, value);
            } else {
                let mut values = [0f32; OUTPUTS];
                L::store(values.as_mut_ptr(), sum);
                for (n, value) in values.iter().enumerate().take(args.outputs - output) {
                    let mut value = *value;
                    if !args.bias.is_null() {
                        value += *args.bias.add(output + n);
                    }
                    if args.add {
                        value += *out.add(n);
                    }
                    *out.add(n) = value;
                }
            }
        }
    }
}
