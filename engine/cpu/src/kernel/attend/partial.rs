//! Partial results of attention, and how they are folded into one.

use std::ops::Range;

use super::padded;
use crate::buffer::Buffer;
use crate::kernel::simd::{LANES, Simd, exp};

/// Results of some queries over a part of their context: the largest score, the sum of the weights (0 where nothing was seen; a query
/// that saw something has at least 1, or no number), and the weighted sum of the values, not yet divided.
pub(crate) struct Partials {
    largest: *mut f32,
    sums: *mut f32,
    mixed: *mut f32,
    queries: usize,
    dim: usize,
}

/// What [`finish`] folds: `splits.len()` partial results of `tokens × group` queries, one behind the other.
pub(crate) struct Finish {
    pub partials: *mut f32,
    pub splits: Range<usize>,
    pub tokens: usize,
    pub group: usize,
    pub dim: usize,
    pub out: *mut f32,
    pub out_stride: usize,
}

impl Partials {
    /// Values that the results of `queries` take.
    pub const fn len(queries: usize, dim: usize) -> usize {
        2 * queries.next_multiple_of(Buffer::LINE) + queries * padded(dim)
    }

    pub fn at(memory: *mut f32, queries: usize, dim: usize) -> Self {
        let sums = memory.wrapping_add(queries.next_multiple_of(Buffer::LINE));
        Self { largest: memory, sums, mixed: sums.wrapping_add(queries.next_multiple_of(Buffer::LINE)), queries, dim }
    }

    /// The weighted sum of a query's values, in whole vectors.
    #[inline(always)]
    pub fn mixed(&self, query: usize) -> *mut f32 {
        self.mixed.wrapping_add(query * padded(self.dim))
    }

    /// As if nothing had been seen.
    ///
    /// # Safety
    /// The memory is this thread's own.
    #[inline(always)]
    pub unsafe fn clear(&self) {
        // SAFETY: all parts lie within `len`.
        unsafe {
            std::ptr::write_bytes(self.sums, 0, self.queries);
            std::ptr::write_bytes(self.mixed, 0, self.queries * padded(self.dim));
        }
    }

    /// # Safety
    /// As [`Self::clear`].
    #[inline(always)]
    pub unsafe fn set(&self, query: usize, largest: f32, sum: f32) {
        // SAFETY: the query is one of ours.
        unsafe {
            *self.largest.add(query) = largest;
            *self.sums.add(query) = sum;
        }
    }

    /// Takes in the results over the positions behind ours.
    ///
    /// # Safety
    /// Both memories are this thread's own, for as many queries, and the processor has `S`.
    #[inline(always)]
    pub unsafe fn fold<S: Simd>(&self, next: &Self) {
        for query in 0..self.queries {
            // SAFETY: the query is one of both; rows are whole vectors.
            unsafe {
                let (own_sum, next_sum) = (*self.sums.add(query), *next.sums.add(query));
                if next_sum == 0.0 {
                    continue;
                }
                let (own_largest, next_largest) = (*self.largest.add(query), *next.largest.add(query));
                let (to, from) = (self.mixed(query), next.mixed(query));
                if own_sum == 0.0 {
                    self.set(query, next_largest, next_sum);
                    std::ptr::copy_nonoverlapping(from, to, padded(self.dim));
                    continue;
                }
                let largest = if next_largest > own_largest { next_largest } else { own_largest };
                let own = exp::<S>(S::splat(own_largest - largest));
                let other = exp::<S>(S::splat(next_largest - largest));
                let mut first = [0f32; LANES];
                let sum = S::fma(other, S::splat(next_sum), S::mul(own, S::splat(own_sum)));
                S::store(first.as_mut_ptr(), sum);
                self.set(query, largest, first[0]);
                for at in (0..padded(self.dim)).step_by(LANES) {
                    S::store(to.add(at), S::fma(other, S::load(from.add(at)), S::mul(own, S::load(to.add(at)))));
                }
            }
        }
    }

    /// Writes the finished results: `group` heads of `dim` values side by side, tokens `out_stride` apart.
    ///
    /// # Safety
    /// `out` has room for that, and the memory is this thread's own.
    #[inline(always)]
    pub unsafe fn write<S: Simd>(&self, out: *mut f32, out_stride: usize, group: usize) {
        for query in 0..self.queries {
            let to = out.wrapping_add(query / group * out_stride + query % group * self.dim);
            // SAFETY: whole vectors, then the rest of the head.
            unsafe {
                let (from, sum) = (self.mixed(query), S::splat(*self.sums.add(query)));
                let whole = self.dim / LANES * LANES;
                for at in (0..whole).step_by(LANES) {
                    S::store(to.add(at), S::div(S::load(from.add(at)), sum));
                }
                if whole < self.dim {
                    S::store_partial(to.add(whole), S::div(S::load(from.add(whole)), sum), self.dim - whole);
                }
            }
        }
    }
}

/// # Safety
/// The pointers of `args` are good for what its fields say, no one else uses the memory there, and the processor has `S`.
#[inline(always)]
pub(crate) unsafe fn finish<S: Simd>(args: &Finish) {
    let queries = args.tokens * args.group;
    let len = Partials::len(queries, args.dim);
    let state = Partials::at(args.partials, queries, args.dim);
    for split in 1..args.splits.len() {
        // SAFETY: the caller's promise.
        unsafe { state.fold::<S>(&Partials::at(args.partials.wrapping_add(split * len), queries, args.dim)) };
    }
    // SAFETY: the caller's promise.
    unsafe { state.write::<S>(args.out, args.out_stride, args.group) };
}
