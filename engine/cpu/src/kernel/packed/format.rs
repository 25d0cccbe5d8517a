//! Packed block types: how a strip's bytes become products.
//!
//! A strip is [`OUTPUTS`] rows of weights side by side, in groups of few blocks: first their scales, then their quants. Within the quants, 32
//! bytes hold four consecutive inputs of each output, output after output, so that one load meets one broadcast of four activations and every
//! lane sums one output: nothing is ever added across lanes. Types of four bits hold inputs `4v ..` in the lower halves of vector `v`
//! and `16 + 4v ..` in the upper ones. Further bits follow in vectors of their own, bit `g` of a byte for inputs `4g ..`.

use engine_assets::DType;

use super::activation::{ActivationBlock, ROWS};
use super::lanes::{Lanes, OUTPUTS};

/// Bytes of four inputs of each output.
pub(crate) const VECTOR: usize = 4 * OUTPUTS;
/// Bytes of eight f16.
pub(crate) const HALVES: usize = 2 * OUTPUTS;

/// A block type as it lies in strips.
pub(crate) trait Packed: 'static {
    const DTYPE: DType;
    /// Blocks of 32 inputs that share a record of scales.
    const UNIT: usize = Self::DTYPE.block_len() / 32;
    /// Bytes of scales of one unit.
    const SCALE_BYTES: usize;
    /// Bytes of quants of one block of 32 inputs.
    const QUANT_BYTES: usize;
    /// Units whose scales stand together before their quants: as few as are whole vectors.
    const GROUP: usize = if Self::SCALE_BYTES.is_multiple_of(VECTOR) { 1 } else { 2 };

    /// One step of the chains of `M` rows of activations: a block of 32 inputs, number `block` of its unit.
    ///
    /// # Safety
    /// `scales` has the unit's bytes, `quants` the block's, `x` a block for each row; the processor has `L`.
    unsafe fn block<L: Lanes, const M: usize>(
        scales: *const u8,
        quants: *const u8,
        block: usize,
        x: *const ActivationBlock,
        sums: &mut [L::Floats; M],
    );
}

/// Four activations of row `m`, from input `at` of the block on.
#[inline(always)]
unsafe fn four<L: Lanes>(x: *const ActivationBlock, m: usize, at: usize) -> L::Bytes {
    debug_assert!(m < ROWS);
    // SAFETY: the caller's promise: the row's block exists.
    unsafe { L::four((&raw const (*x.add(m)).q).cast::<i8>().add(at)) }
}

/// Dot products of a block of nibbles, with a fifth bit or without.
#[inline(always)]
unsafe fn nibble_dots<L: Lanes, const M: usize, const FIFTH: bool>(quants: *const u8, x: *const ActivationBlock) -> [L::Ints; M] {
    // With five bits, the sums of half a block are all that 16 bits hold.
    let vectors_per_sum = if FIFTH { 2 } else { 4 };
    // SAFETY: the caller's promises are those of `Packed::block`.
    unsafe {
        let mut dots = [L::no_ints(); M];
        for first in (0..4).step_by(vectors_per_sum) {
            let mut sums = [L::no_sum(); M];
            for vector in first..first + vectors_per_sum {
                let [mut low, mut high] = L::nibbles(L::bytes(quants.add(vector * VECTOR)));
                if FIFTH {
                    let bits = L::bytes(quants.add(4 * VECTOR));
                    low = L::with_fifth_bit(low, bits, vector as i32);
                    high = L::with_fifth_bit(high, bits, vector as i32 + 4);
                }
                for (m, sum) in sums.iter_mut().enumerate() {
                    *sum = L::dot_unsigned(*sum, low, four::<L>(x, m, 4 * vector));
                    *sum = L::dot_unsigned(*sum, high, four::<L>(x, m, 16 + 4 * vector));
                }
            }
            for (dot, sum) in dots.iter_mut().zip(sums) {
                *dot = L::add_sum(*dot, sum);
            }
        }
        dots
    }
}

/// `sum += dot · (scale · x.scale)`
#[inline(always)]
unsafe fn accumulate<L: Lanes, const M: usize>(
    dots: [L::Ints; M],
    scale: L::Floats,
    x: *const ActivationBlock,
    sums: &mut [L::Floats; M],
) {
    // SAFETY: the caller's promises are those of `Packed::block`.
    unsafe {
        for (m, sum) in sums.iter_mut().enumerate() {
            let scale = L::mul(scale, L::splat((*x.add(m)).scale));
            *sum = L::fma(L::floats(dots[m]), scale, *sum);
        }
    }
}

pub(crate) struct Q8_0;

impl Packed for Q8_0 {
    const DTYPE: DType = DType::Q8_0;
    const SCALE_BYTES: usize = HALVES;
    const QUANT_BYTES: usize = 8 * VECTOR;

    #[inline(always)]
    unsafe fn block<L: Lanes, const M: usize>(
        scales: *const u8,
        quants: *const u8,
        _: usize,
        x: *const ActivationBlock,
        sums: &mut [L::Floats; M],
    ) {
        // SAFETY: the caller's promises.
        unsafe {
            let mut dots = [L::no_ints(); M];
            for vector in 0..8 {
                let w = L::bytes(quants.add(vector * VECTOR));
                let size = L::magnitudes(w);
                for (m, dot) in dots.iter_mut().enumerate() {
                    *dot = L::add_dot(*dot, w, size, four::<L>(x, m, 4 * vector));
                }
            }
            accumulate::<L, M>(dots, L::halves(scales), x, sums);
        }
    }
}

