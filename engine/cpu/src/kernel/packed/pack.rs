//! From rows as GGML stores them to strips. Once per weight, while the model loads.

use engine_assets::DType;

use super::format::{HALVES, PART_SCALES, Packed, Q4_0, Q4_1, Q4K, Q5_0, Q5_1, Q5K, Q6K, Q8_0, VECTOR};
use super::lanes::OUTPUTS;
use super::strip_bytes;
use crate::kernel::ggml;
use crate::kernel::simd::BLOCK;

/// What is known of a type that can be packed.
pub(crate) struct Packing {
    /// Bytes of a strip, by blocks of 32 inputs.
    pub strip_bytes: fn(usize) -> usize,
    /// Packs eight stored rows of so many blocks of 32 inputs into one strip. The rows are as long as that takes, as is the strip.
    pub pack: fn(&[&[u8]; OUTPUTS], usize, &mut [u8]),
}

/// How `dtype` is packed; `None` for element types, which are multiplied as they are stored.
pub(crate) fn packing(dtype: DType) -> Option<&'static Packing> {
    macro_rules! of {
        ($format:ident, $pack:expr) => {
            Some(const { &Packing { strip_bytes: strip_bytes::<$format>, pack: $pack } })
        };
    }
    match dtype {
        DType::F32 | DType::F16 | DType::BF16 => None,
        DType::Q8_0 => of!(Q8_0, simple::<Q8_0, 2, 32>),
        DType::Q4_0 => of!(Q4_0, simple::<Q4_0, 2, 16>),
        DType::Q4_1 => of!(Q4_1, simple::<Q4_1, 4, 16>),
        DType::Q5_0 => of!(Q5_0, units::<Q5_0>),
        DType::Q5_1 => of!(Q5_1, units::<Q5_1>),
        DType::Q4K => of!(Q4K, units::<Q4K>),
        DType::Q5K => of!(Q5K, units::<Q5K>),
        DType::Q6K => of!(Q6K, units::<Q6K>),
    }
}

/// Calls `unit(number, scales, quants)` for each unit of a strip of so many blocks.
fn each_unit<F: Packed>(blocks: usize, strip: &mut [u8], mut unit: impl FnMut(usize, &mut [u8], &mut [u8])) {
    let unit_quants = F::UNIT * F::QUANT_BYTES;
    let units = blocks / F::UNIT;
    for (group, strip) in strip.chunks_mut(F::GROUP * (F::SCALE_BYTES + unit_quants)).enumerate() {
        let (scales, quants) = strip.split_at_mut(strip.len().min(F::GROUP * F::SCALE_BYTES));
        let parts = scales.chunks_exact_mut(F::SCALE_BYTES).zip(quants.chunks_exact_mut(unit_quants));
        for (place, (scales, quants)) in parts.enumerate() {
            let number = group * F::GROUP + place;
            if number < units {
                unit(number, scales, quants);
            }
        }
    }
}

/// Types of 32 weights whose `QUANTS` bytes of quants, behind `HEAD` bytes of f16, lie in a strip's order already: four bytes of each
/// row in turn.
fn simple<F: Packed, const HEAD: usize, const QUANTS: usize>(rows: &[&[u8]; OUTPUTS], blocks: usize, strip: &mut [u8]) {
    each_unit::<F>(blocks, strip, |block, scales, quants| {
        for (output, row) in rows.iter().enumerate() {
            let stored = &row[block * (HEAD + QUANTS)..][..HEAD + QUANTS];
            for (half, scale) in stored[..HEAD].chunks_exact(2).enumerate() {
                scales[half * HALVES + output * 2..][..2].copy_from_slice(scale);
            }
            for (vector, four) in stored[HEAD..].chunks_exact(4).enumerate() {
                quants[vector * VECTOR + output * 4..][..4].copy_from_slice(four);
            }
        }
    });
}

/// Types whose numbers are taken apart and put together anew.
trait Unit: Packed {
    /// Writes what `output` has of a unit's scales.
    fn scales(stored: &[u8], output: usize, scales: &mut [u8]);
    /// The numbers of a block of the unit, unsigned.
    fn numbers(stored: &[u8], block: usize) -> [u8; BLOCK];
    /// Writes what is above the nibbles.
    fn upper_bits(numbers: &[u8; BLOCK], output: usize, vectors: &mut [u8]);
}

