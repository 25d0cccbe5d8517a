//! Attention over the paged KV cache: tasks are some splits of a tile of queries and a key/value head.
//!
//! A batch is divided once, for all of its layers. Where there are fewer tiles than keep all threads busy, above all for one request
//! with a long context, a tile's context is divided too: its splits' partial results meet in memory of their own, and the thread that
//! finishes the last of them folds them. The fold is the same as within one task, so a division changes no result.

use std::ops::Range;
use std::sync::atomic::{AtomicU32, Ordering};

use engine::backend::Capacity;
use engine::device::{Causal, Heads};

use super::CpuDevice;
use crate::buffer::{Activation, Buffer, Shared};
use crate::kernel::attend::{Attend, Cache, Finish, Partials, QUERIES, StoreKv, splits};
use crate::kv::BlockShape;
use crate::taken::Taken;

/// Tasks for each thread: so many that a late one is made up for.
const TASKS_PER_THREAD: usize = 8;

/// How the attention of the current batch is divided. All memory is there from the start.
pub struct Division {
    /// Query heads per key/value head.
    group: usize,
    shape: BlockShape,
    threads: usize,
    tiles: Vec<Tile>,
    units: Vec<Unit>,
    /// For each divided tile and key/value head: its units that are not done.
    pending: Vec<AtomicU32>,
    /// For each split of a divided tile and key/value head, its partial results.
    partials: Buffer,
}

/// Some tokens of one row, whose queries are computed together.
struct Tile {
    row: usize,
    /// Index of the first in [`Taken::tokens`].
    first: usize,
    tokens: usize,
    divided: Option<Divided>,
}

/// Where a divided tile's parts meet; those of its key/value heads follow each other.
struct Divided {
    /// Index in [`Division::pending`].
    pending: usize,
    units: usize,
    /// Index in [`Division::partials`].
    partials: usize,
}

/// Some splits of a tile's context; all that it sees, if the tile is not divided.
struct Unit {
    tile: usize,
    splits: Range<usize>,
}

impl Division {
    pub fn new(shape: BlockShape, group: usize, threads: usize, capacity: &Capacity) -> Self {
        /// Values of partial results: what one request needs at the longest context, but at most 16 MiB. What finds no room is
        /// not divided.
        const PARTIALS_MAX: usize = 4 << 20;
        let splits = splits(0, capacity.context_length, usize::MAX).len();
        let queries = group.max(QUERIES / group * group);
        let partials =
            if threads == 1 { 0 } else { PARTIALS_MAX.min(splits * shape.kv_heads * Partials::len(queries, shape.dim)) };
        let pieces = threads * TASKS_PER_THREAD;
        Self {
            group,
            shape,
            threads,
            tiles: Vec::with_capacity(capacity.batch_tokens),
            units: Vec::with_capacity(capacity.batch_tokens + pieces),
            pending: (0..pieces * shape.kv_heads).map(|_| AtomicU32::new(0)).collect(),
            partials: Buffer::new(partials),
        }
    }

    /// Divides the attention of `taken`.
    pub fn divide(&mut self, taken: &Taken) {
        let Self { tiles, units, pending, .. } = self;
        tiles.clear();
        units.clear();
        let tile_tokens = (QUERIES / self.group).max(1);
        for (number, row) in taken.rows.iter().enumerate() {
            // The last tokens see most: whoever begins with them ends on time.
            for at in (0..row.tokens).step_by(tile_tokens).rev() {
                tiles.push(Tile { row: number, first: row.first + at, tokens: tile_tokens.min(row.tokens - at), divided: None });
            }
        }
        let seen = |tile: &Tile| taken.positions[tile.first] as usize + tile.tokens;
        let cost = |tile: &Tile| tile.tokens * seen(tile);
        let total: usize = tiles.iter().map(cost).sum();
        // A task is a unit for one key/value head.
        let per_unit = (total * self.shape.kv_heads).div_ceil(self.threads * TASKS_PER_THREAD).max(1);
        let (mut pending_free, mut partials_free) = (0, 0);
        for (number, tile) in tiles.iter_mut().enumerate() {
            let splits = splits(0, seen(tile), usize::MAX);
            let pieces = if self.threads == 1 { 1 } else { cost(tile).div_ceil(per_unit).min(splits.len()) };
            let partials = splits.len() * self.shape.kv_heads * Partials::len(tile.tokens * self.group, self.shape.dim);
            let room = pending_free + self.shape.kv_heads <= pending.len() && partials_free + partials <= self.partials.len();
            if pieces <= 1 || !room {
                units.push(Unit { tile: number, splits });
                continue;
            }
            let per_piece = splits.len().div_ceil(pieces);
            let first = units.len();
            units.extend(
                splits
                    .clone()
                    .step_by(per_piece)
                    .map(|start| Unit { tile: number, splits: start..splits.end.min(start + per_piece) }),
            );
            tile.divided = Some(Divided { pending: pending_free, units: units.len() - first, partials: partials_free });
            pending_free += self.shape.kv_heads;
            partials_free += partials;
        }
    }
}

