//! Causal attention of some tokens' queries over one key/value head's paged cache.
//!
//! Flash-decoding (Dao et al. 2023): a context is cut at multiples of [`SPLIT`] positions. Each split yields a [partial](Partials) result
//! by itself; partial results are folded in rising order of splits. Cuts and order depend on positions alone, so the result for a query
//! depends on its own keys and values: not on the block size, nor on which queries are computed beside it, nor on which thread
//! computes which split. Keys and values are read once for all queries of a call, which are those of some tokens and one group of heads.
//!
//! Within a split, scores are summed over the elements of a head in rising order, weights by position modulo [`LANES`] and then over
//! the lanes, and values over the positions in rising order.

mod partial;
mod store;
mod tile;

use std::ops::Range;

use engine::backend::BlockId;

pub(crate) use self::partial::{Finish, Partials, finish};
pub(crate) use self::store::{StoreKv, Stored, store_kv};
use self::tile::{Columns, mix, score};
use super::simd::{BLOCK, LANES, Simd, exp};

/// Positions of one split.
pub(crate) const SPLIT: usize = 128;

/// Most queries (tokens × heads of the group) that one call computes together, if the group is not larger.
pub(crate) const QUERIES: usize = 48;

/// Positions whose values stay in the first-level cache while all queries use them.
const CHUNK: usize = 64;

/// Attention of `tokens × group` queries over some splits of their context.
pub(crate) struct Attend {
    /// The first token's first query head of the group; `group` heads of `dim` follow each other, tokens lie `q_stride` apart.
    pub q: *const f32,
    pub q_stride: usize,
    pub tokens: usize,
    pub group: usize,
    pub dim: usize,
    /// Position of the first token. Query `t` sees positions `0 ..= position + t`.
    pub position: usize,
    pub cache: Cache,
    pub scale: f32,
    /// Query `t` sees no position at or below `position + t - window`; `usize::MAX` for all.
    pub window: usize,
    /// What is computed. All that a query sees, if `partials` is null.
    pub splits: Range<usize>,
    /// [`Partials::len`] values for each of `splits`; if null, the results go to `out`.
    pub partials: *mut f32,
    /// As `q`, for the result.
    pub out: *mut f32,
    pub out_stride: usize,
    /// [`scratch_len`] values of this thread's own.
    pub scratch: *mut f32,
}

/// Keys and values of one layer and head in a request's blocks.
pub(crate) struct Cache {
    /// In block 0: `[dim, block_tokens]`. Those of block `i` lie `i × block_bytes` further.
    pub keys: *const u8,
    /// In block 0: `[block_tokens, dim]`.
    pub values: *const u8,
    pub block_bytes: usize,
    pub block_tokens: usize,
    /// The request's blocks, enough for all positions.
    pub blocks: *const BlockId,
}

/// Values of the scratch that [`run`] needs for `queries`.
pub(crate) const fn scratch_len(queries: usize, dim: usize) -> usize {
    queries * (padded(dim) + SPLIT) + 2 * Partials::len(queries, dim) + tile::gather_len(dim)
}

/// Values of a row of `dim`, in whole vectors.
const fn padded(dim: usize) -> usize {
    dim.next_multiple_of(LANES)
}

/// The splits that queries at `position .. position + tokens` see something of.
pub(crate) fn splits(position: usize, tokens: usize, window: usize) -> Range<usize> {
    first_seen(position, window) / SPLIT..(position + tokens).div_ceil(SPLIT)
}

fn first_seen(position: usize, window: usize) -> usize {
    (position + 1).saturating_sub(window)
}

impl Attend {
    /// The positions of `within` that query `query` sees.
    fn seen(&self, query: usize, within: &Range<usize>) -> Range<usize> {
        let position = self.position + query / self.group;
        within.start.max(first_seen(position, self.window))..within.end.min(position + 1)
    }
}

/// # Safety
/// The pointers of `args` are good for what its fields say, nothing else writes there meanwhile, and the processor has `S`.
#[inline(always)]
pub(crate) unsafe fn run<S: Simd, E: Stored>(args: &Attend) {
    let queries = args.tokens * args.group;
    let stride = padded(args.dim);
    // SAFETY: the scratch is divided into parts that are `scratch_len` together; partial results are as long as `Partials::len` says.
    unsafe {
        let q = args.scratch;
        let weights = q.add(queries * stride);
        let own = weights.add(queries * SPLIT);
        let state = own.add(Partials::len(queries, args.dim));
        let gathered = state.add(Partials::len(queries, args.dim)).cast();
        for query in 0..queries {
            let from = args.q.add(query / args.group * args.q_stride + query % args.group * args.dim);
            std::ptr::copy_nonoverlapping(from, q.add(query * stride), args.dim);
        }
        let work = Work { args, queries, stride, q, weights, gathered };
        if !args.partials.is_null() {
            for (number, split) in args.splits.clone().enumerate() {
                let to = args.partials.add(number * Partials::len(queries, args.dim));
                one::<S, E>(&work, split, &Partials::at(to, queries, args.dim));
            }
            return;
        }
        let (own, state) = (Partials::at(own, queries, args.dim), Partials::at(state, queries, args.dim));
        state.clear();
        for split in args.splits.clone() {
            one::<S, E>(&work, split, &own);
            state.fold::<S>(&own);
        }
        state.write::<S>(args.out, args.out_stride, args.group);
    }
}

