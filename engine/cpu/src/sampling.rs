//! From logits to tokens: the rows of a batch, each on whichever thread is free.

use engine::backend::{Batch, Input, Outcomes, Row};
use engine::sample::Sampler;

use crate::buffer::{Activation, Shared};
use crate::pool::Pool;

/// Logits of one task, at least, where rows are divided among threads.
const TASK_LOGITS_MIN: usize = 64 * 1024;

/// What sampling needs beside the logits; reused from batch to batch.
pub(crate) struct Sampling {
    /// One of each thread.
    samplers: Vec<Sampler>,
    /// One of each row, so that outcomes are in the order of rows whoever computed them.
    outcomes: Vec<Outcomes>,
    /// For each row, where its logits begin.
    first: Vec<usize>,
}

impl Sampling {
    pub fn new(threads: usize, slots: usize) -> Self {
        Self {
            samplers: vec![Sampler::new(); threads],
            outcomes: vec![Outcomes::default(); slots],
            first: Vec::with_capacity(slots),
        }
    }

    /// Samples every row of `batch` that samples or is scored, and appends what comes of it to `out`. `logits` are those of its
    /// [`Row::logit_rows`], row after row.
    pub fn run(&mut self, pool: &mut Pool, batch: &Batch, logits: &mut Activation, out: &mut Outcomes) {
        let Self { samplers, outcomes, first } = self;
        first.clear();
        let mut total = 0;
        for row in &batch.rows {
            first.push(total);
            total += row.logit_rows();
        }
        assert!(total == logits.rows() && batch.rows.len() <= outcomes.len() && pool.threads() <= samplers.len());
        let per_task = TASK_LOGITS_MIN.div_ceil(logits.features().max(1));
        let (data, stride, features) = (Shared::new(logits.as_mut_ptr()), logits.stride(), logits.features());
        let (samplers, own) = (Shared::new(samplers.as_mut_ptr()), Shared::new(outcomes.as_mut_ptr()));
        let first = &*first;
        pool.run(batch.rows.len().div_ceil(per_task), &|task, thread| {
            // SAFETY: a thread runs one task at a time, and there is a sampler for each.
            let sampler = unsafe { &mut *samplers.get().add(thread) };
            for (number, (row, &first)) in batch.rows.iter().zip(first).enumerate().skip(task * per_task).take(per_task) {
                // SAFETY: each row is of one task, and there are as many outcomes as rows.
                let out = unsafe { &mut *own.get().add(number) };
                let rows = (first..first + row.logit_rows()).map(|at| {
                    // SAFETY: `at < logits.rows()`, which is asserted above, and no other batch row has it.
                    unsafe { std::slice::from_raw_parts_mut(data.get().add(at * stride), features) }
                });
                sample(sampler, batch, row, rows, out);
            }
        });
        for own in &mut outcomes[..batch.rows.len()] {
            out.sampled.append(&mut own.sampled);
            out.scored.append(&mut own.scored);
        }
    }
}

fn sample<'a>(
    sampler: &mut Sampler,
    batch: &Batch,
    row: &Row,
    mut logits: impl Iterator<Item = &'a mut [f32]>,
    out: &mut Outcomes,
) {
    if let Some(scored) = &row.scored {
        let targets = &batch.targets[scored.targets.clone()];
        let told = targets.iter().zip(&mut logits).map(|(&target, logits)| sampler.score(logits, target, scored.top));
        out.scored.push((row.slot, told.collect()));
    }
    if let Some(sample) = &row.sample {
        let drafts = match &row.input {
            Input::Tokens(range) => &batch.tokens[range.end - row.drafts as usize..range.end],
            Input::Last => &[],
        };
        sampler.row(row.slot, sample, drafts, logits, &mut out.sampled);
    }
}
