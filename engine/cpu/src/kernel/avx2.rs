//! Sixteen lanes as two registers of AVX2, with FMA and F16C: two chains of sums keep both multipliers busy.

use std::arch::x86_64::*;

use half::f16;

use super::simd::Simd;

#[derive(Clone, Copy)]
pub(crate) struct Avx2;

type V = [__m256; 2];
/// The first sixteen values and the second.
type Block = [V; 2];

/// Eight of the sixteen bytes that both halves of `bytes` hold, each in the byte `place` of a 32-bit lane, zeros around it, as f32.
/// Cheaper than the widening moves, which cross the halves.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
fn eight<const FIRST: i32, const PLACE: i32>(bytes: __m256i) -> __m256 {
    // A shuffle index with its top bit set yields zero.
    let lane = |i: i32| !(0xff << (8 * PLACE)) & 0x8080_8080u32 as i32 | (FIRST + i) << (8 * PLACE);
    let places = _mm256_setr_epi32(lane(0), lane(1), lane(2), lane(3), lane(4), lane(5), lane(6), lane(7));
    _mm256_cvtepi32_ps(_mm256_shuffle_epi8(bytes, places))
}

/// Sixteen bytes, twice.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
unsafe fn twice(from: *const u8) -> __m256i {
    // SAFETY: the caller gives sixteen readable bytes.
    _mm256_broadcastsi128_si256(unsafe { _mm_loadu_si128(from.cast()) })
}

/// The nibbles of 16 bytes, low ones first, each in a byte of its own, twice.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
unsafe fn nibbles(from: *const u8) -> [__m256i; 2] {
    // SAFETY: the caller's promise.
    let packed = unsafe { twice(from) };
    let mask = _mm256_set1_epi8(15);
    [_mm256_and_si256(packed, mask), _mm256_and_si256(_mm256_srli_epi16::<4>(packed), mask)]
}

/// `scale × byte` for signed bytes.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
fn scaled(scale: __m256, [left, right]: [__m256i; 2]) -> Block {
    // A byte at the top of its lane has its sign right and counts 2^24 fold; the product of an f16 and eight bits is exact.
    let scale = _mm256_mul_ps(scale, _mm256_set1_ps(1.0 / (1 << 24) as f32));
    [
        [_mm256_mul_ps(scale, eight::<0, 3>(left)), _mm256_mul_ps(scale, eight::<8, 3>(left))],
        [_mm256_mul_ps(scale, eight::<0, 3>(right)), _mm256_mul_ps(scale, eight::<8, 3>(right))],
    ]
}

/// An f16 in all lanes as f32.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
unsafe fn half_at(from: *const u8) -> __m256 {
    // SAFETY: the caller gives two readable bytes.
    let bits = unsafe { from.cast::<i16>().read_unaligned() };
    _mm256_cvtph_ps(_mm_set1_epi16(bits))
}

#[rustfmt::skip]
impl Simd for Avx2 {
    type V = V;
    type Block = Block;

    #[target_feature(enable = "avx2,fma,f16c")]
    #[inline]
    unsafe fn splat(value: f32) -> V { [_mm256_set1_ps(value); 2] }

    #[target_feature(enable = "avx2,fma,f16c")]
    #[inline]
    unsafe fn load(from: *const f32) -> V {
        // SAFETY: the caller gives sixteen readable values.
        unsafe { [_mm256_loadu_ps(from), _mm256_loadu_ps(from.add(8))] }
    }

    #[target_feature(enable = "avx2,fma,f16c")]
    #[inline]
    unsafe fn store(to: *mut f32, v: V) {
        // SAFETY: the caller gives room for sixteen values.
        unsafe {
            _mm256_storeu_ps(to, v[0]);
            _mm256_storeu_ps(to.add(8), v[1]);
        }
    }

    #[target_feature(enable = "avx2,fma,f16c")]
    #[inline]
    unsafe fn add(a: V, b: V) -> V { [_mm256_add_ps(a[0], b[0]), _mm256_add_ps(a[1], b[1])] }

