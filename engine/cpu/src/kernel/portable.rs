//! Sixteen lanes in plain Rust: the reference for the other instruction sets, and what runs where none of them is.

use half::{bf16, f16};

use super::simd::{BLOCK, LANES, Simd};

#[derive(Clone, Copy)]
pub(crate) struct Portable;

type V = [f32; LANES];

#[inline(always)]
fn each(f: impl Fn(usize) -> f32) -> V {
    std::array::from_fn(f)
}

/// Rounded once where every processor can. Elsewhere twice: rounding once would be a call into the C library per lane.
#[inline(always)]
fn multiply_add(a: f32, b: f32, c: f32) -> f32 {
    if cfg!(target_arch = "aarch64") { a.mul_add(b, c) } else { a * b + c }
}

/// Reads `N` bytes.
#[inline(always)]
unsafe fn bytes<const N: usize>(from: *const u8) -> [u8; N] {
    // SAFETY: an array of bytes has no alignment; the caller gives N readable ones.
    unsafe { from.cast::<[u8; N]>().read_unaligned() }
}

#[inline(always)]
unsafe fn half_at(from: *const u8) -> f32 {
    // SAFETY: the caller gives two readable bytes.
    f16::from_le_bytes(unsafe { bytes(from) }).to_f32()
}

/// Weight `i` of a block's 16 bytes of nibbles.
#[inline(always)]
fn nibble(packed: &[u8; 16], i: usize) -> f32 {
    f32::from(if i < 16 { packed[i] & 15 } else { packed[i - 16] >> 4 })
}

impl Simd for Portable {
    const TILES: bool = false;

    type V = V;
    type Block = [f32; BLOCK];

    #[inline(always)]
    unsafe fn splat(value: f32) -> V {
        [value; LANES]
    }
    #[inline(always)]
    unsafe fn load(from: *const f32) -> V {
        // SAFETY: the caller gives sixteen readable values.
        unsafe { from.cast::<V>().read_unaligned() }
    }
    #[inline(always)]
    unsafe fn store(to: *mut f32, v: V) {
        // SAFETY: the caller gives room for sixteen values.
        unsafe { to.cast::<V>().write_unaligned(v) }
    }
    #[inline(always)]
    unsafe fn add(a: V, b: V) -> V {
        each(|i| a[i] + b[i])
    }
    #[inline(always)]
    unsafe fn sub(a: V, b: V) -> V {
        each(|i| a[i] - b[i])
    }
    #[inline(always)]
    unsafe fn mul(a: V, b: V) -> V {
        each(|i| a[i] * b[i])
    }
    #[inline(always)]
    unsafe fn div(a: V, b: V) -> V {
        each(|i| a[i] / b[i])
    }
    #[inline(always)]
    unsafe fn fma(a: V, b: V, c: V) -> V {
        each(|i| multiply_add(a[i], b[i], c[i]))
    }
    #[inline(always)]
    unsafe fn max(a: V, b: V) -> V {
        each(|i| if a[i] > b[i] { a[i] } else { b[i] })
    }
    #[inline(always)]
    unsafe fn min(a: V, b: V) -> V {
        each(|i| if a[i] < b[i] { a[i] } else { b[i] })
    }
    #[inline(always)]
    unsafe fn round(v: V) -> V {
        // Adding 1.5 · 2^23 leaves no room for a fraction: rounds to nearest for |v| < 2^22, and `exp` asks for less.
        const SHIFT: f32 = 12_582_912.0;
        each(|i| (v[i] + SHIFT) - SHIFT)
    }
    #[inline(always)]
    unsafe fn pow2(v: V) -> V {
        each(|i| f32::from_bits(((v[i] as i32 + 127) as u32) << 23))
    }
    #[inline(always)]
    unsafe fn zero_below(v: V, x: V, limit: V) -> V {
        each(|i| if x[i] < limit[i] { 0.0 } else { v[i] })
    }
    #[inline(always)]
    unsafe fn sum(v: V) -> f32 {
        let eight: [f32; 8] = std::array::from_fn(|i| v[i] + v[i + 8]);
        let [a, b, c, d]: [f32; 4] = std::array::from_fn(|i| eight[i] + eight[i + 4]);
        (a + b) + (c + d)
    }
    #[inline(always)]
    unsafe fn prefetch(_: *const u8) {}

    #[inline(always)]
    unsafe fn block_f32(from: *const u8) -> Self::Block {
        // SAFETY: the caller gives 32 readable values.
        unsafe { from.cast::<Self::Block>().read_unaligned() }
    }
    #[inline(always)]
    unsafe fn block_f16(from: *const u8) -> Self::Block {
        // SAFETY: the caller gives 32 readable values of two bytes.
        let stored: [[u8; 2]; BLOCK] = unsafe { from.cast::<[[u8; 2]; BLOCK]>().read_unaligned() };
        stored.map(|value| f16::from_le_bytes(value).to_f32())
    }
    #[inline(always)]
    unsafe fn block_bf16(from: *const u8) -> Self::Block {
        // SAFETY: the caller gives 32 readable values of two bytes.
        let stored: [[u8; 2]; BLOCK] = unsafe { from.cast::<[[u8; 2]; BLOCK]>().read_unaligned() };
        stored.map(|value| bf16::from_le_bytes(value).to_f32())
    }
    #[inline(always)]
    unsafe fn block_q8_0(from: *const u8) -> Self::Block {
        // SAFETY: the caller gives a block of 34 bytes.
        let (scale, stored) = unsafe { (half_at(from), bytes::<BLOCK>(from.add(2))) };
        stored.map(|value| scale * f32::from(value as i8))
    }
    #[inline(always)]
    unsafe fn block_q4_0(from: *const u8) -> Self::Block {
        // SAFETY: the caller gives a block of 18 bytes.
        let (scale, packed) = unsafe { (half_at(from), bytes::<16>(from.add(2))) };
        std::array::from_fn(|i| scale * (nibble(&packed, i) - 8.0))
    }
    #[inline(always)]
    unsafe fn block_q4_1(from: *const u8) -> Self::Block {
        // SAFETY: the caller gives a block of 20 bytes.
        let (scale, minimum, packed) = unsafe { (half_at(from), half_at(from.add(2)), bytes::<16>(from.add(4))) };
        std::array::from_fn(|i| scale * nibble(&packed, i) + minimum)
    }
    #[inline(always)]
    unsafe fn block_fma(block: Self::Block, x: *const f32, sum: V) -> V {
        // SAFETY: the caller gives 32 readable values.
        let x = unsafe { x.cast::<[f32; BLOCK]>().read_unaligned() };
        let mut sum = sum;
        for start in (0..BLOCK).step_by(LANES) {
            sum = each(|i| multiply_add(block[start + i], x[start + i], sum[i]));
        }
        sum
    }
    #[inline(always)]
    unsafe fn block_store(block: Self::Block, to: *mut f32) {
        // SAFETY: the caller gives room for 32 values.
        unsafe { to.cast::<Self::Block>().write_unaligned(block) }
    }
}
