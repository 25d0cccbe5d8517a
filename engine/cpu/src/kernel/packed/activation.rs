//! Activations as packed products read them: blocks of 32 bytes with a scale each.
//!
//! `x ≈ scale × q`, `scale = max|x| / 127`, `q` rounded to nearest, as llama.cpp's Q8_0 and Q8_1 do (`scale` in f32, where theirs is
//! f16). One code for all instruction sets: every operation is an IEEE 754 one, so all give the same bytes.

use crate::kernel::simd::BLOCK;

/// Rows of activations whose blocks lie side by side: the most that one tile multiplies.
pub(crate) const ROWS: usize = 4;

/// 32 consecutive values of one row.
#[derive(Clone, Copy, bytemuck::Zeroable)]
#[repr(C, align(16))]
pub(crate) struct ActivationBlock {
    /// −127 ..= 127.
    pub q: [i8; BLOCK],
    pub scale: f32,
    /// `scale × sum`, for what weights have a minimum.
    pub scaled_sum: f32,
    /// Of all `q`.
    pub sum: i32,
    pub unused: u32,
}

/// Blocks for `rows` rows of `blocks` blocks each: `[row / ROWS][block][row % ROWS]`.
pub(crate) const fn blocks_len(rows: usize, blocks: usize) -> usize {
    rows.next_multiple_of(ROWS) * blocks
}

/// One row of values, and where its blocks go.
pub(crate) struct Quantize {
    /// `blocks × 32` values.
    pub x: *const f32,
    pub blocks: usize,
    /// The row's first block; the next one lies [`ROWS`] further.
    pub out: *mut ActivationBlock,
}

/// What is not a number, or infinite, makes the scale so, and with it every product.
///
/// # Safety
/// The pointers of `args` are good for what its fields say and nothing else writes there meanwhile.
#[inline(always)]
pub(crate) unsafe fn quantize(args: &Quantize) {
    for block in 0..args.blocks {
        // SAFETY: both blocks exist; x has any alignment of f32.
        unsafe {
            let x = &*args.x.add(block * BLOCK).cast::<[f32; BLOCK]>();
            *args.out.add(block * ROWS) = quantize_block(x);
        }
    }
}

#[inline(always)]
fn quantize_block(x: &[f32; BLOCK]) -> ActivationBlock {
    const MAGNITUDE: u32 = 0x7fff_ffff;
    /// 1.5 · 2^23: added to a small number it leaves no room for a fraction, so that the integer stands in the lowest bits.
    const SHIFT: f32 = 12_582_912.0;
    // Bits of magnitudes are ordered as the numbers are, with infinity above and what is not a number on top.
    let largest = f32::from_bits(x.iter().fold(0, |largest, x| largest.max(x.to_bits() & MAGNITUDE)));
    let scale = largest / 127.0;
    // Below, the inverse overflows: such a block counts as zeros.
    let inverse = if largest.is_finite() && largest > 127.0 * f32::MIN_POSITIVE { 127.0 / largest } else { 0.0 };
    let q = x.map(|x| (x * inverse + SHIFT).to_bits() as i8);
    let sum = q.iter().map(|q| i32::from(*q)).sum();
    ActivationBlock { q, scale, scaled_sum: scale * sum as f32, sum, unused: 0 }
}
