//! What a settled batch means for its requests: tokens out, blocks known, ends.

use std::time::Instant;

use super::{Engine, Launch};
use crate::backend::DeviceError;
use crate::observe::BatchReport;
use crate::plan::PlannedRow;
use crate::request::{FinishReason, Output};
use crate::sequence::State;

impl Engine {
    /// Settles the oldest batch in flight.
    pub(super) fn settle(&mut self) -> Result<(), DeviceError> {
        let Launch { ticket, rows, began } = self.in_flight.pop_front().expect("a batch is in flight");
        self.sampled.clear();
        self.backend.settle(ticket, &mut self.sampled)?;
        let now = (self.ports.clock)();
        let ended_before = self.report.finished.len();
        let sampled = std::mem::take(&mut self.sampled);
        let mut outcomes = sampled.iter();
        for row in &rows {
            let outcome = row.chunk.sample.map(|_| {
                let outcome = outcomes.next().expect("the backend yields one token per row that samples");
                assert_eq!(outcome.slot, row.slot, "the backend yields tokens in row order");
                outcome.token
            });
            self.settle_row(row, outcome, now);
        }
        assert!(outcomes.next().is_none(), "the backend yields one token per row that samples");
        self.sampled = sampled;
        self.schedule.release_retired(self.schedule.settled + 1);
        if self.report.finished.len() > ended_before {
            self.schedule.sweep();
        }
        self.measure(&rows, began, now);
        self.spare_rows.push(rows);
        Ok(())
    }

    /// `outcome` is the row's token where it samples; `Some(None)` means that there is none to choose.
    fn settle_row(&mut self, row: &PlannedRow, outcome: Option<Option<u32>>, now: Instant) {
        // The request ended while this batch was in flight: what it sampled behind its end is thrown away.
        let Some(sequence) = self.schedule.table.get_if(row.key, row.id) else { return };
        sequence.in_flight -= 1;
        // After a preemption, what was computed is gone; the token that was sampled from it is as good as ever.
        let resident = sequence.state == State::Running;
        if resident {
            sequence.progress.settled = row.chunk.start + row.chunk.tokens;
        }
        let end = match outcome {
            None => None,
            Some(Some(token)) => self.take_token(row, token, now),
            Some(None) => {
                // What made these logits may be in the blocks, and would fail whoever finds them in the cache.
                self.schedule.kv.forget(&self.schedule.table.get(row.key).blocks);
                Some(FinishReason::Error("the model's output holds no number to choose a token from".into()))
            }
        };
        if resident && self.door.limits.config.prefix_caching && !matches!(end, Some(FinishReason::Error(_))) {
            self.schedule.offer(row.key, &mut self.hasher);
        }
        if let Some(reason) = end {
            self.end(row.key, reason, now);
        }
    }

    /// Passes a token on; says whether its request ends with it.
    fn take_token(&mut self, row: &PlannedRow, token: u32, now: Instant) -> Option<FinishReason> {
        let sequence = self.schedule.table.get_mut(row.key);
        assert!((token as usize) < self.door.limits.capacity.vocabulary, "the backend sampled token {token}");
        assert_eq!(Some(sequence.generated()), row.chunk.sample, "tokens settle in order");
        sequence.push(token);
        self.stats.generated_tokens += 1;
        match sequence.last_token {
            None => {
                sequence.first_token = Some(now);
                self.report.first_token.push(now.saturating_duration_since(sequence.arrived));
            }
            Some(last) => self.report.inter_token.push(now.saturating_duration_since(last)),
        }
        sequence.last_token = Some(now);
        let read = sequence.sink.put(Output::Token(token));
        let ended = sequence.ended(self.door.limits.length_max);
        ended.or_else(|| (!read).then_some(FinishReason::Aborted))
    }

    fn measure(&mut self, rows: &[PlannedRow], began: Instant, now: Instant) {
        let began = self.settled_at.map_or(began, |before| before.max(began));
        let mut report = BatchReport {
            rows: rows.len() as u32,
            prefill_tokens: 0,
            decode_tokens: 0,
            duration: now.saturating_duration_since(began),
        };
        for row in rows {
            let tokens = if row.chunk.last { &mut report.decode_tokens } else { &mut report.prefill_tokens };
            *tokens += row.chunk.tokens;
        }
        self.settled_at = Some(now);
        self.stats.measure(&report);
        self.report.settled.push(report);
    }
}
