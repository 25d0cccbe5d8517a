//! Eight outputs in one register, with the instruction of AVX-512 VNNI that sums four products of bytes at once. What is not a dot
//! product is AVX2's.

use std::arch::x86_64::*;

use super::avx2::Avx2;
use super::lanes::Lanes;

#[derive(Clone, Copy)]
pub(crate) struct Vnni;

type I = __m256i;
type F = __m256;

#[rustfmt::skip]
impl Lanes for Vnni {
    type Bytes = I;
    type Sum = I;
    type Ints = I;
    type Floats = F;
    type Scale = I;

    #[target_feature(enable = "avx512f,avx512vl,avx512vnni,avx2,fma,f16c")]
    #[inline]
    unsafe fn dot_unsigned(sum: I, w: I, x: I) -> I { _mm256_dpbusd_epi32(sum, w, x) }

    #[target_feature(enable = "avx512f,avx512vl,avx512vnni,avx2,fma,f16c")]
    #[inline]
    unsafe fn dot_signed(sum: I, w: I, size: I, x: I) -> I { _mm256_dpbusd_epi32(sum, size, _mm256_sign_epi8(x, w)) }

    #[target_feature(enable = "avx512f,avx512vl,avx512vnni,avx2,fma,f16c")]
    #[inline]
    unsafe fn add_sum(ints: I, sum: I) -> I { _mm256_add_epi32(ints, sum) }

    #[target_feature(enable = "avx512f,avx512vl,avx512vnni,avx2,fma,f16c")]
    #[inline]
    unsafe fn add_dot(ints: I, w: I, size: I, x: I) -> I { _mm256_dpbusd_epi32(ints, size, _mm256_sign_epi8(x, w)) }

    #[target_feature(enable = "avx512f,avx512vl,avx512vnni,avx2,fma,f16c")]
    #[inline]
    unsafe fn scale(from: *const i8) -> I {
        // SAFETY: the caller gives eight readable bytes.
        _mm256_cvtepi8_epi32(unsafe { _mm_loadl_epi64(from.cast()) })
    }

    #[target_feature(enable = "avx512f,avx512vl,avx512vnni,avx2,fma,f16c")]
    #[inline]
    unsafe fn add_scaled(ints: I, scale: I, sum: I) -> I { _mm256_add_epi32(ints, _mm256_mullo_epi32(scale, sum)) }

    // SAFETY, for all below: the caller's promises are those of AVX2's, which VNNI implies.

    #[target_feature(enable = "avx512f,avx512vl,avx512vnni,avx2,fma,f16c")]
    #[inline]
    unsafe fn bytes(from: *const u8) -> I { unsafe { Avx2::bytes(from) } }

    #[target_feature(enable = "avx512f,avx512vl,avx512vnni,avx2,fma,f16c")]
    #[inline]
    unsafe fn four(from: *const i8) -> I { unsafe { Avx2::four(from) } }

    #[target_feature(enable = "avx512f,avx512vl,avx512vnni,avx2,fma,f16c")]
    #[inline]
    unsafe fn nibbles(packed: I) -> [I; 2] { unsafe { Avx2::nibbles(packed) } }

    #[target_feature(enable = "avx512f,avx512vl,avx512vnni,avx2,fma,f16c")]
    #[inline]
    unsafe fn with_fifth_bit(nibbles: I, bits: I, bit: i32) -> I { unsafe { Avx2::with_fifth_bit(nibbles, bits, bit) } }

    #[target_feature(enable = "avx512f,avx512vl,avx512vnni,avx2,fma,f16c")]
    #[inline]
    unsafe fn with_sixth_bits(nibbles: I, bits: I, first_bit: i32) -> I { unsafe { Avx2::with_sixth_bits(nibbles, bits, first_bit) } }

    #[target_feature(enable = "avx512f,avx512vl,avx512vnni,avx2,fma,f16c")]
    #[inline]
    unsafe fn magnitudes(bytes: I) -> I { unsafe { Avx2::magnitudes(bytes) } }

    #[target_feature(enable = "avx512f,avx512vl,avx512vnni,avx2,fma,f16c")]
    #[inline]
    unsafe fn no_sum() -> I { unsafe { Avx2::no_sum() } }

    #[target_feature(enable = "avx512f,avx512vl,avx512vnni,avx2,fma,f16c")]
    #[inline]
    unsafe fn no_ints() -> I { unsafe { Avx2::no_ints() } }

    #[target_feature(enable = "avx512f,avx512vl,avx512vnni,avx2,fma,f16c")]
    #[inline]
    unsafe fn subtract(ints: I, value: i32) -> I { unsafe { Avx2::subtract(ints, value) } }

    #[target_feature(enable = "avx512f,avx512vl,avx512vnni,avx2,fma,f16c")]
    #[inline]
    unsafe fn splat(value: f32) -> F { unsafe { Avx2::splat(value) } }

    #[target_feature(enable = "avx512f,avx512vl,avx512vnni,avx2,fma,f16c")]
    #[inline]
    unsafe fn floats(ints: I) -> F { unsafe { Avx2::floats(ints) } }

    #[target_feature(enable = "avx512f,avx512vl,avx512vnni,avx2,fma,f16c")]
    #[inline]
    unsafe fn halves(from: *const u8) -> F { unsafe { Avx2::halves(from) } }

    #[target_feature(enable = "avx512f,avx512vl,avx512vnni,avx2,fma,f16c")]
    #[inline]
    unsafe fn small(from: *const u8) -> F { unsafe { Avx2::small(from) } }

    #[target_feature(enable = "avx512f,avx512vl,avx512vnni,avx2,fma,f16c")]
    #[inline]
    unsafe fn load(from: *const f32) -> F { unsafe { Avx2::load(from) } }

    #[target_feature(enable = "avx512f,avx512vl,avx512vnni,avx2,fma,f16c")]
    #[inline]
    unsafe fn store(to: *mut f32, v: F) { unsafe { Avx2::store(to, v) } }

    #[target_feature(enable = "avx512f,avx512vl,avx512vnni,avx2,fma,f16c")]
    #[inline]
    unsafe fn add(a: F, b: F) -> F { unsafe { Avx2::add(a, b) } }

    #[target_feature(enable = "avx512f,avx512vl,avx512vnni,avx2,fma,f16c")]
    #[inline]
    unsafe fn mul(a: F, b: F) -> F { unsafe { Avx2::mul(a, b) } }

    #[target_feature(enable = "avx512f,avx512vl,avx512vnni,avx2,fma,f16c")]
    #[inline]
    unsafe fn fma(a: F, b: F, c: F) -> F { unsafe { Avx2::fma(a, b, c) } }

    #[target_feature(enable = "avx512f,avx512vl,avx512vnni,avx2,fma,f16c")]
    #[inline]
    unsafe fn fnma(a: F, b: F, c: F) -> F { unsafe { Avx2::fnma(a, b, c) } }

    #[target_feature(enable = "avx512f,avx512vl,avx512vnni,avx2,fma,f16c")]
    #[inline]
    unsafe fn prefetch(at: *const u8) { unsafe { Avx2::prefetch(at) } }
}
