//! A batch as the device takes it over: checked, with every token id and position known.

use std::ops::Range;

use engine::backend::{AdapterSlot, Batch, BlockId, Capacity, Input};
use engine::pooling;
use engine_assets::Pooling;

/// Fixed vectors, refilled for every batch.
#[derive(Default)]
pub(crate) struct Taken {
    /// Token id and position of every input token of the batch.
    pub tokens: Vec<u32>,
    pub positions: Vec<u32>,
    /// Index in `rows` of every input token's row.
    pub row_of: Vec<u32>,
    pub rows: Vec<TakenRow>,
    pub blocks: Vec<BlockId>,
    /// Positions whose logits are computed, as indices into `tokens`: of each row those scored, then those that yield a token. Of a model
    /// that embeds, those whose hidden states are pooled.
    pub samples: Vec<usize>,

    /// The adapter of every input token.
    pub adapters: Vec<Option<AdapterSlot>>,
}

/// One request's part of the batch.
pub(crate) struct TakenRow {
    /// Index of its first token in [`Taken::tokens`].
    pub first: usize,
    pub tokens: usize,
    /// Its part of [`Taken::blocks`].
    pub blocks: Range<usize>,
}

impl Taken {
    pub fn new(capacity: &Capacity) -> Self {
        Self {
            tokens: Vec::with_capacity(capacity.batch_tokens),
            positions: Vec::with_capacity(capacity.batch_tokens),
            row_of: Vec::with_capacity(capacity.batch_tokens),
            rows: Vec::with_capacity(capacity.slots),
            blocks: Vec::with_capacity(capacity.kv_blocks),
            samples: Vec::with_capacity(capacity.logit_rows),
            adapters: Vec::with_capacity(capacity.batch_tokens),
        }
    }

    /// Takes `batch` over; `last` is each slot's last token. What is outside the capacity is refused, naming it: kernels trust these
    /// numbers. `pooling`: how the model embeds, where it does.
    pub fn take(&mut self, batch: &Batch, capacity: &Capacity, last: &[u32], pooling: Option<Pooling>) -> Result<(), String> {
        let Self { tokens, positions, row_of, rows, blocks, samples, adapters } = self;
        adapters.clear();
        tokens.clear();
        positions.clear();
        row_of.clear();
        rows.clear();
        samples.clear();
        blocks.clear();
        for row in &batch.rows {
            let first = tokens.len();
            let slot = row.slot.0 as usize;
            match &row.input {
                Input::Tokens(range) => {
                    tokens.extend_from_slice(batch.tokens.get(range.clone()).ok_or("a row's tokens are not in the batch")?)
                }
                Input::Last => tokens.push(*last.get(slot).ok_or_else(|| format!("slot {slot} of {}", last.len()))?),
            }
            let len = tokens.len() - first;
            let end = row.start as usize + len;
            let table = batch.tables.of(row.slot);
            let own = &table[..table.len().min(end.div_ceil(capacity.block_tokens))];
            if len == 0 || slot >= capacity.slots || end > capacity.context_length || own.len() * capacity.block_tokens < end {
                return Err(format!("slot {slot}: {len} tokens from position {} with {} blocks", row.start, own.len()));
            }
            if let Some(block) = own.iter().find(|block| block.0 as usize >= capacity.kv_blocks) {
                return Err(format!("slot {slot}: block {} of {}", block.0, capacity.kv_blocks));
            }
            positions.extend(row.start..end as u32);
            row_of.resize(tokens.len(), rows.len() as u32);
            adapters.resize(tokens.len(), row.adapter);
            if let Some(scored) = &row.scored {
                let from = (scored.first as usize).checked_sub(row.start as usize).map(|at| first + at);
                let positions = from.map(|from| from..from + scored.targets.len());
                let Some(positions) = positions.filter(|positions| positions.end <= tokens.len()) else {
                    return Err(format!("slot {slot}: {} scored positions from {}", scored.targets.len(), scored.first));
                };
                let targets = batch.targets.get(scored.targets.clone()).ok_or("a row's targets are not in the batch")?;
                if let Some(target) = targets.iter().find(|target| **target as usize >= capacity.vocabulary) {
                    return Err(format!("target {target} of {}", capacity.vocabulary));
                }
                samples.extend(positions);
            }
            if let Some(pooling) = pooling {
                samples.extend(pooling::positions(pooling, row, len).map(|at| first + at));
            } else if row.sample.is_some() {
                let drafts = row.drafts as usize;
                if drafts >= len {
                    return Err(format!("slot {slot}: {drafts} drafts among {len} tokens"));
                }
                samples.extend(tokens.len() - 1 - drafts..tokens.len());
            }
            let first_block = blocks.len();
            blocks.extend_from_slice(own);
            rows.push(TakenRow { first, tokens: len, blocks: first_block..blocks.len() });
        }
        if let Some(token) = tokens.iter().find(|token| **token as usize >= capacity.vocabulary) {
            return Err(format!("token {token} of {}", capacity.vocabulary));
        }
        if samples.len() > capacity.logit_rows {
            return Err(format!("{} rows of logits; there is room for {}", samples.len(), capacity.logit_rows));
        }
        if tokens.len() > capacity.batch_tokens || rows.len() > capacity.slots {
            return Err(format!("{} tokens in {} rows", tokens.len(), rows.len()));
        }
        Ok(())
    }
}
