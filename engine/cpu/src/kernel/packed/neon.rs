//! Eight outputs in two registers of NEON, which every 64-bit Arm has. Products of bytes are widened to 16 bits and added in pairs: the
//! instructions that sum four products at once (dotprod, i8mm) are not in stable Rust.

use std::arch::aarch64::*;

use super::lanes::{Lanes, OUTPUTS};
use super::portable::Portable;

#[derive(Clone, Copy)]
pub(crate) struct Neon;

/// The outputs' bytes: four first, then four last.
type Bytes = [int8x16_t; 2];
type Ints = [int32x4_t; 2];
type Floats = [float32x4_t; 2];

#[target_feature(enable = "neon")]
#[inline]
fn dot(sum: Ints, w: Bytes, x: Bytes) -> Ints {
    let four = |half: usize| {
        // Two products of at most 128 · 127 fit in 16 bits one by one, and are added in 32.
        let low = vpaddlq_s16(vmull_s8(vget_low_s8(w[half]), vget_low_s8(x[half])));
        let high = vpaddlq_s16(vmull_high_s8(w[half], x[half]));
        vaddq_s32(sum[half], vpaddq_s32(low, high))
    };
    [four(0), four(1)]
}

#[rustfmt::skip]
impl Lanes for Neon {
    type Bytes = Bytes;
    type Sum = Ints;
    type Ints = Ints;
    type Floats = Floats;
    type Scale = Ints;

    #[target_feature(enable = "neon")]
    #[inline]
    unsafe fn bytes(from: *const u8) -> Bytes {
        // SAFETY: the caller gives 32 readable bytes.
        unsafe { [vld1q_s8(from.cast()), vld1q_s8(from.add(16).cast())] }
    }

    #[target_feature(enable = "neon")]
    #[inline]
    unsafe fn four(from: *const i8) -> Bytes {
        // SAFETY: the caller gives four readable bytes.
        let four = vreinterpretq_s8_s32(vdupq_n_s32(unsafe { from.cast::<i32>().read_unaligned() }));
        [four, four]
    }

    #[target_feature(enable = "neon")]
    #[inline]
    unsafe fn nibbles(packed: Bytes) -> [Bytes; 2] {
        let low = |half: int8x16_t| vandq_s8(half, vdupq_n_s8(15));
        let high = |half: int8x16_t| vreinterpretq_s8_u8(vshrq_n_u8::<4>(vreinterpretq_u8_s8(half)));
        [packed.map(low), packed.map(high)]
    }

    #[target_feature(enable = "neon")]
    #[inline]
    unsafe fn with_fifth_bit(nibbles: Bytes, bits: Bytes, bit: i32) -> Bytes {
        // A negative shift of unsigned bytes goes right.
        let place = vdupq_n_s8((4 - bit) as i8);
        let fifth = |half: int8x16_t| {
            vandq_s8(vreinterpretq_s8_u8(vshlq_u8(vreinterpretq_u8_s8(half), place)), vdupq_n_s8(16))
        };
        [vorrq_s8(nibbles[0], fifth(bits[0])), vorrq_s8(nibbles[1], fifth(bits[1]))]
    }

    #[target_feature(enable = "neon")]
    #[inline]
    unsafe fn with_sixth_bits(nibbles: Bytes, bits: Bytes, first_bit: i32) -> Bytes {
        let place = vdupq_n_s8((4 - first_bit) as i8);
        let six = |nibbles: int8x16_t, bits: int8x16_t| {
            let upper = vandq_s8(vreinterpretq_s8_u8(vshlq_u8(vreinterpretq_u8_s8(bits), place)), vdupq_n_s8(48));
            vsubq_s8(vorrq_s8(nibbles, upper), vdupq_n_s8(32))
        };
        [six(nibbles[0], bits[0]), six(nibbles[1], bits[1])]
    }

    /// Nobody asks for magnitudes here: bytes are multiplied with their signs.
    #[target_feature(enable = "neon")]
    #[inline]
    unsafe fn magnitudes(bytes: Bytes) -> Bytes { bytes }

    #[target_feature(enable = "neon")]
    #[inline]
    unsafe fn no_sum() -> Ints { [vdupq_n_s32(0); 2] }

    #[target_feature(enable = "neon")]
    #[inline]
    unsafe fn dot_unsigned(sum: Ints, w: Bytes, x: Bytes) -> Ints { dot(sum, w, x) }

