//! The two products of attention in tiles of registers: queries × keys, and weights × values.

use std::ops::Range;

use super::partial::Partials;
use super::store::Stored;
use super::{SPLIT, Work, padded};
use crate::kernel::simd::{LANES, Simd};

/// Most queries for which keys and values are fetched ahead: more keep the processor busy for as long as fetching takes.
const AHEAD_QUERIES_MAX: usize = 16;

/// Where the keys of up to [`Columns::MOST`] vectors of positions lie, and how far apart their elements are.
pub(super) struct Columns {
    /// Behind them those of as many further vectors, which are fetched meanwhile; where there are none, some others.
    keys: [*const u8; 2 * Self::MOST],
    /// The values of the same positions, which are fetched meanwhile.
    values: [*const u8; Self::MOST],
    /// In elements.
    stride: usize,
}

/// Values of scratch for [`Columns`] that are gathered.
pub(super) const fn gather_len(dim: usize) -> usize {
    Columns::MOST * LANES * dim
}

impl Columns {
    pub const MOST: usize = 4;

    /// The keys of the positions from `at`, a multiple of [`LANES`], up to `end`. Blocks that hold whole vectors are read where they lie.
    ///
    /// # Safety
    /// The blocks of the call's positions exist; nobody else uses `work.gathered`.
    #[inline(always)]
    pub unsafe fn new<E: Stored>(work: &Work<'_>, at: usize, end: usize) -> Self {
        let (cache, dim) = (&work.args.cache, work.args.dim);
        let tokens = cache.block_tokens;
        let last = work.args.position + work.args.tokens;
        // SAFETY: positions below `last` have blocks.
        let block = |position: usize| unsafe { (*cache.blocks.add(position / tokens)).0 as usize * cache.block_bytes };
        let mut columns = Self {
            keys: [cache.keys; 2 * Self::MOST],
            values: [cache.values; Self::MOST],
            stride: if tokens.is_multiple_of(LANES) { tokens } else { LANES },
        };
        if tokens.is_multiple_of(LANES) {
            for (number, first) in (at..last).step_by(LANES).take(2 * Self::MOST).enumerate() {
                columns.keys[number] = cache.keys.wrapping_add(block(first) + first % tokens * size_of::<E>());
                if let Some(values) = columns.values.get_mut(number) {
                    *values = cache.values.wrapping_add(block(first) + first % tokens * dim * size_of::<E>());
                }
            }
            return columns;
        }
        for (number, first) in (at..end).step_by(LANES).take(Self::MOST).enumerate() {
            let to = work.gathered.cast::<E>().wrapping_add(number * LANES * dim);
            for (lane, position) in (first..end.min(first + LANES)).enumerate() {
                let from = cache.keys.wrapping_add(block(position)).cast::<E>().wrapping_add(position % tokens);
                for element in 0..dim {
                    // SAFETY: the block has `dim` rows of `tokens` keys, the scratch as many of `LANES`.
                    unsafe { *to.add(element * LANES + lane) = *from.add(element * tokens) };
                }
            }
            columns.keys[number] = to.cast_const().cast();
        }
        columns
    }
}

/// Scores of `rows` queries from `query` on with the keys of the first `vectors` of `columns`, which begin at `at` of the split. Those of
/// positions that a query does not see are arbitrary.
///
/// # Safety
/// The queries exist, as do the vectors; the processor has `S`.
#[inline(always)]
pub(super) unsafe fn score<S: Simd, E: Stored>(
    work: &Work<'_>,
    query: usize,
    rows: usize,
    columns: &Columns,
    vectors: usize,
    at: usize,
) {
    let vectors = vectors.min(Columns::MOST);
    let mut first = 0;
    while first < vectors {
        let left = vectors - first;
        // SAFETY: `rows` rows, and no more vectors than are left.
        first += unsafe {
            match rows {
                1 if S::TILES && left >= 4 => scores::<S, E, 1, 4>(work, query, columns, first, at),
                1 => scores::<S, E, 1, 1>(work, query, columns, first, at),
                2 if left >= 2 => scores::<S, E, 2, 2>(work, query, columns, first, at),
                2 => scores::<S, E, 2, 1>(work, query, columns, first, at),
                3 => scores::<S, E, 3, 1>(work, query, columns, first, at),
                4 => scores::<S, E, 4, 1>(work, query, columns, first, at),
                _ => scores::<S, E, 6, 1>(work, query, columns, first, at),
            }
        };
    }
}

