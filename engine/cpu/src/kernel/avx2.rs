//! Eight lanes of AVX2 with FMA and F16C.

use std::arch::x86_64::*;

use super::simd::Simd;

#[derive(Clone, Copy)]
pub(crate) struct Avx2;

type V = __m256;
type Block = [__m256; 4];

/// 8 bytes to 8 × f32.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
fn unsigned_bytes(bytes: __m128i) -> V {
    _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(bytes))
}

/// The nibbles of 16 bytes as 32 × f32, low halves first.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
fn nibbles(packed: __m128i) -> Block {
    let mask = _mm_set1_epi8(15);
    let low = _mm_and_si128(packed, mask);
    let high = _mm_and_si128(_mm_srli_epi16::<4>(packed), mask);
    [
        unsigned_bytes(low),
        unsigned_bytes(_mm_unpackhi_epi64(low, low)),
        unsigned_bytes(high),
        unsigned_bytes(_mm_unpackhi_epi64(high, high)),
    ]
}

/// An f16 in all lanes as f32.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
unsafe fn half_at(from: *const u8) -> V {
    // SAFETY: the caller gives two readable bytes.
    let bits = unsafe { from.cast::<i16>().read_unaligned() };
    _mm256_cvtph_ps(_mm_set1_epi16(bits))
}

#[rustfmt::skip]
impl Simd for Avx2 {
    const LANES: usize = 8;
    type V = V;
    type Block = Block;

    #[target_feature(enable = "avx2,fma,f16c")]
    #[inline]
    unsafe fn splat(value: f32) -> V { _mm256_set1_ps(value) }

    #[target_feature(enable = "avx2,fma,f16c")]
    #[inline]
    unsafe fn load(from: *const f32) -> V {
        // SAFETY: the caller gives eight readable values.
        unsafe { _mm256_loadu_ps(from) }
    }

    #[target_feature(enable = "avx2,fma,f16c")]
    #[inline]
    unsafe fn store(to: *mut f32, v: V) {
        // SAFETY: the caller gives room for eight values.
        unsafe { _mm256_storeu_ps(to, v) }
    }

    #[target_feature(enable = "avx2,fma,f16c")]
    #[inline]
    unsafe fn add(a: V, b: V) -> V { _mm256_add_ps(a, b) }

    #[target_feature(enable = "avx2,fma,f16c")]
    #[inline]
    unsafe fn sub(a: V, b: V) -> V { _mm256_sub_ps(a, b) }

    #[target_feature(enable = "avx2,fma,f16c")]
    #[inline]
    unsafe fn mul(a: V, b: V) -> V { _mm256_mul_ps(a, b) }

    #[target_feature(enable = "avx2,fma,f16c")]
    #[inline]
    unsafe fn div(a: V, b: V) -> V { _mm256_div_ps(a, b) }

    #[target_feature(enable = "avx2,fma,f16c")]
    #[inline]
    unsafe fn fma(a: V, b: V, c: V) -> V { _mm256_fmadd_ps(a, b, c) }

    #[target_feature(enable = "avx2,fma,f16c")]
    #[inline]
    unsafe fn max(a: V, b: V) -> V { _mm256_max_ps(a, b) }

    #[target_feature(enable = "avx2,fma,f16c")]
    #[inline]
    unsafe fn min(a: V, b: V) -> V { _mm256_min_ps(a, b) }

    #[target_feature(enable = "avx2,fma,f16c")]
    #[inline]
    unsafe fn round(v: V) -> V { _mm256_round_ps::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(v) }

    #[target_feature(enable = "avx2,fma,f16c")]
    #[inline]
    unsafe fn pow2(v: V) -> V {
        let exponent = _mm256_add_epi32(_mm256_cvtps_epi32(v), _mm256_set1_epi32(127));
        _mm256_castsi256_ps(_mm256_slli_epi32::<23>(exponent))
    }

    #[target_feature(enable = "avx2,fma,f16c")]
    #[inline]
    unsafe fn zero_below(v: V, x: V, limit: V) -> V { _mm256_and_ps(_mm256_cmp_ps::<_CMP_NLT_UQ>(x, limit), v) }

