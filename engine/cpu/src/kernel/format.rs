//! The stored element types, as kernels see them: so many bytes that expand to 32 values.

use engine_assets::DType;

use super::simd::{BLOCK, Simd};

pub(crate) trait Format: 'static {
    const DTYPE: DType;
    /// Bytes of [`BLOCK`] weights.
    const BYTES: usize = BLOCK / Self::DTYPE.block_len() * Self::DTYPE.block_bytes();

    /// Expands 32 weights.
    ///
    /// # Safety
    /// `from` has `BYTES` readable bytes; the processor has `S`.
    unsafe fn block<S: Simd>(from: *const u8) -> S::Block;
}

macro_rules! formats {
    ($($name:ident $block:ident)*) => {$(
        pub(crate) struct $name;

        impl Format for $name {
            const DTYPE: DType = DType::$name;

            #[inline(always)]
            unsafe fn block<S: Simd>(from: *const u8) -> S::Block {
                // SAFETY: the caller's promise.
                unsafe { S::$block(from) }
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