    #[target_feature(enable = "neon")]
    #[inline]
    unsafe fn dot_signed(sum: Ints, w: Bytes, _: Bytes, x: Bytes) -> Ints { dot(sum, w, x) }

    #[target_feature(enable = "neon")]
    #[inline]
    unsafe fn no_ints() -> Ints { [vdupq_n_s32(0); 2] }

    #[target_feature(enable = "neon")]
    #[inline]
    unsafe fn add_sum(ints: Ints, sum: Ints) -> Ints { [vaddq_s32(ints[0], sum[0]), vaddq_s32(ints[1], sum[1])] }

    #[target_feature(enable = "neon")]
    #[inline]
    unsafe fn add_dot(ints: Ints, w: Bytes, _: Bytes, x: Bytes) -> Ints { dot(ints, w, x) }

    #[target_feature(enable = "neon")]
    #[inline]
    unsafe fn subtract(ints: Ints, value: i32) -> Ints { ints.map(|half| vsubq_s32(half, vdupq_n_s32(value))) }

    #[target_feature(enable = "neon")]
    #[inline]
    unsafe fn scale(from: *const i8) -> Ints {
        // SAFETY: the caller gives eight readable bytes.
        let wide = vmovl_s8(unsafe { vld1_s8(from) });
        [vmovl_s16(vget_low_s16(wide)), vmovl_high_s16(wide)]
    }

    #[target_feature(enable = "neon")]
    #[inline]
    unsafe fn add_scaled(ints: Ints, scale: Ints, sum: Ints) -> Ints {
        [vmlaq_s32(ints[0], scale[0], sum[0]), vmlaq_s32(ints[1], scale[1], sum[1])]
    }

    #[target_feature(enable = "neon")]
    #[inline]
    unsafe fn splat(value: f32) -> Floats { [vdupq_n_f32(value); 2] }

    #[target_feature(enable = "neon")]
    #[inline]
    unsafe fn floats(ints: Ints) -> Floats { ints.map(|half| vcvtq_f32_s32(half)) }

    /// One conversion in 32 weights: plain Rust's.
    #[target_feature(enable = "neon")]
    #[inline]
    unsafe fn halves(from: *const u8) -> Floats {
        // SAFETY: the caller gives 16 readable bytes; an array of eight values is readable.
        unsafe {
            let values: [f32; OUTPUTS] = Portable::halves(from);
            Self::load(values.as_ptr())
        }
    }

    #[target_feature(enable = "neon")]
    #[inline]
    unsafe fn small(from: *const u8) -> Floats {
        // SAFETY: the caller gives eight readable bytes.
        let wide = vmovl_u8(unsafe { vld1_u8(from) });
        [vcvtq_f32_u32(vmovl_u16(vget_low_u16(wide))), vcvtq_f32_u32(vmovl_high_u16(wide))]
    }

    #[target_feature(enable = "neon")]
    #[inline]
    unsafe fn load(from: *const f32) -> Floats {
        // SAFETY: the caller gives eight readable values.
        unsafe { [vld1q_f32(from), vld1q_f32(from.add(4))] }
    }

    #[target_feature(enable = "neon")]
    #[inline]
    unsafe fn store(to: *mut f32, v: Floats) {
        // SAFETY: the caller gives room for eight values.
        unsafe {
            vst1q_f32(to, v[0]);
            vst1q_f32(to.add(4), v[1]);
        }
    }

    #[target_feature(enable = "neon")]
    #[inline]
    unsafe fn add(a: Floats, b: Floats) -> Floats { [vaddq_f32(a[0], b[0]), vaddq_f32(a[1], b[1])] }

    #[target_feature(enable = "neon")]
    #[inline]
    unsafe fn mul(a: Floats, b: Floats) -> Floats { [vmulq_f32(a[0], b[0]), vmulq_f32(a[1], b[1])] }

    #[target_feature(enable = "neon")]
    #[inline]
    unsafe fn fma(a: Floats, b: Floats, c: Floats) -> Floats { [vfmaq_f32(c[0], a[0], b[0]), vfmaq_f32(c[1], a[1], b[1])] }

    #[target_feature(enable = "neon")]
    #[inline]
    unsafe fn fnma(a: Floats, b: Floats, c: Floats) -> Floats { [vfmsq_f32(c[0], a[0], b[0]), vfmsq_f32(c[1], a[1], b[1])] }

    /// Stable Rust has no prefetch for Arm; its processors follow streams by themselves.
    #[target_feature(enable = "neon")]
    #[inline]
    unsafe fn prefetch(_: *const u8) {}
}
