//! The stored element types, as kernels see them: so many bytes that expand to 32 values.

use engine_assets::DType;

use super::ggml;
use super::simd::{BLOCK, Simd};

pub(crate) trait Format: 'static {
    const DTYPE: DType;

    /// Where block `block` of a row lies, or the super-block that it is part of.
    fn offset(block: usize) -> usize {
        (block * BLOCK) / Self::DTYPE.block_len() * Self::DTYPE.block_bytes()
    }

    /// Expands 32 weights: block `block` of a stored row.
    ///
    /// # Safety
    /// The row has so many blocks, readable; the processor has `S`.
    unsafe fn block<S: Simd>(row: *const u8, block: usize) -> S::Block;
}

macro_rules! formats {
    ($($name:ident $block:ident)*) => {$(
        pub(crate) struct $name;

        impl Format for $name {
            const DTYPE: DType = DType::$name;

            #[inline(always)]
            unsafe fn block<S: Simd>(row: *const u8, block: usize) -> S::Block {
                // SAFETY: the caller's promise.
                unsafe { S::$block(row.add(Self::offset(block))) }
            }
        }
    )*};
}

formats! {
    F32 block_f32
    F16 block_f16
    BF16 block_bf16
    Q8_0 block_q8_0
    Q4_0 block_q4_0
    Q4_1 block_q4_1
}

/// Types whose weights are found by plain Rust: they are read once, when they are packed, or in `float32`, which is not for speed.
macro_rules! plain_formats {
    ($($name:ident $expand:ident)*) => {$(
        pub(crate) struct $name;

        impl Format for $name {
            const DTYPE: DType = DType::$name;

            #[inline(always)]
            unsafe fn block<S: Simd>(row: *const u8, block: usize) -> S::Block {
                // SAFETY: the caller's promise: the whole block, or super-block, is readable.
                unsafe {
                    let stored = std::slice::from_raw_parts(row.add(Self::offset(block)), Self::DTYPE.block_bytes());
                    let values = ggml::$expand(stored, block % (Self::DTYPE.block_len() / BLOCK));
                    S::block_f32(values.as_ptr().cast())
                }
            }
        }
    )*};
}

plain_formats! {
    Q5_0 expand_q5_0
    Q5_1 expand_q5_1
    Q4K expand_q4_k
    Q5K expand_q5_k
    Q6K expand_q6_k
}