    #[target_feature(enable = "avx2,fma,f16c")]
    #[inline]
    unsafe fn sub(a: V, b: V) -> V { [_mm256_sub_ps(a[0], b[0]), _mm256_sub_ps(a[1], b[1])] }

    #[target_feature(enable = "avx2,fma,f16c")]
    #[inline]
    unsafe fn mul(a: V, b: V) -> V { [_mm256_mul_ps(a[0], b[0]), _mm256_mul_ps(a[1], b[1])] }

    #[target_feature(enable = "avx2,fma,f16c")]
    #[inline]
    unsafe fn div(a: V, b: V) -> V { [_mm256_div_ps(a[0], b[0]), _mm256_div_ps(a[1], b[1])] }

    #[target_feature(enable = "avx2,fma,f16c")]
    #[inline]
    unsafe fn fma(a: V, b: V, c: V) -> V { [_mm256_fmadd_ps(a[0], b[0], c[0]), _mm256_fmadd_ps(a[1], b[1], c[1])] }

    #[target_feature(enable = "avx2,fma,f16c")]
    #[inline]
    unsafe fn max(a: V, b: V) -> V { [_mm256_max_ps(a[0], b[0]), _mm256_max_ps(a[1], b[1])] }

    #[target_feature(enable = "avx2,fma,f16c")]
    #[inline]
    unsafe fn min(a: V, b: V) -> V { [_mm256_min_ps(a[0], b[0]), _mm256_min_ps(a[1], b[1])] }

    #[target_feature(enable = "avx2,fma,f16c")]
    #[inline]
    unsafe fn round(v: V) -> V {
        const NEAREST: i32 = _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC;
        [_mm256_round_ps::<NEAREST>(v[0]), _mm256_round_ps::<NEAREST>(v[1])]
    }

    #[target_feature(enable = "avx2,fma,f16c")]
    #[inline]
    unsafe fn pow2(v: V) -> V {
        let exponent = |v| _mm256_add_epi32(_mm256_cvtps_epi32(v), _mm256_set1_epi32(127));
        v.map(|v| _mm256_castsi256_ps(_mm256_slli_epi32::<23>(exponent(v))))
    }

    #[target_feature(enable = "avx2,fma,f16c")]
    #[inline]
    unsafe fn zero_below(v: V, x: V, limit: V) -> V {
        let kept = |i: usize| _mm256_and_ps(_mm256_cmp_ps::<_CMP_NLT_UQ>(x[i], limit[i]), v[i]);
        [kept(0), kept(1)]
    }