    #[target_feature(enable = "avx2,fma,f16c")]
    #[inline]
    unsafe fn sum(v: V) -> f32 {
        let four = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps::<1>(v));
        let two = _mm_hadd_ps(four, four);
        _mm_cvtss_f32(_mm_hadd_ps(two, two))
    }

    #[target_feature(enable = "avx2,fma,f16c")]
    #[inline]
    unsafe fn prefetch(at: *const u8) { _mm_prefetch::<_MM_HINT_T0>(at.cast()) }

    #[target_feature(enable = "avx2,fma,f16c")]
    #[inline]
    unsafe fn block_f32(from: *const u8) -> Block {
        let from = from.cast::<f32>();
        // SAFETY: the caller gives 32 readable values.
        unsafe { [_mm256_loadu_ps(from), _mm256_loadu_ps(from.add(8)), _mm256_loadu_ps(from.add(16)), _mm256_loadu_ps(from.add(24))] }
    }

    #[target_feature(enable = "avx2,fma,f16c")]
    #[inline]
    unsafe fn block_f16(from: *const u8) -> Block {
        let from = from.cast::<__m128i>();
        // SAFETY: the caller gives 64 readable bytes.
        let stored = unsafe { [_mm_loadu_si128(from), _mm_loadu_si128(from.add(1)), _mm_loadu_si128(from.add(2)), _mm_loadu_si128(from.add(3))] };
        [_mm256_cvtph_ps(stored[0]), _mm256_cvtph_ps(stored[1]), _mm256_cvtph_ps(stored[2]), _mm256_cvtph_ps(stored[3])]
    }

    #[target_feature(enable = "avx2,fma,f16c")]
    #[inline]
    unsafe fn block_bf16(from: *const u8) -> Block {
        #[target_feature(enable = "avx2,fma,f16c")]
        #[inline]
        fn widen(stored: __m128i) -> V { _mm256_castsi256_ps(_mm256_slli_epi32::<16>(_mm256_cvtepu16_epi32(stored))) }
        let from = from.cast::<__m128i>();
        // SAFETY: the caller gives 64 readable bytes.
        let stored = unsafe { [_mm_loadu_si128(from), _mm_loadu_si128(from.add(1)), _mm_loadu_si128(from.add(2)), _mm_loadu_si128(from.add(3))] };
        [widen(stored[0]), widen(stored[1]), widen(stored[2]), widen(stored[3])]
    }

    #[target_feature(enable = "avx2,fma,f16c")]
    #[inline]
    unsafe fn block_q8_0(from: *const u8) -> Block {
        #[target_feature(enable = "avx2,fma,f16c")]
        #[inline]
        fn signed_bytes(bytes: __m128i) -> V { _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(bytes)) }
        // SAFETY: the caller gives a block of 34 bytes.
        let (scale, stored) = unsafe {
            let stored = from.add(2);
            let eight = |i: usize| _mm_loadl_epi64(stored.add(8 * i).cast());
            (half_at(from), [eight(0), eight(1), eight(2), eight(3)])
        };
        [
            _mm256_mul_ps(scale, signed_bytes(stored[0])),
            _mm256_mul_ps(scale, signed_bytes(stored[1])),
            _mm256_mul_ps(scale, signed_bytes(stored[2])),
            _mm256_mul_ps(scale, signed_bytes(stored[3])),
        ]
    }

    #[target_feature(enable = "avx2,fma,f16c")]
    #[inline]
    unsafe fn block_q4_0(from: *const u8) -> Block {
        // SAFETY: the caller gives a block of 18 bytes.
        let (scale, packed) = unsafe { (half_at(from), _mm_loadu_si128(from.add(2).cast())) };
        let eight = _mm256_set1_ps(8.0);
        let [a, b, c, d] = nibbles(packed);
        [
            _mm256_mul_ps(scale, _mm256_sub_ps(a, eight)),
            _mm256_mul_ps(scale, _mm256_sub_ps(b, eight)),
            _mm256_mul_ps(scale, _mm256_sub_ps(c, eight)),
            _mm256_mul_ps(scale, _mm256_sub_ps(d, eight)),
        ]
    }

    #[target_feature(enable = "avx2,fma,f16c")]
    #[inline]
    unsafe fn block_q4_1(from: *const u8) -> Block {
        // SAFETY: the caller gives a block of 20 bytes.
        let (scale_minimum, packed) = unsafe { (from.cast::<i32>().read_unaligned(), _mm_loadu_si128(from.add(4).cast())) };
        let both = _mm256_cvtph_ps(_mm_set1_epi32(scale_minimum));
        let (scale, minimum) = (_mm256_moveldup_ps(both), _mm256_movehdup_ps(both));
        let [a, b, c, d] = nibbles(packed);
        // Two roundings, as dequantising has them; a fused multiply-add would have one.
        [
            _mm256_add_ps(_mm256_mul_ps(scale, a), minimum),
            _mm256_add_ps(_mm256_mul_ps(scale, b), minimum),
            _mm256_add_ps(_mm256_mul_ps(scale, c), minimum),
            _mm256_add_ps(_mm256_mul_ps(scale, d), minimum),
        ]
    }

    #[target_feature(enable = "avx2,fma,f16c")]
    #[inline]
    unsafe fn block_fma(block: Block, x: *const f32, sum: V) -> V {
        // SAFETY: the caller gives 32 readable values.
        let x = unsafe { [_mm256_loadu_ps(x), _mm256_loadu_ps(x.add(8)), _mm256_loadu_ps(x.add(16)), _mm256_loadu_ps(x.add(24))] };
        let sum = _mm256_fmadd_ps(block[0], x[0], sum);
        let sum = _mm256_fmadd_ps(block[1], x[1], sum);
        let sum = _mm256_fmadd_ps(block[2], x[2], sum);
        _mm256_fmadd_ps(block[3], x[3], sum)
    }

    #[target_feature(enable = "avx2,fma,f16c")]
    #[inline]
    unsafe fn block_store(block: Block, to: *mut f32) {
        // SAFETY: the caller gives room for 32 values.
        unsafe {
            _mm256_storeu_ps(to, block[0]);
            _mm256_storeu_ps(to.add(8), block[1]);
            _mm256_storeu_ps(to.add(16), block[2]);
            _mm256_storeu_ps(to.add(24), block[3]);
        }
    }
}