/// `scale × (q − OFFSET)`: Q4_0 and Q5_0.
macro_rules! offset_type {
    ($name:ident, $offset:expr, $fifth:expr) => {
        pub(crate) struct $name;

        impl Packed for $name {
            const DTYPE: DType = DType::$name;
            const SCALE_BYTES: usize = HALVES;
            const QUANT_BYTES: usize = if $fifth { 5 } else { 4 } * VECTOR;

            #[inline(always)]
            unsafe fn block<L: Lanes, const M: usize>(
                scales: *const u8,
                quants: *const u8,
                _: usize,
                x: *const ActivationBlock,
                sums: &mut [L::Floats; M],
            ) {
                // SAFETY: the caller's promises.
                unsafe {
                    let mut dots = nibble_dots::<L, M, $fifth>(quants, x);
                    for (m, dot) in dots.iter_mut().enumerate() {
                        *dot = L::subtract(*dot, $offset * (*x.add(m)).sum);
                    }
                    accumulate::<L, M>(dots, L::halves(scales), x, sums);
                }
            }
        }
    };
}

/// `scale × q + minimum`: Q4_1 and Q5_1.
macro_rules! minimum_type {
    ($name:ident, $fifth:expr) => {
        pub(crate) struct $name;

        impl Packed for $name {
            const DTYPE: DType = DType::$name;
            const SCALE_BYTES: usize = 2 * HALVES;
            const QUANT_BYTES: usize = if $fifth { 5 } else { 4 } * VECTOR;

            #[inline(always)]
            unsafe fn block<L: Lanes, const M: usize>(
                scales: *const u8,
                quants: *const u8,
                _: usize,
                x: *const ActivationBlock,
                sums: &mut [L::Floats; M],
            ) {
                // SAFETY: the caller's promises.
                unsafe {
                    let dots = nibble_dots::<L, M, $fifth>(quants, x);
                    accumulate::<L, M>(dots, L::halves(scales), x, sums);
                    let minimum = L::halves(scales.add(HALVES));
                    for (m, sum) in sums.iter_mut().enumerate() {
                        *sum = L::fma(minimum, L::splat((*x.add(m)).scaled_sum), *sum);
                    }
                }
            }
        }
    };
}

offset_type!(Q4_0, 8, false);
minimum_type!(Q4_1, false);
offset_type!(Q5_0, 16, true);
minimum_type!(Q5_1, true);

/// Bytes of scales of one part of a super-block of Q4_K or Q5_K: eight scales, eight minima.
pub(crate) const PART_SCALES: usize = 2 * OUTPUTS;

/// `d × scale × q − m × minimum`, in super-blocks: Q4_K and Q5_K. Their record is the eight `d`, the eight `m`, then each part's scales.
macro_rules! super_type {
    ($name:ident, $fifth:expr) => {
        pub(crate) struct $name;

        impl Packed for $name {
            const DTYPE: DType = DType::$name;
            const SCALE_BYTES: usize = 2 * HALVES + Self::UNIT * PART_SCALES;
            const QUANT_BYTES: usize = if $fifth { 5 } else { 4 } * VECTOR;

            #[inline(always)]
            unsafe fn block<L: Lanes, const M: usize>(
                scales: *const u8,
                quants: *const u8,
                block: usize,
                x: *const ActivationBlock,
                sums: &mut [L::Floats; M],
            ) {
                // SAFETY: the caller's promises.
                unsafe {
                    let dots = nibble_dots::<L, M, $fifth>(quants, x);
                    let part = scales.add(2 * HALVES + block * PART_SCALES);
                    // Both products are exact: eleven bits by six.
                    let scale = L::mul(L::halves(scales), L::small(part));
                    accumulate::<L, M>(dots, scale, x, sums);
                    let minimum = L::mul(L::halves(scales.add(HALVES)), L::small(part.add(OUTPUTS)));
                    for (m, sum) in sums.iter_mut().enumerate() {
                        *sum = L::fnma(minimum, L::splat((*x.add(m)).scaled_sum), *sum);
                    }
                }
            }
        }
    };
}

super_type!(Q4K, false);
super_type!(Q5K, true);

/// `d × scale × (q − 32)`, in super-blocks, a scale for 16 inputs. The record is the eight `d`, then each part's eight first and eight
/// second scales. Quants are nibbles, then two vectors of the upper two bits: for inputs `4v ..` and `16 + 4v ..` at bit `2v`.
pub(crate) struct Q6K;

impl Packed for Q6K {
    const DTYPE: DType = DType::Q6K;
    const SCALE_BYTES: usize = HALVES + Self::UNIT * PART_SCALES;
    const QUANT_BYTES: usize = 6 * VECTOR;

    #[inline(always)]
    unsafe fn block<L: Lanes, const M: usize>(
        scales: *const u8,
        quants: *const u8,
        block: usize,
        x: *const ActivationBlock,
        sums: &mut [L::Floats; M],
    ) {
        // SAFETY: the caller's promises.
        unsafe {
            let mut halves = [[L::no_sum(); 2]; M];
            for vector in 0..4 {
                let nibbles = L::nibbles(L::bytes(quants.add(vector * VECTOR)));
                for half in 0..2 {
                    let bits = L::bytes(quants.add((4 + half) * VECTOR));
                    let w = L::with_sixth_bits(nibbles[half], bits, 2 * vector as i32);
                    let size = L::magnitudes(w);
                    for (m, sums) in halves.iter_mut().enumerate() {
                        sums[half] = L::dot_signed(sums[half], w, size, four::<L>(x, m, 16 * half + 4 * vector));
                    }
                }
            }
            let part = scales.add(HALVES + block * PART_SCALES).cast::<i8>();
            let (first, second) = (L::scale(part), L::scale(part.add(OUTPUTS)));
            let dots = halves.map(|[a, b]| L::add_scaled(L::add_scaled(L::no_ints(), first, a), second, b));
            accumulate::<L, M>(dots, L::halves(scales), x, sums);
        }
    }
}
