//! GGML's block types of five and six bits and of super-blocks, 32 weights at a time, in plain Rust.
//!
//! What they mean is defined by ggml's `dequantize_row_*`; the `gguf` Python package's `dequantize` is what the tests compare with.
//! Every scale that a super-block spells as a product, an f16 times a few bits, is exact in f32, so each weight is rounded once.

use half::f16;

use super::simd::BLOCK;

/// Bytes of whole blocks: of 32 weights, or of 256.
pub(crate) const Q5_0_BYTES: usize = 22;
pub(crate) const Q5_1_BYTES: usize = 24;

pub(crate) fn half(bytes: &[u8], at: usize) -> f32 {
    f16::from_le_bytes([bytes[at], bytes[at + 1]]).to_f32()
}

/// 32 numbers of five bits: nibbles as in Q4_0, fifth bits in a mask.
fn fives(mask: &[u8], nibbles: &[u8]) -> [u8; BLOCK] {
    let mask = u32::from_le_bytes([mask[0], mask[1], mask[2], mask[3]]);
    std::array::from_fn(|i| {
        let nibble = if i < 16 { nibbles[i] & 15 } else { nibbles[i - 16] >> 4 };
        nibble | ((mask >> i & 1) as u8) << 4
    })
}

/// f16 scale, 32 fifth bits, 16 bytes of nibbles: scale × (q − 16).
pub(crate) fn q5_0(block: &[u8]) -> [u8; BLOCK] {
    fives(&block[2..6], &block[6..Q5_0_BYTES])
}

/// f16 scale, f16 minimum, 32 fifth bits, 16 bytes of nibbles: scale × q + minimum.
pub(crate) fn q5_1(block: &[u8]) -> [u8; BLOCK] {
    fives(&block[4..8], &block[8..Q5_1_BYTES])
}

/// The six-bit scale and minimum of part `part < 8` of a super-block, out of the twelve bytes at 4 of Q4_K and Q5_K.
pub(crate) fn scale_and_minimum(block: &[u8], part: usize) -> (u8, u8) {
    let packed = &block[4..16];
    match part {
        0..4 => (packed[part] & 63, packed[part + 4] & 63),
        _ => (packed[part + 4] & 15 | (packed[part - 4] >> 6) << 4, packed[part + 4] >> 4 | (packed[part] >> 6) << 4),
    }
}

/// Two f16 `d` and `m`, twelve bytes of scales and minima, 128 bytes of nibbles: d × scale × q − m × minimum. Parts 2i and 2i + 1 are
/// the lower and upper halves of 32 bytes.
pub(crate) fn q4_k(block: &[u8], part: usize) -> [u8; BLOCK] {
    let nibbles = &block[16 + part / 2 * BLOCK..][..BLOCK];
    std::array::from_fn(|i| nibbles[i] >> (part % 2 * 4) & 15)
}

/// As Q4_K with 32 bytes of fifth bits before the nibbles: bit `part` of byte `i` belongs to weight `i`.
pub(crate) fn q5_k(block: &[u8], part: usize) -> [u8; BLOCK] {
    let fifths = &block[16..48];
    let nibbles = &block[48 + part / 2 * BLOCK..][..BLOCK];
    std::array::from_fn(|i| nibbles[i] >> (part % 2 * 4) & 15 | (fifths[i] >> part & 1) << 4)
}

/// 128 bytes of nibbles, 64 of two bits, sixteen signed scales, f16 `d`: d × scale × (q − 32), a scale for sixteen weights. Each half
/// of 128 weights takes its four parts from the lower halves of two times 32 bytes, then from the upper ones.
pub(crate) fn q6_k(block: &[u8], part: usize) -> [u8; BLOCK] {
    let (half, quarter) = (part / 4, part % 4);
    let nibbles = &block[half * 64 + quarter % 2 * BLOCK..][..BLOCK];
    let twos = &block[128 + half * BLOCK..][..BLOCK];
    std::array::from_fn(|i| nibbles[i] >> (quarter / 2 * 4) & 15 | (twos[i] >> (2 * quarter) & 3) << 4)
}

/// The signed scales of the two halves of a part of Q6_K.
pub(crate) fn q6_k_scales(block: &[u8], part: usize) -> [i8; 2] {
    [block[192 + 2 * part] as i8, block[192 + 2 * part + 1] as i8]
}

/// Where Q6_K's f16 stands.
pub(crate) const Q6_K_SCALE_AT: usize = 208;

pub(crate) fn expand_q5_0(block: &[u8], _: usize) -> [f32; BLOCK] {
    let scale = half(block, 0);
    q5_0(block).map(|q| scale * (f32::from(q) - 16.0))
}

pub(crate) fn expand_q5_1(block: &[u8], _: usize) -> [f32; BLOCK] {
    let (scale, minimum) = (half(block, 0), half(block, 2));
    q5_1(block).map(|q| scale * f32::from(q) + minimum)
}

pub(crate) fn expand_q4_k(block: &[u8], part: usize) -> [f32; BLOCK] {
    with_minimum(block, part, q4_k(block, part))
}

pub(crate) fn expand_q5_k(block: &[u8], part: usize) -> [f32; BLOCK] {
    with_minimum(block, part, q5_k(block, part))
}

fn with_minimum(block: &[u8], part: usize, q: [u8; BLOCK]) -> [f32; BLOCK] {
    let (scale, minimum) = scale_and_minimum(block, part);
    let (scale, minimum) = (half(block, 0) * f32::from(scale), half(block, 2) * f32::from(minimum));
    q.map(|q| scale * f32::from(q) - minimum)
}

pub(crate) fn expand_q6_k(block: &[u8], part: usize) -> [f32; BLOCK] {
    let d = half(block, Q6_K_SCALE_AT);
    let scales = q6_k_scales(block, part).map(|scale| d * f32::from(scale));
    let q = q6_k(block, part);
    std::array::from_fn(|i| scales[i / 16] * (f32::from(q[i]) - 32.0))
}
