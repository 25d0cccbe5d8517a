//! One vector for a whole prompt: what rows of hidden states become where an engine embeds instead of generating.
//!
//! Hidden states come chunk by chunk and are summed in f64, in the order of their positions, so that a vector depends on its prompt alone.

use std::ops::Range;

use engine_assets::Pooling;

use crate::backend::{NoToken, Row};

/// The vector of a row that ends its prompt, or why there is none.
pub type Vector = Result<Box<[f32]>, NoToken>;

/// The positions of a row of `tokens`, counted from its first, whose hidden states are needed.
pub fn positions(pooling: Pooling, row: &Row, tokens: usize) -> Range<usize> {
    match pooling {
        Pooling::Cls => 0..usize::from(row.start == 0).min(tokens),
        // Of a prompt's last row alone a result is asked for.
        Pooling::Last => tokens - usize::from(row.sample.is_some()).min(tokens)..tokens,
        Pooling::Mean => 0..tokens,
    }
}

/// The vectors in the making, one for each slot of a device.
pub struct Pooler {
    pub pooling: Pooling,
    sums: Vec<Vec<f64>>,
}

impl Pooler {
    /// For vectors of `width` values.
    pub fn new(pooling: Pooling, slots: usize, width: usize) -> Self {
        Self { pooling, sums: vec![vec![0.0; width]; slots] }
    }

    /// Takes the hidden states of a row's [`positions`]; the vector where the row ends its prompt.
    pub fn take<'a>(&mut self, row: &Row, tokens: usize, states: impl Iterator<Item = &'a [f32]>) -> Option<Vector> {
        let sum = &mut self.sums[row.slot.0 as usize];
        // A row from position 0 begins anew: another request, or one that was preempted.
        if row.start == 0 || self.pooling == Pooling::Last {
            sum.fill(0.0);
        }
        for state in states {
            sum.iter_mut().zip(state).for_each(|(sum, value)| *sum += f64::from(*value));
        }
        row.sample.as_ref()?;
        let count = if self.pooling == Pooling::Mean { row.start as usize + tokens } else { 1 };
        if sum.iter().any(|sum| !sum.is_finite()) {
            return Some(Err(NoToken::NotANumber));
        }
        Some(Ok(sum.iter().map(|sum| (sum / count as f64) as f32).collect()))
    }
}

/// Divides a vector by its length; one of zeros stays.
pub fn normalise(vector: &mut [f32]) {
    let length = vector.iter().map(|value| f64::from(*value) * f64::from(*value)).sum::<f64>().sqrt();
    if length > 0.0 {
        vector.iter_mut().for_each(|value| *value = (f64::from(*value) / length) as f32);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::{Input, Sample, Slot};
    use crate::request::Sampling;

    /// The vector of five states `[position, 1]`, taken in chunks.
    fn pooled(pooling: Pooling, chunks: &[usize]) -> Vec<f32> {
        let mut pooler = Pooler::new(pooling, 1, 2);
        let (mut start, mut vector) = (0, None);
        for &tokens in chunks {
            let sample = (start + tokens == 5).then(|| Sample { sampling: Sampling::GREEDY, index: 0, state: None });
            let input = Input::Tokens(0..tokens);
            let row = Row { slot: Slot(0), adapter: None, input, start: start as u32, sample, drafts: 0, scored: None };
            let states: Vec<[f32; 2]> = positions(pooling, &row, tokens).map(|at| [(start + at) as f32, 1.0]).collect();
            vector = pooler.take(&row, tokens, states.iter().map(|state| &state[..]));
            start += tokens;
        }
        vector.expect("the last row ends the prompt").expect("numbers").into_vec()
    }

    #[test]
    fn chunks_change_nothing() {
        for (pooling, expected) in [(Pooling::Cls, [0.0, 1.0]), (Pooling::Last, [4.0, 1.0]), (Pooling::Mean, [2.0, 1.0])] {
            for chunks in [&[5][..], &[1, 1, 1, 1, 1], &[2, 3], &[4, 1]] {
                assert_eq!(pooled(pooling, chunks), expected, "{pooling:?} in {chunks:?}");
            }
        }
    }

    #[test]
    fn what_is_no_number_fails_alone() {
        let mut pooler = Pooler::new(Pooling::Last, 2, 1);
        let sample = Some(Sample { sampling: Sampling::GREEDY, index: 0, state: None });
        let row = |slot| Row {
            slot: Slot(slot),
            adapter: None,
            input: Input::Last,
            start: 0,

            sample: sample.clone(),
            drafts: 0,
            scored: None,
        };
        assert_eq!(pooler.take(&row(0), 1, [&[f32::NAN][..]].into_iter()), Some(Err(NoToken::NotANumber)));
        assert_eq!(pooler.take(&row(1), 1, [&[2.0f32][..]].into_iter()), Some(Ok([2.0].into())));
        assert_eq!(pooler.take(&row(0), 1, [&[3.0f32][..]].into_iter()), Some(Ok([3.0].into())));
    }

    #[test]
    fn a_vector_has_length_one() {
        let mut vector = [3.0, -4.0];
        normalise(&mut vector);
        assert_eq!(vector, [0.6, -0.8]);
        let mut nothing = [0.0; 2];
        normalise(&mut nothing);
        assert_eq!(nothing, [0.0; 2]);
    }
}
