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
#[cfg(target_arch = "aarch64")]
pub(crate) mod neon;
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

/// Bytes of a strip of `blocks` blocks: groups of units, each the units' scales and then their quants. Scales stand as close to their quants
/// as keeps vectors from straddling cache lines, so that a strip is read from its first byte to its last.
pub(crate) const fn strip_bytes<F: Packed>(blocks: usize) -> usize {
    let groups = (blocks / F::UNIT).div_ceil(F::GROUP);
    (groups * F::GROUP * F::SCALE_BYTES + blocks * F::QUANT_BYTES).next_multiple_of(STRIP_ALIGN)
}

/// Strips that are read side by side where few rows meet them: processors fetch ahead for each page that is read in order, and more of
/// them at once keep more of memory busy than one does.
const STREAMS: usize = 3;

/// # Safety
/// The pointers of `args` are good for what its fields say, nothing else writes to `out` meanwhile, and the processor has `L`.
#[inline(always)]
pub(crate) unsafe fn linear<L: Lanes, F: Packed>(args: &PackedLinear) {
    // SAFETY: the caller's promises.
    unsafe {
        match args.rows {
            1 => streams::<L, F, 1>(args),
            2 => streams::<L, F, 2>(args),
            _ => blocked::<L, F>(args),
        }
    }
}

/// Few rows: memory is the limit.
#[inline(always)]
unsafe fn streams<L: Lanes, F: Packed, const M: usize>(args: &PackedLinear) {
    // The last strip may be no whole one.
    let strips = args.outputs.div_ceil(OUTPUTS);
    let each = strips / STREAMS;
    // SAFETY: all strips are the arguments'.
    unsafe {
        for strip in 0..each {
            tile::<L, F, M, STREAMS>(args, 0, strip, each);
        }
        for strip in each * STREAMS..strips {
            tile::<L, F, M, 1>(args, 0, strip, 0);
        }
    }
}

/// Many rows: arithmetic is the limit. All rows that a second-level cache holds meet a strip before the next one comes.
#[inline(always)]
unsafe fn blocked<L: Lanes, F: Packed>(args: &PackedLinear) {
    const ROWS_BYTES: usize = 192 << 10;
    let group_bytes = (args.blocks * ROWS * size_of::<ActivationBlock>()).max(1);
    let rows_together = (ROWS_BYTES / group_bytes).max(1) * ROWS;
    let mut first = 0;
    while first < args.rows {
        let end = args.rows.min(first + rows_together);
        for strip in 0..args.outputs.div_ceil(OUTPUTS) {
            for row in (first..end).step_by(ROWS) {
                // SAFETY: `ROWS` rows or as many as are left, and a strip's outputs or as many as are left, exist.
                unsafe {
                    match end - row {
                        1 => tile::<L, F, 1, 1>(args, row, strip, 0),
                        2 => tile::<L, F, 2, 1>(args, row, strip, 0),
                        3 => tile::<L, F, 3, 1>(args, row, strip, 0),
                        _ => tile::<L, F, 4, 1>(args, row, strip, 0),
                    }
                }
            }
        }
        first = end;
    }
}

/// The outputs of `S` strips, `strip` and those each `apart` further, for `M` rows from `row` on, a multiple of [`ROWS`].
#[inline(always)]
unsafe fn tile<L: Lanes, F: Packed, const M: usize, const S: usize>(args: &PackedLinear, row: usize, strip: usize, apart: usize) {
    /// How far ahead of the arithmetic weights are fetched.
    const AHEAD_BYTES: usize = 256;
    const AHEAD_ALONE_BYTES: usize = 1024;
    const LINE: usize = 64;
    let ahead = if S == 1 { AHEAD_ALONE_BYTES } else { AHEAD_BYTES };
    let apart_bytes = apart * args.strip_bytes;
    // SAFETY: the strips and the rows' blocks exist. Prefetches may point behind the weights.
    unsafe {
        let mut at = args.strips.add(strip * args.strip_bytes);
        let mut x = args.x.add(row * args.blocks);
        let mut sums = [[L::splat(0.0); M]; S];
        let mut units = args.blocks / F::UNIT;
        while units > 0 {
            let scales = at;
            at = at.add(F::GROUP * F::SCALE_BYTES);
            for stream in 0..S {
                for line in (0..F::GROUP * F::SCALE_BYTES).step_by(LINE) {
                    L::prefetch(scales.wrapping_add(stream * apart_bytes + ahead + line));
                }
            }
            let together = units.min(F::GROUP);
            for unit in 0..together {
                for block in 0..F::UNIT {
                    for (stream, sums) in sums.iter_mut().enumerate() {
                        let quants = at.add(stream * apart_bytes);
                        for line in (0..F::QUANT_BYTES).step_by(LINE) {
                            L::prefetch(quants.wrapping_add(ahead + line));
                        }
                        F::block::<L, M>(scales.add(stream * apart_bytes + unit * F::SCALE_BYTES), quants, block, x, sums);
                    }
                    at = at.add(F::QUANT_BYTES);
                    x = x.add(ROWS);
                }
            }
            units -= together;
        }
        for (stream, sums) in sums.into_iter().enumerate() {
            finish::<L, M>(args, row, (strip + stream * apart) * OUTPUTS, sums);
        }
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
