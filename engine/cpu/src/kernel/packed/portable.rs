//! Eight outputs in plain Rust: the reference for the other instruction sets, and what runs where none of them is.

use half::f16;

use super::lanes::{Lanes, OUTPUTS};

#[derive(Clone, Copy)]
pub(crate) struct Portable;

type Ints = [i32; OUTPUTS];
type Floats = [f32; OUTPUTS];

#[inline(always)]
fn each<T>(f: impl Fn(usize) -> T) -> [T; OUTPUTS] {
    std::array::from_fn(f)
}

impl Lanes for Portable {
    type Bytes = [[u8; 4]; OUTPUTS];
    type Sum = Ints;
    type Ints = Ints;
    type Floats = Floats;
    type Scale = Ints;

    #[inline(always)]
    unsafe fn bytes(from: *const u8) -> Self::Bytes {
        // SAFETY: the caller gives 32 readable bytes.
        unsafe { from.cast::<Self::Bytes>().read_unaligned() }
    }
    #[inline(always)]
    unsafe fn four(from: *const i8) -> Self::Bytes {
        // SAFETY: the caller gives four readable bytes.
        [unsafe { from.cast::<[u8; 4]>().read_unaligned() }; OUTPUTS]
    }
    #[inline(always)]
    unsafe fn nibbles(packed: Self::Bytes) -> [Self::Bytes; 2] {
        [packed.map(|four| four.map(|byte| byte & 15)), packed.map(|four| four.map(|byte| byte >> 4))]
    }
    #[inline(always)]
    unsafe fn with_fifth_bit(nibbles: Self::Bytes, bits: Self::Bytes, bit: i32) -> Self::Bytes {
        each(|i| std::array::from_fn(|b| nibbles[i][b] | (bits[i][b] >> bit & 1) << 4))
    }
    #[inline(always)]
    unsafe fn with_sixth_bits(nibbles: Self::Bytes, bits: Self::Bytes, first_bit: i32) -> Self::Bytes {
        each(|i| std::array::from_fn(|b| (nibbles[i][b] | (bits[i][b] >> first_bit & 3) << 4).wrapping_sub(32)))
    }
    #[inline(always)]
    unsafe fn magnitudes(bytes: Self::Bytes) -> Self::Bytes {
        bytes.map(|four| four.map(|byte| (byte as i8).unsigned_abs()))
    }
    #[inline(always)]
    unsafe fn no_sum() -> Ints {
        [0; OUTPUTS]
    }
    #[inline(always)]
    unsafe fn dot_unsigned(sum: Ints, w: Self::Bytes, x: Self::Bytes) -> Ints {
        each(|i| sum[i] + (0..4).map(|b| i32::from(w[i][b]) * i32::from(x[i][b] as i8)).sum::<i32>())
    }
    #[inline(always)]
    unsafe fn dot_signed(sum: Ints, w: Self::Bytes, _: Self::Bytes, x: Self::Bytes) -> Ints {
        each(|i| sum[i] + (0..4).map(|b| i32::from(w[i][b] as i8) * i32::from(x[i][b] as i8)).sum::<i32>())
    }
    #[inline(always)]
    unsafe fn no_ints() -> Ints {
        [0; OUTPUTS]
    }
    #[inline(always)]
    unsafe fn add_sum(ints: Ints, sum: Ints) -> Ints {
        each(|i| ints[i] + sum[i])
    }
    #[inline(always)]
    unsafe fn add_dot(ints: Ints, w: Self::Bytes, size: Self::Bytes, x: Self::Bytes) -> Ints {
        // SAFETY: arithmetic on values only.
        unsafe { Self::dot_signed(ints, w, size, x) }
    }
    #[inline(always)]
    unsafe fn subtract(ints: Ints, value: i32) -> Ints {
        ints.map(|int| int - value)
    }
    #[inline(always)]
    unsafe fn scale(from: *const i8) -> Ints {
        // SAFETY: the caller gives eight readable bytes.
        unsafe { from.cast::<[i8; OUTPUTS]>().read_unaligned() }.map(i32::from)
    }
    #[inline(always)]
    unsafe fn add_scaled(ints: Ints, scale: Ints, sum: Ints) -> Ints {
        each(|i| ints[i] + scale[i] * sum[i])
    }
    #[inline(always)]
    unsafe fn splat(value: f32) -> Floats {
        [value; OUTPUTS]
    }
    #[inline(always)]
    unsafe fn floats(ints: Ints) -> Floats {
        ints.map(|int| int as f32)
    }
    #[inline(always)]
    unsafe fn halves(from: *const u8) -> Floats {
        // SAFETY: the caller gives 16 readable bytes.
        unsafe { from.cast::<[[u8; 2]; OUTPUTS]>().read_unaligned() }.map(|half| f16::from_le_bytes(half).to_f32())
    }
    #[inline(always)]
    unsafe fn small(from: *const u8) -> Floats {
        // SAFETY: the caller gives eight readable bytes.
        unsafe { from.cast::<[u8; OUTPUTS]>().read_unaligned() }.map(f32::from)
    }
    #[inline(always)]
    unsafe fn load(from: *const f32) -> Floats {
        // SAFETY: the caller gives eight readable values.
        unsafe { from.cast::<Floats>().read_unaligned() }
    }
    #[inline(always)]
    unsafe fn store(to: *mut f32, v: Floats) {
        // SAFETY: the caller gives room for eight values.
        unsafe { to.cast::<Floats>().write_unaligned(v) }
    }
    #[inline(always)]
    unsafe fn add(a: Floats, b: Floats) -> Floats {
        each(|i| a[i] + b[i])
    }
    #[inline(always)]
    unsafe fn mul(a: Floats, b: Floats) -> Floats {
        each(|i| a[i] * b[i])
    }
    /// Rounded once, by the C library where the processor cannot: one call in 32 weights.
    #[inline(always)]
    unsafe fn fma(a: Floats, b: Floats, c: Floats) -> Floats {
        each(|i| a[i].mul_add(b[i], c[i]))
    }
    #[inline(always)]
    unsafe fn fnma(a: Floats, b: Floats, c: Floats) -> Floats {
        each(|i| (-a[i]).mul_add(b[i], c[i]))
    }
    #[inline(always)]
    unsafe fn prefetch(_: *const u8) {}
}
