//! Eight outputs in one register of AVX2. Products of bytes are summed in 16 bits as long as they fit: `vpmaddubsw` is the widest
//! multiplier that AVX2 has for bytes.

use std::arch::x86_64::*;

use super::lanes::Lanes;

#[derive(Clone, Copy)]
pub(crate) struct Avx2;

type I = __m256i;
type F = __m256;

/// Moves bit `bit` of every byte to place 4. What comes from a neighbour lands below, or above the bits that are wanted. Callers give
/// constants, which become those of the shifts.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
fn to_fifth(bits: I, bit: i32) -> I {
    if bit < 4 { _mm256_sll_epi16(bits, _mm_cvtsi32_si128(4 - bit)) } else { _mm256_srl_epi16(bits, _mm_cvtsi32_si128(bit - 4)) }
}

#[rustfmt::skip]
impl Lanes for Avx2 {
    type Bytes = I;
    /// 16 × i16, two for each output.
    type Sum = I;
    type Ints = I;
    type Floats = F;
    /// 16 × i16, each scale twice.
    type Scale = I;

    #[target_feature(enable = "avx2,fma,f16c")]
    #[inline]
    unsafe fn bytes(from: *const u8) -> I {
        // SAFETY: the caller gives 32 readable bytes.
        unsafe { _mm256_loadu_si256(from.cast()) }
    }

    #[target_feature(enable = "avx2,fma,f16c")]
    #[inline]
    unsafe fn four(from: *const i8) -> I {
        // SAFETY: the caller gives four readable bytes.
        _mm256_set1_epi32(unsafe { from.cast::<i32>().read_unaligned() })
    }

    #[target_feature(enable = "avx2,fma,f16c")]
    #[inline]
    unsafe fn nibbles(packed: I) -> [I; 2] {
        let mask = _mm256_set1_epi8(15);
        [_mm256_and_si256(packed, mask), _mm256_and_si256(_mm256_srli_epi16::<4>(packed), mask)]
    }

    #[target_feature(enable = "avx2,fma,f16c")]
    #[inline]
    unsafe fn with_fifth_bit(nibbles: I, bits: I, bit: i32) -> I {
        _mm256_or_si256(nibbles, _mm256_and_si256(to_fifth(bits, bit), _mm256_set1_epi8(16)))
    }

    #[target_feature(enable = "avx2,fma,f16c")]
    #[inline]
    unsafe fn with_sixth_bits(nibbles: I, bits: I, first_bit: i32) -> I {
        let six = _mm256_or_si256(nibbles, _mm256_and_si256(to_fifth(bits, first_bit), _mm256_set1_epi8(48)));
        _mm256_sub_epi8(six, _mm256_set1_epi8(32))
    }

    #[target_feature(enable = "avx2,fma,f16c")]
    #[inline]
    unsafe fn magnitudes(bytes: I) -> I { _mm256_abs_epi8(bytes) }

    #[target_feature(enable = "avx2,fma,f16c")]
    #[inline]
    unsafe fn no_sum() -> I { _mm256_setzero_si256() }

    #[target_feature(enable = "avx2,fma,f16c")]
    #[inline]
    unsafe fn dot_unsigned(sum: I, w: I, x: I) -> I { _mm256_add_epi16(sum, _mm256_maddubs_epi16(w, x)) }

    #[target_feature(enable = "avx2,fma,f16c")]
    #[inline]
    unsafe fn dot_signed(sum: I, w: I, size: I, x: I) -> I {
        _mm256_add_epi16(sum, _mm256_maddubs_epi16(size, _mm256_sign_epi8(x, w)))
    }

    #[target_feature(enable = "avx2,fma,f16c")]
    #[inline]
    unsafe fn no_ints() -> I { _mm256_setzero_si256() }

    #[target_feature(enable = "avx2,fma,f16c")]
    #[inline]
    unsafe fn add_sum(ints: I, sum: I) -> I { _mm256_add_epi32(ints, _mm256_madd_epi16(sum, _mm256_set1_epi16(1))) }

    #[target_feature(enable = "avx2,fma,f16c")]
    #[inline]
    unsafe fn add_dot(ints: I, w: I, size: I, x: I) -> I {
        // Two products of at most 128 · 127 fit in 16 bits, four do not.
        let pairs = _mm256_maddubs_epi16(size, _mm256_sign_epi8(x, w));
        _mm256_add_epi32(ints, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)))
    }

    #[target_feature(enable = "avx2,fma,f16c")]
    #[inline]
    unsafe fn subtract(ints: I, value: i32) -> I { _mm256_sub_epi32(ints, _mm256_set1_epi32(value)) }

    #[target_feature(enable = "avx2,fma,f16c")]
    #[inline]
    unsafe fn scale(from: *const i8) -> I {
        // SAFETY: the caller gives eight readable bytes.
        let bytes = unsafe { _mm_loadl_epi64(from.cast()) };
        _mm256_cvtepi8_epi16(_mm_unpacklo_epi8(bytes, bytes))
    }

    #[target_feature(enable = "avx2,fma,f16c")]
    #[inline]
    unsafe fn add_scaled(ints: I, scale: I, sum: I) -> I { _mm256_add_epi32(ints, _mm256_madd_epi16(sum, scale)) }

    #[target_feature(enable = "avx2,fma,f16c")]
    #[inline]
    unsafe fn splat(value: f32) -> F { _mm256_set1_ps(value) }

    #[target_feature(enable = "avx2,fma,f16c")]
    #[inline]
    unsafe fn floats(ints: I) -> F { _mm256_cvtepi32_ps(ints) }

    #[target_feature(enable = "avx2,fma,f16c")]
    #[inline]
    unsafe fn halves(from: *const u8) -> F {
        // SAFETY: the caller gives 16 readable bytes.
        _mm256_cvtph_ps(unsafe { _mm_loadu_si128(from.cast()) })
    }

    #[target_feature(enable = "avx2,fma,f16c")]
    #[inline]
    unsafe fn small(from: *const u8) -> F {
        // SAFETY: the caller gives eight readable bytes.
        _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(unsafe { _mm_loadl_epi64(from.cast()) }))
    }

    #[target_feature(enable = "avx2,fma,f16c")]
    #[inline]
    unsafe fn load(from: *const f32) -> F {
        // SAFETY: the caller gives eight readable values.
        unsafe { _mm256_loadu_ps(from) }
    }

    #[target_feature(enable = "avx2,fma,f16c")]
    #[inline]
    unsafe fn store(to: *mut f32, v: F) {
        // SAFETY: the caller gives room for eight values.
        unsafe { _mm256_storeu_ps(to, v) }
    }

    #[target_feature(enable = "avx2,fma,f16c")]
    #[inline]
    unsafe fn add(a: F, b: F) -> F { _mm256_add_ps(a, b) }

    #[target_feature(enable = "avx2,fma,f16c")]
    #[inline]
    unsafe fn mul(a: F, b: F) -> F { _mm256_mul_ps(a, b) }

    #[target_feature(enable = "avx2,fma,f16c")]
    #[inline]
    unsafe fn fma(a: F, b: F, c: F) -> F { _mm256_fmadd_ps(a, b, c) }

    #[target_feature(enable = "avx2,fma,f16c")]
    #[inline]
    unsafe fn fnma(a: F, b: F, c: F) -> F { _mm256_fnmadd_ps(a, b, c) }

    #[target_feature(enable = "avx2,fma,f16c")]
    #[inline]
    unsafe fn prefetch(at: *const u8) { _mm_prefetch::<_MM_HINT_T0>(at.cast()) }
}