    #[target_feature(enable = "avx2,fma,f16c")]
    #[inline]
    unsafe fn sum(v: V) -> f32 {
        let eight = _mm256_add_ps(v[0], v[1]);
        let four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps::<1>(eight));
        let two = _mm_hadd_ps(four, four);
        _mm_cvtss_f32(_mm_hadd_ps(two, two))
    }

    #[target_feature(enable = "avx2,fma,f16c")]
    #[inline]
    unsafe fn prefetch(at: *const u8) { _mm_prefetch::<_MM_HINT_T0>(at.cast()) }

    #[target_feature(enable = "avx2,fma,f16c")]
    #[inline]
    unsafe fn load_f16(from: *const f16) -> V {
        // SAFETY: the caller gives sixteen readable values.
        let eight = |i: usize| unsafe { _mm256_cvtph_ps(_mm_loadu_si128(from.cast::<__m128i>().add(i))) };
        [eight(0), eight(1)]
    }

    #[target_feature(enable = "avx2,fma,f16c")]
    #[inline]
    unsafe fn store_f16(to: *mut f16, v: V) {
        // SAFETY: the caller gives room for sixteen values.
        unsafe {
            let to = to.cast::<__m128i>();
            _mm_storeu_si128(to, _mm256_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(v[0]));
            _mm_storeu_si128(to.add(1), _mm256_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(v[1]));
        }
    }

    #[target_feature(enable = "avx2,fma,f16c")]
    #[inline]
    unsafe fn block_f32(from: *const u8) -> Block {
        // SAFETY: the caller gives 32 readable values.
        unsafe { [Self::load(from.cast()), Self::load(from.cast::<f32>().add(16))] }
    }

    #[target_feature(enable = "avx2,fma,f16c")]
    #[inline]
    unsafe fn block_f16(from: *const u8) -> Block {
        // SAFETY: the caller gives 64 readable bytes.
        let eight = |i: usize| unsafe { _mm256_cvtph_ps(_mm_loadu_si128(from.cast::<__m128i>().add(i))) };
        [[eight(0), eight(1)], [eight(2), eight(3)]]
    }

    #[target_feature(enable = "avx2,fma,f16c")]
    #[inline]
    unsafe fn block_bf16(from: *const u8) -> Block {
        let eight = |i: usize| {
            // SAFETY: the caller gives 64 readable bytes.
            let stored = unsafe { _mm_loadu_si128(from.cast::<__m128i>().add(i)) };
            _mm256_castsi256_ps(_mm256_slli_epi32::<16>(_mm256_cvtepu16_epi32(stored)))
        };
        [[eight(0), eight(1)], [eight(2), eight(3)]]
    }

    #[target_feature(enable = "avx2,fma,f16c")]
    #[inline]
    unsafe fn block_q8_0(from: *const u8) -> Block {
        // SAFETY: the caller gives a block of 34 bytes.
        let (scale, bytes) = unsafe { (half_at(from), [twice(from.add(2)), twice(from.add(18))]) };
        scaled(scale, bytes)
    }

    #[target_feature(enable = "avx2,fma,f16c")]
    #[inline]
    unsafe fn block_q4_0(from: *const u8) -> Block {
        // SAFETY: the caller gives a block of 18 bytes.
        let (scale, [low, high]) = unsafe { (half_at(from), nibbles(from.add(2))) };
        let zero = _mm256_set1_epi8(8);
        scaled(scale, [_mm256_sub_epi8(low, zero), _mm256_sub_epi8(high, zero)])
    }

    #[target_feature(enable = "avx2,fma,f16c")]
    #[inline]
    unsafe fn block_q4_1(from: *const u8) -> Block {
        // SAFETY: the caller gives a block of 20 bytes.
        let (both, [low, high]) = unsafe { (from.cast::<i32>().read_unaligned(), nibbles(from.add(4))) };
        let both = _mm256_cvtph_ps(_mm_set1_epi32(both));
        let (scale, minimum) = (_mm256_moveldup_ps(both), _mm256_movehdup_ps(both));
        // The product of an f16 and four bits is exact: fused, the sum is rounded once, as it is when done in two steps.
        [
            [_mm256_fmadd_ps(scale, eight::<0, 0>(low), minimum), _mm256_fmadd_ps(scale, eight::<8, 0>(low), minimum)],
            [_mm256_fmadd_ps(scale, eight::<0, 0>(high), minimum), _mm256_fmadd_ps(scale, eight::<8, 0>(high), minimum)],
        ]
    }

    #[target_feature(enable = "avx2,fma,f16c")]
    #[inline]
    unsafe fn block_fma(block: Block, x: *const f32, sum: V) -> V {
        // SAFETY: the caller gives 32 readable values.
        unsafe { Self::fma(block[1], Self::load(x.add(16)), Self::fma(block[0], Self::load(x), sum)) }
    }

    #[target_feature(enable = "avx2,fma,f16c")]
    #[inline]
    unsafe fn block_store(block: Block, to: *mut f32) {
        // SAFETY: the caller gives room for 32 values.
        unsafe {
            Self::store(to, block[0]);
            Self::store(to.add(16), block[1]);
        }
    }
}