/// One call's arguments and its parts of the scratch.
struct Work<'a> {
    args: &'a Attend,
    queries: usize,
    /// Distance of rows of `q`.
    stride: usize,
    /// `[queries, dim]`.
    q: *const f32,
    /// `[queries, SPLIT]`: scores, then weights.
    weights: *mut f32,
    /// Room for keys that cannot be read where they lie.
    gathered: *mut u8,
}

/// Attention over one split.
#[inline(always)]
unsafe fn one<S: Simd, E: Stored>(work: &Work<'_>, split: usize, to: &Partials) {
    let Work { args, queries, .. } = *work;
    let first = split * SPLIT;
    let within = first..first + SPLIT;
    let all = args.seen(0, &within).start..args.seen(queries - 1, &within).end;
    // SAFETY: rows below `queries`, positions within the split and the context.
    unsafe {
        to.clear();
        if all.is_empty() {
            return;
        }
        let mut at = all.start / LANES * LANES;
        while at < all.end {
            let columns = Columns::new::<E>(work, at, all.end);
            let mut query = 0;
            while query < queries {
                let rows = rows_of::<S>(queries - query);
                let end = args.seen(query + rows - 1, &within).end;
                if at < end {
                    score::<S, E>(work, query, rows, &columns, end.saturating_sub(at).div_ceil(LANES), at - first);
                }
                query += rows;
            }
            at += Columns::MOST * LANES;
        }
        for query in 0..queries {
            let seen = args.seen(query, &within);
            if !seen.is_empty() {
                let (largest, sum) = softmax::<S>(work.weights.add(query * SPLIT), seen.start - first..seen.end - first);
                to.set(query, largest, sum);
            }
        }
        let mut at = all.start;
        while at < all.end {
            let chunk = at..all.end.min(at / CHUNK * CHUNK + CHUNK);
            let mut query = 0;
            while query < queries {
                let rows = rows_of::<S>(queries - query);
                mix_rows::<S, E>(work, query, rows, &chunk, first, to);
                query += rows;
            }
            at = chunk.end;
        }
    }
}

/// How many of `left` queries are computed in one tile: as many as have their sums in registers, without a small rest if possible.
#[inline(always)]
fn rows_of<S: Simd>(left: usize) -> usize {
    match left {
        _ if !S::TILES => 1,
        1..=4 => left,
        5 => 3,
        7 | 8 => 4,
        _ => 6,
    }
}

/// Mixes the values of `chunk` for queries that may see different parts of it: what all see together, what only some see one by one.
#[inline(always)]
unsafe fn mix_rows<S: Simd, E: Stored>(
    work: &Work<'_>,
    query: usize,
    rows: usize,
    chunk: &Range<usize>,
    first: usize,
    to: &Partials,
) {
    let (lowest, highest) = (work.args.seen(query, chunk), work.args.seen(query + rows - 1, chunk));
    // Later queries begin and end later, so all see what the last begins with and the first ends with.
    let both = highest.start..lowest.end.max(highest.start);
    // SAFETY: queries see what is mixed for them.
    unsafe {
        if lowest != highest {
            for row in query..query + rows {
                let seen = work.args.seen(row, chunk);
                mix::<S, E>(work, row, 1, seen.start..seen.end.min(both.start), first, to);
            }
        }
        mix::<S, E>(work, query, rows, both.clone(), first, to);
        if lowest != highest {
            for row in query..query + rows {
                let seen = work.args.seen(row, chunk);
                mix::<S, E>(work, row, 1, seen.start.max(both.end)..seen.end, first, to);
            }
        }
    }
}

/// Turns the scores in `seen` into weights, of which the largest is 1. Returns the largest score and the weights' sum.
#[inline(always)]
unsafe fn softmax<S: Simd>(scores: *mut f32, seen: Range<usize>) -> (f32, f32) {
    let whole = seen.start / LANES * LANES..seen.end.next_multiple_of(LANES);
    // SAFETY: `whole` lies within the split, which is whole vectors.
    unsafe {
        for hidden in (whole.start..seen.start).chain(seen.end..whole.end) {
            *scores.add(hidden) = f32::NEG_INFINITY;
        }
        let mut largest = S::splat(f32::NEG_INFINITY);
        for at in whole.clone().step_by(LANES) {
            largest = S::max(largest, S::load(scores.add(at)));
        }
        let mut lanes = [f32::NEG_INFINITY; BLOCK];
        S::store(lanes.as_mut_ptr(), largest);
        let largest = lanes.into_iter().fold(f32::NEG_INFINITY, f32::max);
        let (mut sum, least) = (S::splat(0.0), S::splat(largest));
        for at in whole.step_by(LANES) {
            let weight = exp::<S>(S::sub(S::load(scores.add(at)), least));
            S::store(scores.add(at), weight);
            sum = S::add(sum, weight);
        }
        (largest, S::sum(sum))
    }
}
