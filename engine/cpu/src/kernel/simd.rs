//! The vector operations that kernels are written in.

use half::f16;

/// Lanes of a vector, whatever the registers' width, so that all instruction sets sum in one order. With a fused multiply-add they give
/// the same bits; the portable one rounds products too.
pub(crate) const LANES: usize = 16;

/// Weights that the formats expand at a time: one block of GGML's quantised types.
pub(crate) const BLOCK: usize = 32;

/// f32 vectors of one instruction set.
///
/// # Safety
/// Every method needs a processor with the instruction set; kernels are only reachable through
/// [`Kernels::of`](super::Kernels::of), which asks it. Methods that take pointers read or write as many elements as they say.
/// Implementations are compiled for the set themselves and become part of the kernel by inlining.
pub(crate) trait Simd: Copy + 'static {
    /// Whether tiles of several rows pay: plain Rust over sixteen lanes takes the compiler long for every tile.
    const TILES: bool = true;

    type V: Copy;
    /// [`BLOCK`] consecutive values.
    type Block: Copy;

    unsafe fn splat(value: f32) -> Self::V;
    /// Reads [`LANES`] values.
    unsafe fn load(from: *const f32) -> Self::V;
    /// Writes `LANES` values.
    unsafe fn store(to: *mut f32, v: Self::V);
    unsafe fn add(a: Self::V, b: Self::V) -> Self::V;
    unsafe fn sub(a: Self::V, b: Self::V) -> Self::V;
    unsafe fn mul(a: Self::V, b: Self::V) -> Self::V;
    unsafe fn div(a: Self::V, b: Self::V) -> Self::V;
    /// `a * b + c`, rounded once where the instruction set can.
    unsafe fn fma(a: Self::V, b: Self::V, c: Self::V) -> Self::V;
    /// The larger; `b` where one of them is not a number.
    unsafe fn max(a: Self::V, b: Self::V) -> Self::V;
    /// The smaller; `b` where one of them is not a number.
    unsafe fn min(a: Self::V, b: Self::V) -> Self::V;
    /// To the nearest integer.
    unsafe fn round(v: Self::V) -> Self::V;
    /// `2^v` for integers in `-126 ..= 127`.
    unsafe fn pow2(v: Self::V) -> Self::V;
    /// 0 where `x < limit`, else `v`.
    unsafe fn zero_below(v: Self::V, x: Self::V, limit: Self::V) -> Self::V;
    /// The sum over the lanes: halves added until four lanes are left, then neighbours.
    unsafe fn sum(v: Self::V) -> f32;
    /// Fetches the cache line of an address that need not be mapped.
    unsafe fn prefetch(at: *const u8);

    /// Reads 32 × f32, at any alignment, as all below.
    unsafe fn block_f32(from: *const u8) -> Self::Block;
    unsafe fn block_f16(from: *const u8) -> Self::Block;
    unsafe fn block_bf16(from: *const u8) -> Self::Block;
    /// f16 scale, 32 × i8: scale × i8.
    unsafe fn block_q8_0(from: *const u8) -> Self::Block;
    /// f16 scale, 16 bytes of nibbles (byte `i`: weight `i` low, `i + 16` high): scale × (nibble − 8).
    unsafe fn block_q4_0(from: *const u8) -> Self::Block;
    /// f16 scale, f16 minimum, nibbles as above: scale × nibble, rounded, + minimum.
    unsafe fn block_q4_1(from: *const u8) -> Self::Block;
    /// One step of the dot product's chain per vector of the block, in rising order; reads 32 values of `x`.
    unsafe fn block_fma(block: Self::Block, x: *const f32, sum: Self::V) -> Self::V;
    /// Writes 32 values.
    unsafe fn block_store(block: Self::Block, to: *mut f32);

    /// Reads `LANES` values.
    #[inline(always)]
    unsafe fn load_f16(from: *const f16) -> Self::V {
        let mut buffer = [0f32; LANES];
        // SAFETY: the caller gives `LANES` readable values.
        unsafe {
            buffer.iter_mut().enumerate().for_each(|(i, value)| *value = (*from.add(i)).to_f32());
            Self::load(buffer.as_ptr())
        }
    }

    /// Writes `LANES` values, rounded to the nearest, of two the even one.
    #[inline(always)]
    unsafe fn store_f16(to: *mut f16, v: Self::V) {
        let mut buffer = [0f32; LANES];
        // SAFETY: the caller gives room for `LANES` values.
        unsafe {
            Self::store(buffer.as_mut_ptr(), v);
            buffer.iter().enumerate().for_each(|(i, value)| *to.add(i) = f16::from_f32(*value));
        }
    }

    /// The first `count < LANES` values at `from`, zeros behind.
    #[inline(always)]
    unsafe fn load_partial(from: *const f32, count: usize) -> Self::V {
        let mut buffer = [0f32; BLOCK];
        // SAFETY: the caller gives `count` readable values, and the buffer is longer than any vector.
        unsafe {
            std::ptr::copy_nonoverlapping(from, buffer.as_mut_ptr(), count);
            Self::load(buffer.as_ptr())
        }
    }

    /// Writes the first `count < LANES` lanes.
    #[inline(always)]
    unsafe fn store_partial(to: *mut f32, v: Self::V, count: usize) {
        let mut buffer = [0f32; BLOCK];
        // SAFETY: the caller gives room for `count` values, and the buffer is longer than any vector.
        unsafe {
            Self::store(buffer.as_mut_ptr(), v);
            std::ptr::copy_nonoverlapping(buffer.as_ptr(), to, count);
        }
    }
}

/// `e^x` within 2 units in the last place: `2^n · e^r`, `|r| ≤ ln 2 / 2`, the second factor by its Taylor series. 0 below −87; the
/// largest argument that counts is 88, beyond which the result stays. Not-a-number stays.
#[inline(always)]
pub(crate) unsafe fn exp<S: Simd>(x: S::V) -> S::V {
    const LOWEST: f32 = -87.0;
    const HIGHEST: f32 = 88.0;
    /// ln 2 in two parts: the first has so few bits that its product with any `n` is exact.
    const LN_2_HIGH: f32 = 0.693_359_4;
    const LN_2_LOW: f32 = (std::f64::consts::LN_2 - LN_2_HIGH as f64) as f32;
    const TAYLOR: [f32; 7] = [1.0 / 720.0, 1.0 / 120.0, 1.0 / 24.0, 1.0 / 6.0, 0.5, 1.0, 1.0];
    // SAFETY: arithmetic on values only.
    unsafe {
        let clamped = S::max(S::splat(LOWEST), S::min(S::splat(HIGHEST), x));
        let n = S::round(S::mul(clamped, S::splat(std::f32::consts::LOG2_E)));
        let r = S::fma(n, S::splat(-LN_2_HIGH), clamped);
        let r = S::fma(n, S::splat(-LN_2_LOW), r);
        let mut series = S::splat(1.0 / 5040.0);
        for coefficient in TAYLOR {
            series = S::fma(series, r, S::splat(coefficient));
        }
        S::zero_below(S::mul(series, S::pow2(n)), x, S::splat(LOWEST))
    }
}
