//! How the cache stores its values, and how they get there.

use half::f16;

use crate::kernel::simd::{BLOCK, LANES, Simd};

/// An element type of the cache. Arithmetic is in f32.
pub(crate) trait Stored: Copy + Default + 'static {
    /// Reads [`LANES`] values.
    ///
    /// # Safety
    /// They are readable, and the processor has `S`.
    unsafe fn load<S: Simd>(from: *const Self) -> S::V;

    /// Writes `LANES` values, rounded to the nearest.
    ///
    /// # Safety
    /// There is room for them, and the processor has `S`.
    unsafe fn store<S: Simd>(to: *mut Self, v: S::V);

    /// The first `count < LANES` values at `from`, zeros behind.
    ///
    /// # Safety
    /// As [`Self::load`], for `count` values.
    #[inline(always)]
    unsafe fn load_partial<S: Simd>(from: *const Self, count: usize) -> S::V {
        let mut buffer = [Self::default(); BLOCK];
        // SAFETY: the caller gives `count` readable values, and the buffer is longer than any vector.
        unsafe {
            std::ptr::copy_nonoverlapping(from, buffer.as_mut_ptr(), count);
            Self::load::<S>(buffer.as_ptr())
        }
    }
}

impl Stored for f32 {
    #[inline(always)]
    unsafe fn load<S: Simd>(from: *const Self) -> S::V {
        // SAFETY: the caller's promise.
        unsafe { S::load(from) }
    }

    #[inline(always)]
    unsafe fn store<S: Simd>(to: *mut Self, v: S::V) {
        // SAFETY: the caller's promise.
        unsafe { S::store(to, v) }
    }
}

impl Stored for f16 {
    #[inline(always)]
    unsafe fn load<S: Simd>(from: *const Self) -> S::V {
        // SAFETY: the caller's promise.
        unsafe { S::load_f16(from) }
    }

    #[inline(always)]
    unsafe fn store<S: Simd>(to: *mut Self, v: S::V) {
        // SAFETY: the caller's promise.
        unsafe { S::store_f16(to, v) }
    }
}

/// One token's keys and values of all heads, to one place of a block.
pub(crate) struct StoreKv {
    /// `heads` heads of `dim` values each.
    pub k: *const f32,
    pub v: *const f32,
    pub heads: usize,
    pub dim: usize,
    /// The layer's keys of head 0 in the block, `[dim, block_tokens]`, and its values, `[block_tokens, dim]`; the next head's follow.
    pub keys: *mut u8,
    pub values: *mut u8,
    pub block_tokens: usize,
    /// The token's place in the block.
    pub at: usize,
}

/// # Safety
/// The pointers of `args` are good for what its fields say, nothing else uses this place meanwhile, and the processor has `S`.
#[inline(always)]
pub(crate) unsafe fn store_kv<S: Simd, E: Stored>(args: &StoreKv) {
    let StoreKv { heads, dim, block_tokens, at, .. } = *args;
    for head in 0..heads {
        let place = head * block_tokens * dim;
        // SAFETY: `dim` elements of the head, in vectors as long as they fit.
        unsafe {
            let keys = args.keys.cast::<E>().add(place + at);
            let values = args.values.cast::<E>().add(place + at * dim);
            let (k, v) = (args.k.add(head * dim), args.v.add(head * dim));
            let mut first = 0;
            while first < dim {
                let count = LANES.min(dim - first);
                let (mut own_keys, mut own_values) = ([E::default(); BLOCK], [E::default(); BLOCK]);
                E::store::<S>(own_keys.as_mut_ptr(), read::<S>(k.add(first), count));
                E::store::<S>(own_values.as_mut_ptr(), read::<S>(v.add(first), count));
                for (i, key) in own_keys[..count].iter().enumerate() {
                    *keys.add((first + i) * block_tokens) = *key;
                }
                std::ptr::copy_nonoverlapping(own_values.as_ptr(), values.add(first), count);
                first += count;
            }
        }
    }
}

#[inline(always)]
unsafe fn read<S: Simd>(from: *const f32, count: usize) -> S::V {
    // SAFETY: the caller gives `count` readable values.
    unsafe { if count == LANES { S::load(from) } else { S::load_partial(from, count) } }
}
