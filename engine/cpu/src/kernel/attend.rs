//! Causal attention of some tokens' queries over one key/value head's paged cache.
//!
//! Scores first, then softmax, then the weighted sum of values, each in rising order of positions: the result for a query depends on
//! its own keys and values, not on the block size, nor on which queries are computed beside it.

use engine::backend::BlockId;

use super::linear::dot_tile;
use super::simd::{BLOCK, LANES, Simd, exp};

pub(crate) struct Attend {
    /// The first token's first query head of the group; `group` heads of `dim` follow each other, tokens lie `q_stride` apart.
    pub q: *const f32,
    pub q_stride: usize,
    pub tokens: usize,
    pub group: usize,
    pub dim: usize,
    /// Position of the first token. Query `t` sees positions `0 ..= position + t`.
    pub position: usize,
    /// Keys and values of this layer and head in block 0: `[block_tokens, dim]`. Those of block `i` lie `i × block_stride` further.
    pub keys: *const f32,
    pub values: *const f32,
    pub block_stride: usize,
    pub block_tokens: usize,
    /// The request's blocks, enough for all positions.
    pub blocks: *const BlockId,
    pub scale: f32,
    /// Query `t` sees no position at or below `position + t - window`; `usize::MAX` for all.
    pub window: usize,
    /// As `q`, for the result.
    pub out: *mut f32,
    pub out_stride: usize,
    /// [`scratch_len`] values of this thread's own.
    pub scratch: *mut f32,
}

/// Most queries (tokens × heads of the group) that one call computes together, if the group is not larger.
pub(crate) const QUERIES: usize = 16;

/// Values of the scratch that [`run`] needs for `queries` over `positions`.
pub(crate) const fn scratch_len(queries: usize, dim: usize, positions: usize) -> usize {
    queries * (2 * dim.next_multiple_of(BLOCK) + positions.next_multiple_of(BLOCK))
}

/// # Safety
/// The pointers of `args` are good for what its fields say, nothing else writes there meanwhile, and the processor has `S`.
#[inline(always)]
pub(crate) unsafe fn run<S: Simd>(args: &Attend) {
    let queries = args.tokens * args.group;
    let positions = args.position + args.tokens;
    let dim_stride = args.dim.next_multiple_of(BLOCK);
    let score_stride = positions.next_multiple_of(BLOCK);
    // SAFETY: the scratch is divided into three parts, together `scratch_len`.
    unsafe {
        let q = args.scratch;
        let mixed = q.add(queries * dim_stride);
        let scores = mixed.add(queries * dim_stride);
        for query in 0..queries {
            let from = args.q.add(query / args.group * args.q_stride + query % args.group * args.dim);
            std::ptr::copy_nonoverlapping(from, q.add(query * dim_stride), args.dim);
            std::ptr::write_bytes(mixed.add(query * dim_stride), 0, args.dim);
        }
        let mut first = 0;
        while first < positions {
            let count = args.block_tokens.min(positions - first);
            let keys = args.keys.add((*args.blocks.add(first / args.block_tokens)).0 as usize * args.block_stride);
            score::<S>(q, dim_stride, queries, keys, args.dim, count, args.scale, scores.add(first), score_stride);
            first += count;
        }
        let mut first = 0;
        for query in 0..queries {
            let (scores, seen) = (scores.add(query * score_stride), args.position + query / args.group + 1);
            for hidden in 0..seen.saturating_sub(args.window) {
                *scores.add(hidden) = f32::NEG_INFINITY;
            }
            softmax::<S>(scores, seen);
        }
        while first < positions {
            let values = args.values.add((*args.blocks.add(first / args.block_tokens)).0 as usize * args.block_stride);
            for query in 0..queries {
                let seen = args.position + query / args.group + 1;
                let count = args.block_tokens.min(seen.saturating_sub(first));
                mix::<S>(mixed.add(query * dim_stride), scores.add(query * score_stride + first), values, args.dim, count);
            }
            first += args.block_tokens;
        }
        for query in 0..queries {
            let to = args.out.add(query / args.group * args.out_stride + query % args.group * args.dim);
            std::ptr::copy_nonoverlapping(mixed.add(query * dim_stride), to, args.dim);
        }
    }
}

