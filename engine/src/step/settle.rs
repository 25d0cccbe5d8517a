//! What a settled batch means for its requests: tokens out, blocks known, ends.

use std::time::{Duration, Instant};

use super::{BatchTokens, Engine, Launch};
use crate::backend::{DeviceError, NoToken, Sampled};
use crate::observe::{BatchReport, DraftReport};
use crate::plan::PlannedRow;
use crate::pooling::Vector;
use crate::request::{FinishReason, Logprobs, Output};
use crate::sequence::State;

/// What a settled row yields.
enum Yield<'a> {
    /// `sampled` are the row's tokens, at least one where it samples; `scored` what is told of its prompt.
    Tokens {
        scored: Option<Vec<Logprobs>>,
        sampled: &'a mut [Sampled],
    },
    Vector(Vector),
}

/// The time since the tokens before. Those of most rows came at once, so that it is worked out once.
struct Interval {
    from: Instant,
    to: Instant,
    between: Duration,
}

impl Interval {
    fn since(&mut self, from: Instant) -> Duration {
        if self.from != from {
            (self.from, self.between) = (from, self.to.saturating_duration_since(from));
        }
        self.between
    }
}

impl Engine {
    /// Settles the oldest batch in flight.
    pub(super) fn settle(&mut self) -> Result<(), DeviceError> {
        let Launch { ticket, rows, began, tokens } = self.in_flight.pop_front().expect("a batch is in flight");
        let mut outcomes = std::mem::take(&mut self.outcomes);
        outcomes.clear();
        self.backend.settle(ticket, &mut outcomes)?;
        let now = (self.ports.clock)();
        let ended_before = self.report.finished.len();
        let (mut sampled, mut scored) = (&mut outcomes.sampled[..], outcomes.scored.drain(..));
        let mut pooled = outcomes.pooled.drain(..);
        let pools = self.door.limits.config.pooling.is_some();
        let mut interval = Interval { from: now, to: now, between: Duration::ZERO };
        for row in &rows {
            let yielded = if pools && row.chunk.sample.is_some() {
                let (slot, vector) = pooled.next().expect("the backend yields a vector per row that ends its prompt");
                assert_eq!(slot, row.slot, "the backend yields vectors in row order");
                Yield::Vector(vector)
            } else {
                let scored = row.scores.then(|| {
                    let (slot, scored) = scored.next().expect("the backend yields an entry per row that is scored");
                    assert_eq!(slot, row.slot, "the backend yields scores in row order");
                    scored
                });
                let samples = row.chunk.sample.map_or(0, |_| 1 + row.chunk.drafts as usize);
                let own = sampled.iter().take(samples).take_while(|sampled| sampled.slot == row.slot).count();
                let (own, others) = std::mem::take(&mut sampled).split_at_mut(own);
                sampled = others;
                Yield::Tokens { scored, sampled: own }
            };
            self.settle_row(row, yielded, &mut interval);
        }
        assert!(sampled.is_empty() && scored.next().is_none(), "the backend yields tokens for rows that sample");
        assert!(pooled.next().is_none(), "the backend yields vectors for rows that end their prompts");
        drop((scored, pooled));
        self.outcomes = outcomes;
        self.schedule.release_retired(self.schedule.settled + 1);
        if self.report.finished.len() > ended_before {
            self.schedule.sweep();
        }
        self.measure(rows.len(), tokens, began, now);
        self.spare_rows.push(rows);
        Ok(())
    }

    fn settle_row(&mut self, row: &PlannedRow, yielded: Yield<'_>, interval: &mut Interval) {
        // The request ended while this batch was in flight: what it yielded behind its end is thrown away.
        let Some(sequence) = self.schedule.table.get_if(row.key, row.id) else { return };
        sequence.in_flight -= 1;
        // After a preemption, what was computed is gone; what was made of it is as good as ever.
        let resident = sequence.state == State::Running;
        sequence.progress.settle(&row.chunk, resident);
        let end = match yielded {
            Yield::Tokens { scored, sampled } => self.take_tokens(row, scored, sampled, interval),
            Yield::Vector(vector) => Some(self.take_vector(row, vector, interval.to)),
        };
        if resident && self.door.limits.config.prefix_caching && !matches!(end, Some(FinishReason::Error(_))) {
            self.schedule.offer(row.key, &mut self.hasher);
        }
        if let Some(reason) = end {
            self.end(row.key, reason, interval.to);
        }
    }