fn units<F: Unit>(rows: &[&[u8]; OUTPUTS], blocks: usize, strip: &mut [u8]) {
    let unit_bytes = F::DTYPE.block_bytes();
    each_unit::<F>(blocks, strip, |unit, scales, quants| {
        for (output, row) in rows.iter().enumerate() {
            let stored = &row[unit * unit_bytes..][..unit_bytes];
            F::scales(stored, output, scales);
            for (block, quants) in quants.chunks_exact_mut(F::QUANT_BYTES).enumerate() {
                let numbers = F::numbers(stored, block);
                let (nibbles, upper) = quants.split_at_mut(4 * VECTOR);
                for vector in 0..4 {
                    for byte in 0..4 {
                        let at = 4 * vector + byte;
                        nibbles[vector * VECTOR + output * 4 + byte] = numbers[at] & 15 | numbers[at + 16] << 4;
                    }
                }
                F::upper_bits(&numbers, output, upper);
            }
        }
    });
}

fn halves(stored: &[u8], output: usize, scales: &mut [u8]) {
    for (half, scale) in stored.chunks_exact(2).enumerate() {
        scales[half * HALVES + output * 2..][..2].copy_from_slice(scale);
    }
}

/// Bit `g` of byte `b`: the fifth bit of number `4g + b`.
fn fifth_bits(numbers: &[u8; BLOCK], output: usize, vector: &mut [u8]) {
    for byte in 0..4 {
        let bits = (0..8).map(|group| (numbers[4 * group + byte] >> 4 & 1) << group);
        vector[output * 4 + byte] = bits.fold(0, |all, bit| all | bit);
    }
}

fn super_scales(stored: &[u8], output: usize, scales: &mut [u8]) {
    halves(&stored[..4], output, scales);
    for (part, scales) in scales[2 * HALVES..].chunks_exact_mut(PART_SCALES).enumerate() {
        let (scale, minimum) = ggml::scale_and_minimum(stored, part);
        scales[output] = scale;
        scales[OUTPUTS + output] = minimum;
    }
}

impl Unit for Q5_0 {
    fn scales(stored: &[u8], output: usize, scales: &mut [u8]) {
        halves(&stored[..2], output, scales);
    }
    fn numbers(stored: &[u8], _: usize) -> [u8; BLOCK] {
        ggml::q5_0(stored)
    }
    fn upper_bits(numbers: &[u8; BLOCK], output: usize, vectors: &mut [u8]) {
        fifth_bits(numbers, output, vectors);
    }
}

impl Unit for Q5_1 {
    fn scales(stored: &[u8], output: usize, scales: &mut [u8]) {
        halves(&stored[..4], output, scales);
    }
    fn numbers(stored: &[u8], _: usize) -> [u8; BLOCK] {
        ggml::q5_1(stored)
    }
    fn upper_bits(numbers: &[u8; BLOCK], output: usize, vectors: &mut [u8]) {
        fifth_bits(numbers, output, vectors);
    }
}

impl Unit for Q4K {
    fn scales(stored: &[u8], output: usize, scales: &mut [u8]) {
        super_scales(stored, output, scales);
    }
    fn numbers(stored: &[u8], block: usize) -> [u8; BLOCK] {
        ggml::q4_k(stored, block)
    }
    fn upper_bits(_: &[u8; BLOCK], _: usize, _: &mut [u8]) {}
}

impl Unit for Q5K {
    fn scales(stored: &[u8], output: usize, scales: &mut [u8]) {
        super_scales(stored, output, scales);
    }
    fn numbers(stored: &[u8], block: usize) -> [u8; BLOCK] {
        ggml::q5_k(stored, block)
    }
    fn upper_bits(numbers: &[u8; BLOCK], output: usize, vectors: &mut [u8]) {
        fifth_bits(numbers, output, vectors);
    }
}

impl Unit for Q6K {
    fn scales(stored: &[u8], output: usize, scales: &mut [u8]) {
        halves(&stored[ggml::Q6_K_SCALE_AT..][..2], output, scales);
        for (part, scales) in scales[HALVES..].chunks_exact_mut(PART_SCALES).enumerate() {
            let [first, second] = ggml::q6_k_scales(stored, part);
            scales[output] = first as u8;
            scales[OUTPUTS + output] = second as u8;
        }
    }
    fn numbers(stored: &[u8], block: usize) -> [u8; BLOCK] {
        ggml::q6_k(stored, block)
    }
    fn upper_bits(numbers: &[u8; BLOCK], output: usize, vectors: &mut [u8]) {
        for (half, numbers) in numbers.chunks_exact(16).enumerate() {
            for byte in 0..4 {
                let bits = (0..4).map(|vector| (numbers[4 * vector + byte] >> 4 & 3) << (2 * vector));
                vectors[half * VECTOR + output * 4 + byte] = bits.fold(0, |all, two| all | two);
            }
        }
    }
}
