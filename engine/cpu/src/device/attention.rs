//! Attention over the paged KV cache: one task per tile of queries and key/value head.

use engine::device::{Causal, Heads};

use super::CpuDevice;
use crate::buffer::{Activation, Shared};
use crate::kernel::attend::{Attend, QUERIES};

pub fn attend(device: &mut CpuDevice, causal: Causal, qkv: &Activation, out: &mut Activation) {
    let Causal { layer, heads, scale, window } = causal;
    let shape = device.kv.shape();
    assert!(shape.kv_heads == heads.kv && shape.dim == heads.dim && heads.query.is_multiple_of(heads.kv));
    assert!(qkv.features() == heads.qkv_features() && out.features() == heads.query * heads.dim);
    assert!(qkv.rows() == device.taken.tokens.len());
    out.resize(qkv.rows());
    store_kv(device, layer, heads, qkv);

    let group = heads.query / heads.kv;
    assert!(group == device.group);
    let keys = Shared::new(device.kv.keys(layer));
    let (scratch, scratch_stride) = (device.scratch.first(), device.scratch.stride);
    let (q_stride, out_stride) = (qkv.stride(), out.stride());
    let (q, out) = (Shared::read(qkv.as_ptr()), Shared::new(out.as_mut_ptr()));
    let (kernel, taken) = (device.kernels.attend, &device.taken);
    // The longest contexts last in a batch would leave threads idle at the end, but order costs a sort; tiles are small.
    device.pool.run(taken.queries.len() * heads.kv, &|task, worker| {
        let (tile, head) = (&taken.queries[task / heads.kv], task % heads.kv);
        let column = head * group * heads.dim;
        let keys = keys.get().wrapping_add(head * shape.head_len());
        let args = Attend {
            q: q.get().wrapping_add(tile.first * q_stride + column),
            q_stride,
            tokens: tile.tokens,
            group,
            dim: heads.dim,
            position: taken.positions[tile.first] as usize,
            keys,
            values: keys.wrapping_add(shape.half_len()),
            block_stride: shape.len(),
            block_tokens: shape.tokens,
            blocks: taken.blocks[taken.rows[tile.row].clone()].as_ptr(),
            scale,
            window: window.unwrap_or(usize::MAX),
            out: out.get().wrapping_add(tile.first * out_stride + column),
            out_stride,
            scratch: scratch.get().wrapping_add(worker * scratch_stride),
        };
        // SAFETY: `Taken::take` checked that the row's blocks exist and cover its positions; the cache is only read now; tasks
        // write to different heads or tokens of `out`; each worker has its own scratch, large enough for any context.
        unsafe { kernel(&args) }
    });
}

/// Writes all keys and values of the batch before any query reads: a row may share blocks with a row of the same batch.
fn store_kv(device: &mut CpuDevice, layer: usize, heads: Heads, qkv: &Activation) {
    let shape = device.kv.shape();
    let base = Shared::new(device.kv.keys(layer));
    let (stride, q_features) = (qkv.stride(), heads.query * heads.dim);
    let x = Shared::read(qkv.as_ptr());
    let taken = std::mem::take(&mut device.taken);
    let (rows, positions) = (&taken.rows, &taken.positions);
    device.each_row(taken.queries.len(), QUERIES * 2 * heads.kv * heads.dim, |tile| {
        let tile = &taken.queries[tile];
        let blocks = &taken.blocks[rows[tile.row].clone()];
        for (token, position) in positions.iter().enumerate().skip(tile.first).take(tile.tokens) {
            let (block, at) = (blocks[*position as usize / shape.tokens], *position as usize % shape.tokens);
            for half in 0..2 {
                for head in 0..heads.kv {
                    let from = x.get().wrapping_add(token * stride + q_features + (half * heads.kv + head) * heads.dim);
                    let offset = block.0 as usize * shape.len() + half * shape.half_len() + head * shape.head_len();
                    // SAFETY: the block exists (`Taken::take`), the position lies in it, the activation has the token's row. Only
                    // this request's row writes to this position: blocks that requests share are full and never written again.
                    unsafe { std::ptr::copy_nonoverlapping(from, base.get().add(offset + at * heads.dim), heads.dim) };
                }
            }
        }
    });
    device.taken = taken;
}