/// Returns `N`.
#[inline(always)]
unsafe fn scores<S: Simd, E: Stored, const M: usize, const N: usize>(
    work: &Work<'_>,
    query: usize,
    columns: &Columns,
    first: usize,
    at: usize,
) -> usize {
    // SAFETY: the caller's promise: `M` queries of `dim` values, `N` vectors of keys for each.
    unsafe {
        let q = work.q.add(query * work.stride);
        let mut keys = [std::ptr::null::<E>(); N];
        keys.iter_mut().enumerate().for_each(|(n, keys)| *keys = columns.keys[first + n].cast());
        // Few queries wait for memory, and the processor fetches nothing across a page: blocks lie anywhere.
        let ahead = work.queries <= AHEAD_QUERIES_MAX;
        let mut sums = [[S::splat(0.0); N]; M];
        for element in 0..work.args.dim {
            if ahead {
                for n in 0..N {
                    let next = columns.keys[first + N + n].cast::<E>().wrapping_add(element * columns.stride);
                    S::prefetch(next.cast());
                    S::prefetch(columns.values[first + n].cast::<E>().wrapping_add(element * LANES).cast());
                }
            }
            for n in 0..N {
                let key = E::load::<S>(keys[n].add(element * columns.stride));
                for (m, sums) in sums.iter_mut().enumerate() {
                    sums[n] = S::fma(S::splat(*q.add(m * work.stride + element)), key, sums[n]);
                }
            }
        }
        let scale = S::splat(work.args.scale);
        for (m, sums) in sums.iter().enumerate() {
            for (n, sum) in sums.iter().enumerate() {
                let to = work.weights.add((query + m) * SPLIT + at + (first + n) * LANES);
                S::store(to, S::mul(*sum, scale));
            }
        }
    }
    N
}

/// Adds to the results of `rows` queries from `query` on the values of `positions`, times their weights. The split begins at `first`.
///
/// # Safety
/// The queries exist and have weights for these positions, which have blocks; the processor has `S`.
#[inline(always)]
pub(super) unsafe fn mix<S: Simd, E: Stored>(
    work: &Work<'_>,
    query: usize,
    rows: usize,
    positions: Range<usize>,
    first: usize,
    to: &Partials,
) {
    if positions.is_empty() {
        return;
    }
    let dim = work.args.dim;
    let mut column = 0;
    while column < dim {
        let left = (dim - column) / LANES;
        let positions = positions.clone();
        // SAFETY: `rows` rows, and no more vectors than are left but the last, which may be shorter.
        column += LANES
            * unsafe {
                match rows {
                    1 if S::TILES && left >= 4 => mixed::<S, E, 1, 4>(work, query, positions, first, column, to),
                    1 => mixed::<S, E, 1, 1>(work, query, positions, first, column, to),
                    2 if left >= 2 => mixed::<S, E, 2, 2>(work, query, positions, first, column, to),
                    2 => mixed::<S, E, 2, 1>(work, query, positions, first, column, to),
                    3 => mixed::<S, E, 3, 1>(work, query, positions, first, column, to),
                    4 => mixed::<S, E, 4, 1>(work, query, positions, first, column, to),
                    _ => mixed::<S, E, 6, 1>(work, query, positions, first, column, to),
                }
            };
    }
}

/// Returns `N`.
#[inline(always)]
unsafe fn mixed<S: Simd, E: Stored, const M: usize, const N: usize>(
    work: &Work<'_>,
    query: usize,
    positions: Range<usize>,
    first: usize,
    column: usize,
    to: &Partials,
) -> usize {
    let (cache, dim) = (&work.args.cache, work.args.dim);
    let tokens = cache.block_tokens;
    let short = dim - column < LANES;
    // SAFETY: the caller's promise. Rows of results are whole vectors.
    unsafe {
        let mut results = [std::ptr::null_mut(); M];
        results.iter_mut().enumerate().for_each(|(m, result)| *result = to.mixed(query + m).add(column));
        let weights = work.weights.add(query * SPLIT);
        let mut sums = [[S::splat(0.0); N]; M];
        for (m, sums) in sums.iter_mut().enumerate() {
            for (n, sum) in sums.iter_mut().enumerate() {
                *sum = S::load(results[m].add(n * LANES));
            }
        }
        let mut at = positions.start;
        while at < positions.end {
            let block = (*cache.blocks.add(at / tokens)).0 as usize;
            let values = cache.values.add(block * cache.block_bytes).cast::<E>().add(column);
            let count = (tokens - at % tokens).min(positions.end - at);
            for i in 0..count {
                let row = values.add((at % tokens + i) * dim);
                for n in 0..N {
                    let value =
                        if N == 1 && short { E::load_partial::<S>(row, dim - column) } else { E::load::<S>(row.add(n * LANES)) };
                    for (m, sums) in sums.iter_mut().enumerate() {
                        sums[n] = S::fma(S::splat(*weights.add(m * SPLIT + at - first + i)), value, sums[n]);
                    }
                }
            }
            at += count;
        }
        for (m, sums) in sums.iter().enumerate() {
            for (n, sum) in sums.iter().enumerate() {
                S::store(results[m].add(n * LANES), *sum);
            }
        }
    }
    debug_assert!(column + N * LANES <= padded(dim));
    N
}
