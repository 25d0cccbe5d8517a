//! Sixteen lanes of AVX-512 F.

use std::arch::x86_64::*;

use half::f16;

use super::simd::Simd;

#[derive(Clone, Copy)]
pub(crate) struct Avx512;

type V = __m512;
type Block = [__m512; 2];

/// The nibbles of 16 bytes as 32 × f32, low halves first.
#[target_feature(enable = "avx512f,avx2,fma,f16c")]
#[inline]
fn nibbles(packed: __m128i) -> Block {
    let mask = _mm_set1_epi8(15);
    let low = _mm_and_si128(packed, mask);
    let high = _mm_and_si128(_mm_srli_epi16::<4>(packed), mask);
    [_mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(low)), _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(high))]
}

/// An f16 in all lanes as f32.
#[target_feature(enable = "avx512f,avx2,fma,f16c")]
#[inline]
unsafe fn half_at(from: *const u8) -> V {
    // SAFETY: the caller gives two readable bytes.
    let bits = unsafe { from.cast::<i16>().read_unaligned() };
    _mm512_cvtph_ps(_mm256_set1_epi16(bits))
}

#[rustfmt::skip]
impl Simd for Avx512 {
    type V = V;
    type Block = Block;

    #[target_feature(enable = "avx512f,avx2,fma,f16c")]
    #[inline]
    unsafe fn splat(value: f32) -> V { _mm512_set1_ps(value) }

    #[target_feature(enable = "avx512f,avx2,fma,f16c")]
    #[inline]
    unsafe fn load(from: *const f32) -> V {
        // SAFETY: the caller gives sixteen readable values.
        unsafe { _mm512_loadu_ps(from) }
    }

    #[target_feature(enable = "avx512f,avx2,fma,f16c")]
    #[inline]
    unsafe fn store(to: *mut f32, v: V) {
        // SAFETY: the caller gives room for sixteen values.
        unsafe { _mm512_storeu_ps(to, v) }
    }

    #[target_feature(enable = "avx512f,avx2,fma,f16c")]
    #[inline]
    unsafe fn add(a: V, b: V) -> V { _mm512_add_ps(a, b) }

    #[target_feature(enable = "avx512f,avx2,fma,f16c")]
    #[inline]
    unsafe fn sub(a: V, b: V) -> V { _mm512_sub_ps(a, b) }

    #[target_feature(enable = "avx512f,avx2,fma,f16c")]
    #[inline]
    unsafe fn mul(a: V, b: V) -> V { _mm512_mul_ps(a, b) }

    #[target_feature(enable = "avx512f,avx2,fma,f16c")]
    #[inline]
    unsafe fn div(a: V, b: V) -> V { _mm512_div_ps(a, b) }

    #[target_feature(enable = "avx512f,avx2,fma,f16c")]
    #[inline]
    unsafe fn fma(a: V, b: V, c: V) -> V { _mm512_fmadd_ps(a, b, c) }

    #[target_feature(enable = "avx512f,avx2,fma,f16c")]
    #[inline]
    unsafe fn max(a: V, b: V) -> V { _mm512_max_ps(a, b) }

    #[target_feature(enable = "avx512f,avx2,fma,f16c")]
    #[inline]
    unsafe fn min(a: V, b: V) -> V { _mm512_min_ps(a, b) }

    #[target_feature(enable = "avx512f,avx2,fma,f16c")]
    #[inline]
    unsafe fn round(v: V) -> V { _mm512_roundscale_ps::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(v) }

    #[target_feature(enable = "avx512f,avx2,fma,f16c")]
    #[inline]
    unsafe fn pow2(v: V) -> V {
        let exponent = _mm512_add_epi32(_mm512_cvtps_epi32(v), _mm512_set1_epi32(127));
        _mm512_castsi512_ps(_mm512_slli_epi32::<23>(exponent))
    }

    #[target_feature(enable = "avx512f,avx2,fma,f16c")]
    #[inline]
    unsafe fn zero_below(v: V, x: V, limit: V) -> V { _mm512_maskz_mov_ps(_mm512_cmp_ps_mask::<_CMP_NLT_UQ>(x, limit), v) }