pub fn attend(device: &mut CpuDevice, causal: Causal, qkv: &Activation, out: &mut Activation) {
    let Causal { layer, heads, scale, window } = causal;
    let window = window.unwrap_or(usize::MAX);
    let shape = device.kv.shape();
    assert!(shape.kv_heads == heads.kv && shape.dim == heads.dim && heads.query.is_multiple_of(heads.kv));
    assert!(qkv.features() == heads.qkv_features() && out.features() == heads.query * heads.dim);
    assert!(qkv.rows() == device.taken.tokens.len() && window > 0);
    out.resize(qkv.rows());
    store_kv(device, layer, heads, qkv);

    let CpuDevice { kernels, pool, kv, taken, scratch, division, .. } = device;
    let group = heads.query / heads.kv;
    assert!(group == division.group);
    let keys = Shared::new(kv.keys(layer));
    let scratch_stride = scratch.stride;
    let scratch = scratch.first();
    let (q_stride, out_stride) = (qkv.stride(), out.stride());
    let (q, out) = (Shared::read(qkv.as_ptr()), Shared::new(out.as_mut_ptr()));
    let partials = Shared::new(division.partials.as_mut_ptr());
    let (kernel, finish) = (kernels.attend(shape.dtype), kernels.finish);
    let Division { tiles, units, pending, .. } = &*division;
    for divided in tiles.iter().filter_map(|tile| tile.divided.as_ref()) {
        for pending in &pending[divided.pending..][..heads.kv] {
            pending.store(divided.units as u32, Ordering::Relaxed);
        }
    }
    pool.run(units.len() * heads.kv, &|task, worker| {
        let (unit, head) = (&units[task / heads.kv], task % heads.kv);
        let tile = &tiles[unit.tile];
        let position = taken.positions[tile.first] as usize;
        let (column, queries) = (head * group * heads.dim, tile.tokens * group);
        let keys = keys.get().wrapping_add(head * shape.head_bytes()).cast_const();
        let seen = splits(position, tile.tokens, window);
        let own = unit.splits.start.max(seen.start)..unit.splits.end.min(seen.end);
        let len = Partials::len(queries, heads.dim);
        let met = tile.divided.as_ref().map(|divided| {
            let all = splits(0, position + tile.tokens, usize::MAX).len();
            let first = divided.partials + (head * all + seen.start) * len;
            (&pending[divided.pending + head], partials.get().wrapping_add(first))
        });
        let to = out.get().wrapping_add(tile.first * out_stride + column);
        let args = Attend {
            q: q.get().wrapping_add(tile.first * q_stride + column),
            q_stride,
            tokens: tile.tokens,
            group,
            dim: heads.dim,
            position,
            cache: Cache {
                keys,
                values: keys.wrapping_add(shape.half_bytes()),
                block_bytes: shape.bytes(),
                block_tokens: shape.tokens,
                blocks: taken.blocks[taken.rows[tile.row].blocks.clone()].as_ptr(),
            },
            scale,
            window,
            partials: met
                .map_or(std::ptr::null_mut(), |(_, partials)| partials.wrapping_add(own.start.saturating_sub(seen.start) * len)),
            splits: own,
            out: to,
            out_stride,
            scratch: scratch.get().wrapping_add(worker * scratch_stride),
        };
        // SAFETY: `Taken::take` checked that the row's blocks exist and cover its positions; the cache is only read now; tasks
        // write to different heads or tokens of `out`, or to different partial results; each worker has its own scratch, large enough.
        unsafe { kernel(&args) };
        if let Some((pending, partials)) = met
            && pending.fetch_sub(1, Ordering::AcqRel) == 1
        {
            let args = Finish { partials, splits: seen, tokens: tile.tokens, group, dim: heads.dim, out: to, out_stride };
            // SAFETY: all units of this tile and head are done, and what they wrote is seen: nobody else uses it now.
            unsafe { finish(&args) };
        }
    });
}

/// Writes all keys and values of the batch before any query reads: a row may share blocks with a row of the same batch.
fn store_kv(device: &mut CpuDevice, layer: usize, heads: Heads, qkv: &Activation) {
    let shape = device.kv.shape();
    let base = Shared::new(device.kv.keys(layer));
    let (stride, q_features) = (qkv.stride(), heads.query * heads.dim);
    let x = Shared::read(qkv.as_ptr());
    let taken = std::mem::take(&mut device.taken);
    let kernel = device.kernels.store_kv(shape.dtype);
    device.each_row(taken.row_of.len(), 2 * heads.kv * heads.dim, |token| {
        let blocks = &taken.blocks[taken.rows[taken.row_of[token] as usize].blocks.clone()];
        let position = taken.positions[token] as usize;
        let keys = base.get().wrapping_add(blocks[position / shape.tokens].0 as usize * shape.bytes());
        let k = x.get().wrapping_add(token * stride + q_features).cast_const();
        let args = StoreKv {
            k,
            v: k.wrapping_add(heads.kv * heads.dim),
            heads: heads.kv,
            dim: heads.dim,
            keys,
            values: keys.wrapping_add(shape.half_bytes()),
            block_tokens: shape.tokens,
            at: position % shape.tokens,
        };
        // SAFETY: the block exists (`Taken::take`), the position lies in it, the activation has the token's row. Only this request's
        // row writes to this position: blocks that requests share are full and never written again.
        unsafe { kernel(&args) };
    });
    device.taken = taken;
}