    /// Passes on what is told of a row's prompt, and its tokens; says whether its request ends with them.
    fn take_tokens(
        &mut self,
        row: &PlannedRow,
        scored: Option<Vec<Logprobs>>,
        sampled: &mut [Sampled],
        interval: &mut Interval,
    ) -> Option<FinishReason> {
        let mut end = None;
        let sequence = self.schedule.table.get_mut(row.key);
        if let Some(scored) = scored
            && !sequence.sink.put(Output::PromptLogprobs(scored))
        {
            end = Some(FinishReason::Aborted);
        }
        assert!(row.chunk.sample.is_none() || !sampled.is_empty(), "the backend yields a token per row that samples");
        let yielded = sampled.len() as u32;
        for (number, sampled) in (0..).zip(sampled) {
            // Behind an end, the rest is thrown away.
            if end.is_none() {
                end = self.take_token(row, number, sampled, interval);
            }
        }
        if row.chunk.drafts > 0 {
            self.settle_drafts(row, yielded - 1);
        }
        end
    }

    /// Passes a vector on, with which its request ends.
    fn take_vector(&mut self, row: &PlannedRow, vector: Vector, now: Instant) -> FinishReason {
        let vector = match vector {
            Ok(vector) => vector,
            Err(why) => return self.failed(row, &why),
        };
        let sequence = self.schedule.table.get_mut(row.key);
        (sequence.first_token, sequence.last_token) = (Some(now), Some(now));
        self.report.vectors.push(now.saturating_duration_since(sequence.arrived));
        if sequence.sink.put(Output::Pooled(vector)) { FinishReason::Pooled } else { FinishReason::Aborted }
    }

    /// A row yielded nothing: its request alone fails.
    fn failed(&mut self, row: &PlannedRow, why: &NoToken) -> FinishReason {
        if *why == NoToken::NotANumber {
            // What made these numbers may be in the blocks, and would fail whoever finds them in the cache.
            self.schedule.kv.forget(&self.schedule.table.get(row.key).blocks);
            self.report.corrupted += 1;
        }
        FinishReason::Error(why.to_string())
    }

    /// `accepted` of a row's drafts were what was sampled, be it that the request ended before.
    fn settle_drafts(&mut self, row: &PlannedRow, accepted: u32) {
        let drafted = row.chunk.drafts;
        assert!(accepted <= drafted, "the backend yields a token per draft, and one");
        self.report.drafts.push(DraftReport { drafted, accepted });
        self.stats.drafts += 1;
        self.stats.draft_tokens += u64::from(drafted);
        self.stats.accepted_tokens += u64::from(accepted);
        let sequence = self.schedule.table.get_mut(row.key);
        let length = sequence.tokens.len();
        if let Some(lookup) = &mut sequence.lookup {
            lookup.learn_outcome(drafted as usize, accepted as usize, length);
        }
    }

    /// Passes token `number` of a row on; says whether its request ends with it.
    fn take_token(
        &mut self,
        row: &PlannedRow,
        number: u32,
        sampled: &mut Sampled,
        interval: &mut Interval,
    ) -> Option<FinishReason> {
        let now = interval.to;
        let token = match &sampled.token {
            Ok(token) => *token,
            Err(why) => return Some(self.failed(row, why)),
        };
        let sequence = self.schedule.table.get_mut(row.key);
        assert!((token as usize) < self.door.limits.capacity.vocabulary, "the backend sampled token {token}");
        assert_eq!(Some(sequence.generated()), row.chunk.sample.map(|first| first + number), "tokens settle in order");
        sequence.push(token, number == 0);
        self.stats.generated_tokens += 1;
        match sequence.last_token {
            None => {
                sequence.first_token = Some(now);
                self.report.first_token.push(now.saturating_duration_since(sequence.arrived));
            }
            Some(last) => self.report.inter_token.push(interval.since(last)),
        }
        sequence.last_token = Some(now);
        let read = sequence.sink.put(Output::Token { token, logprobs: sampled.logprobs.take().map(|logprobs| *logprobs) });
        let ended = sequence.ended(self.door.limits.length_max);
        let ended = ended.or_else(|| sampled.ended.then_some(FinishReason::MaskEnded));
        ended.or_else(|| (!read).then_some(FinishReason::Aborted))
    }

    fn measure(&mut self, rows: usize, tokens: BatchTokens, began: Instant, now: Instant) {
        let began = self.settled_at.map_or(began, |before| before.max(began));
        let report = BatchReport {
            rows: rows as u32,
            prefill_tokens: tokens.prefill,
            decode_tokens: tokens.decode,
            duration: now.saturating_duration_since(began),
        };
        self.settled_at = Some(now);
        self.stats.measure(&report);
        self.report.settled.push(report);
    }
}