    #[target_feature(enable = "avx512f,avx2,fma,f16c")]
    #[inline]
    unsafe fn sum(v: V) -> f32 {
        let high = _mm512_castpd_ps(_mm512_castpd256_pd512(_mm512_extractf64x4_pd::<1>(_mm512_castps_pd(v))));
        let eight = _mm256_add_ps(_mm512_castps512_ps256(v), _mm512_castps512_ps256(high));
        let four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps::<1>(eight));
        let two = _mm_hadd_ps(four, four);
        _mm_cvtss_f32(_mm_hadd_ps(two, two))
    }

    #[target_feature(enable = "avx512f,avx2,fma,f16c")]
    #[inline]
    unsafe fn prefetch(at: *const u8) { _mm_prefetch::<_MM_HINT_T0>(at.cast()) }

    #[target_feature(enable = "avx512f,avx2,fma,f16c")]
    #[inline]
    unsafe fn load_f16(from: *const f16) -> V {
        // SAFETY: the caller gives sixteen readable values.
        unsafe { _mm512_cvtph_ps(_mm256_loadu_si256(from.cast())) }
    }

    #[target_feature(enable = "avx512f,avx2,fma,f16c")]
    #[inline]
    unsafe fn store_f16(to: *mut f16, v: V) {
        // SAFETY: the caller gives room for sixteen values.
        unsafe { _mm256_storeu_si256(to.cast(), _mm512_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(v)) }
    }

    #[target_feature(enable = "avx512f,avx2,fma,f16c")]
    #[inline]
    unsafe fn block_f32(from: *const u8) -> Block {
        let from = from.cast::<f32>();
        // SAFETY: the caller gives 32 readable values.
        unsafe { [_mm512_loadu_ps(from), _mm512_loadu_ps(from.add(16))] }
    }

    #[target_feature(enable = "avx512f,avx2,fma,f16c")]
    #[inline]
    unsafe fn block_f16(from: *const u8) -> Block {
        let from = from.cast::<__m256i>();
        // SAFETY: the caller gives 64 readable bytes.
        unsafe { [_mm512_cvtph_ps(_mm256_loadu_si256(from)), _mm512_cvtph_ps(_mm256_loadu_si256(from.add(1)))] }
    }

    #[target_feature(enable = "avx512f,avx2,fma,f16c")]
    #[inline]
    unsafe fn block_bf16(from: *const u8) -> Block {
        let from = from.cast::<__m256i>();
        // SAFETY: the caller gives 64 readable bytes.
        let stored = unsafe { [_mm256_loadu_si256(from), _mm256_loadu_si256(from.add(1))] };
        [
            _mm512_castsi512_ps(_mm512_slli_epi32::<16>(_mm512_cvtepu16_epi32(stored[0]))),
            _mm512_castsi512_ps(_mm512_slli_epi32::<16>(_mm512_cvtepu16_epi32(stored[1]))),
        ]
    }

    #[target_feature(enable = "avx512f,avx2,fma,f16c")]
    #[inline]
    unsafe fn block_q8_0(from: *const u8) -> Block {
        // SAFETY: the caller gives a block of 34 bytes.
        let (scale, stored) =
            unsafe { (half_at(from), [_mm_loadu_si128(from.add(2).cast()), _mm_loadu_si128(from.add(18).cast())]) };
        [
            _mm512_mul_ps(scale, _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(stored[0]))),
            _mm512_mul_ps(scale, _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(stored[1]))),
        ]
    }

    #[target_feature(enable = "avx512f,avx2,fma,f16c")]
    #[inline]
    unsafe fn block_q4_0(from: *const u8) -> Block {
        // SAFETY: the caller gives a block of 18 bytes.
        let (scale, packed) = unsafe { (half_at(from), _mm_loadu_si128(from.add(2).cast())) };
        let eight = _mm512_set1_ps(8.0);
        let [low, high] = nibbles(packed);
        [_mm512_mul_ps(scale, _mm512_sub_ps(low, eight)), _mm512_mul_ps(scale, _mm512_sub_ps(high, eight))]
    }

    #[target_feature(enable = "avx512f,avx2,fma,f16c")]
    #[inline]
    unsafe fn block_q4_1(from: *const u8) -> Block {
        // SAFETY: the caller gives a block of 20 bytes.
        let (scale, minimum, packed) = unsafe { (half_at(from), half_at(from.add(2)), _mm_loadu_si128(from.add(4).cast())) };
        let [low, high] = nibbles(packed);
        // The product of an f16 and four bits is exact, so fused or not, the sum is rounded once.
        [_mm512_fmadd_ps(scale, low, minimum), _mm512_fmadd_ps(scale, high, minimum)]
    }

    #[target_feature(enable = "avx512f,avx2,fma,f16c")]
    #[inline]
    unsafe fn block_fma(block: Block, x: *const f32, sum: V) -> V {
        // SAFETY: the caller gives 32 readable values.
        let x = unsafe { [_mm512_loadu_ps(x), _mm512_loadu_ps(x.add(16))] };
        _mm512_fmadd_ps(block[1], x[1], _mm512_fmadd_ps(block[0], x[0], sum))
    }

    #[target_feature(enable = "avx512f,avx2,fma,f16c")]
    #[inline]
    unsafe fn block_store(block: Block, to: *mut f32) {
        // SAFETY: the caller gives room for 32 values.
        unsafe {
            _mm512_storeu_ps(to, block[0]);
            _mm512_storeu_ps(to.add(16), block[1]);
        }
    }
}
