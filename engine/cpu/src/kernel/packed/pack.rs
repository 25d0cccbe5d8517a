//! From rows as GGML stores them to strips. Once per weight, while the model loads.

use engine_assets::DType;

use super::format::{HALVES, Packed, Q4_0, Q4_1, Q8_0, VECTOR};
use super::lanes::OUTPUTS;
use super::{quants_at, strip_bytes};

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
    }
}

/// Types of 32 weights whose `QUANTS` bytes of quants, behind `HEAD` bytes of f16, lie in a strip's order already: four bytes of each
/// row in turn.
fn simple<F: Packed, const HEAD: usize, const QUANTS: usize>(rows: &[&[u8]; OUTPUTS], blocks: usize, strip: &mut [u8]) {
    let (scales, quants) = strip.split_at_mut(quants_at::<F>(blocks));
    let blocks_out = scales.chunks_exact_mut(F::SCALE_BYTES).zip(quants.chunks_exact_mut(F::QUANT_BYTES));
    for (block, (scales, quants)) in blocks_out.enumerate().take(blocks) {
        for (output, row) in rows.iter().enumerate() {
            let stored = &row[block * (HEAD + QUANTS)..][..HEAD + QUANTS];
            for (half, scale) in stored[..HEAD].chunks_exact(2).enumerate() {
                scales[half * HALVES + output * 2..][..2].copy_from_slice(scale);
            }
            for (vector, four) in stored[HEAD..].chunks_exact(4).enumerate() {
                quants[vector * VECTOR + output * 4..][..4].copy_from_slice(four);
            }
        }
    }
}