/// Scores of all queries with one block's `count` keys.
#[inline(always)]
#[expect(clippy::too_many_arguments, reason = "a piece of `run`, apart only to be read by itself")]
unsafe fn score<S: Simd>(
    q: *const f32,
    q_stride: usize,
    queries: usize,
    keys: *const f32,
    dim: usize,
    count: usize,
    scale: f32,
    scores: *mut f32,
    score_stride: usize,
) {
    #[inline(always)]
    unsafe fn rows<S: Simd, const M: usize>(
        q: *const f32,
        q_stride: usize,
        keys: *const f32,
        dim: usize,
        count: usize,
        scale: f32,
        scores: *mut f32,
        score_stride: usize,
    ) {
        // SAFETY: `M` queries and `count` keys exist.
        unsafe {
            let mut key = 0;
            while key + 2 <= count {
                let sums = dot_tile::<S, M, 2>(q, q_stride, keys.add(key * dim), dim, dim);
                for (m, sums) in sums.iter().enumerate() {
                    for (n, sum) in sums.iter().enumerate() {
                        *scores.add(m * score_stride + key + n) = S::sum(*sum) * scale;
                    }
                }
                key += 2;
            }
            while key < count {
                let sums = dot_tile::<S, M, 1>(q, q_stride, keys.add(key * dim), dim, dim);
                for (m, sums) in sums.iter().enumerate() {
                    *scores.add(m * score_stride + key) = S::sum(sums[0]) * scale;
                }
                key += 1;
            }
        }
    }
    let mut query = 0;
    while query < queries {
        // SAFETY: `M` is at most the number of queries left.
        unsafe {
            let (q, scores) = (q.add(query * q_stride), scores.add(query * score_stride));
            match queries - query {
                1 => rows::<S, 1>(q, q_stride, keys, dim, count, scale, scores, score_stride),
                2 => rows::<S, 2>(q, q_stride, keys, dim, count, scale, scores, score_stride),
                _ => rows::<S, 3>(q, q_stride, keys, dim, count, scale, scores, score_stride),
            }
        }
        query += 3;
    }
}

/// Turns `count` scores into weights that sum to 1. There is room for a whole number of vectors.
#[inline(always)]
unsafe fn softmax<S: Simd>(scores: *mut f32, count: usize) {
    let padded = count.next_multiple_of(LANES);
    // SAFETY: `padded` is at most the room that the caller gives.
    unsafe {
        for at in count..padded {
            *scores.add(at) = f32::NEG_INFINITY;
        }
        let mut largest = S::splat(f32::NEG_INFINITY);
        for at in (0..padded).step_by(LANES) {
            largest = S::max(largest, S::load(scores.add(at)));
        }
        let mut lanes = [f32::NEG_INFINITY; BLOCK];
        S::store(lanes.as_mut_ptr(), largest);
        let largest = S::splat(lanes.into_iter().fold(f32::NEG_INFINITY, f32::max));
        let mut sum = S::splat(0.0);
        for at in (0..padded).step_by(LANES) {
            let weight = exp::<S>(S::sub(S::load(scores.add(at)), largest));
            S::store(scores.add(at), weight);
            sum = S::add(sum, weight);
        }
        let sum = S::splat(S::sum(sum));
        for at in (0..padded).step_by(LANES) {
            S::store(scores.add(at), S::div(S::load(scores.add(at)), sum));
        }
    }
}

/// `mixed += Σ weights[i] · values[i]` over `count` values of `dim`, in rising order.
#[inline(always)]
unsafe fn mix<S: Simd>(mixed: *mut f32, weights: *const f32, values: *const f32, dim: usize, count: usize) {
    #[inline(always)]
    unsafe fn vectors<S: Simd, const N: usize>(
        mixed: *mut f32,
        weights: *const f32,
        values: *const f32,
        dim: usize,
        count: usize,
    ) {
        // SAFETY: `N` vectors lie within `dim`.
        unsafe {
            let mut sums = [S::splat(0.0); N];
            for (n, sum) in sums.iter_mut().enumerate() {
                *sum = S::load(mixed.add(n * LANES));
            }
            for i in 0..count {
                let weight = S::splat(*weights.add(i));
                for (n, sum) in sums.iter_mut().enumerate() {
                    *sum = S::fma(weight, S::load(values.add(i * dim + n * LANES)), *sum);
                }
            }
            for (n, sum) in sums.iter().enumerate() {
                S::store(mixed.add(n * LANES), *sum);
            }
        }
    }
    let mut at = 0;
    // SAFETY: groups of vectors as long as they fit, then what is less than a vector.
    unsafe {
        while at + 4 * LANES <= dim {
            vectors::<S, 4>(mixed.add(at), weights, values.add(at), dim, count);
            at += 4 * LANES;
        }
        while at + LANES <= dim {
            vectors::<S, 1>(mixed.add(at), weights, values.add(at), dim, count);
            at += LANES;
        }
        if at < dim {
            let mut sum = S::load_partial(mixed.add(at), dim - at);
            for i in 0..count {
                sum = S::fma(S::splat(*weights.add(i)), S::load_partial(values.add(i * dim + at), dim - at), sum);
            }
            S::store_partial(mixed.add(at), sum, dim - at);
        }
    }
}
