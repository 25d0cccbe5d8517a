//! The fake device's time, and that it notices what it is there to notice.

use std::cell::Cell;

use super::*;
use crate::backend::Sample;
use crate::request::Sampling;

const CAPACITY: Capacity =
    Capacity { vocabulary: 1000, context_length: 64, block_tokens: 4, kv_blocks: 8, slots: 2, batch_tokens: 64, logit_rows: 2 };

/// A clock that moves only in [`Pace::sleep`].
struct Still(Instant, Cell<Duration>);

impl Pace for Still {
    fn now(&self) -> Instant {
        self.0 + self.1.get()
    }

    fn sleep(&self, duration: Duration) {
        self.1.set(self.1.get() + duration);
    }
}

fn fake(speed: Speed) -> Fake {
    Fake::new(CAPACITY, speed, Box::new(Still(Instant::now(), Cell::default())))
}

fn batch(tokens: &[u32], start: u32, table: &[u32]) -> Batch {
    let sample = Some(Sample { sampling: Sampling::GREEDY, index: 0, state: None });
    let input = if tokens.is_empty() { Input::Last } else { Input::Tokens(0..tokens.len()) };
    let slot = super::super::Slot(0);
    let row = Row { slot, input, start, sample, drafts: 0, scored: None, adapter: None };
    let mut batch = Batch { rows: vec![row], tokens: tokens.to_vec(), ..Batch::default() };
    let table: Vec<BlockId> = table.iter().copied().map(BlockId).collect();
    batch.tables.replace(slot, 0, &table);
    batch
}

fn run(fake: &mut Fake, batch: &Batch) -> u32 {
    let mut out = Outcomes::default();
    let ticket = fake.launch(batch).expect("the fake device does not fail");
    fake.settle(ticket, &mut out).expect("the ticket is the oldest");
    out.sampled[0].token.clone().expect("the fake device finds a number")
}

#[test]
fn it_takes_the_time_that_it_was_told() {
    let speed = Speed { prefill_tok_s: Some(1000.0), step: Duration::from_millis(10), lag: 1 };
    let mut fake = fake(speed);
    let began = fake.pace.now();
    let took = |fake: &Fake| (fake.pace.now() - began).as_millis();
    run(&mut fake, &batch(&[1; 20], 0, &[0, 1, 2, 3, 4]));
    assert_eq!(took(&fake), 30, "20 tokens at 1000 per second, and the step");
    // The second is launched while the first computes, and ends one step later.
    let tickets = [20, 21].map(|start| fake.launch(&batch(&[], start, &[0, 1, 2, 3, 4, 5])).expect("it does not fail"));
    assert_eq!(took(&fake), 30, "a launch does not wait");
    let mut out = Outcomes::default();
    for (ticket, ms) in tickets.into_iter().zip([40, 50]) {
        fake.settle(ticket, &mut out).expect("tickets settle in order");
        assert_eq!(took(&fake), ms);
    }
    assert!(fake.settle(tickets[0], &mut out).is_err(), "a ticket settles once");
}

#[test]
fn the_slowest_device_still_has_a_time() {
    let mut fake = fake(Speed { prefill_tok_s: Some(f64::MIN_POSITIVE), step: Duration::MAX, lag: 1 });
    let began = fake.pace.now();
    run(&mut fake, &batch(&[1; 20], 0, &[0, 1, 2, 3, 4]));
    assert_eq!(fake.pace.now() - began, COST_MAX);
}

#[test]
fn its_tokens_are_a_function_of_the_sequence() {
    let sequence: Vec<u32> = (7..17).collect();
    let token = expected(&sequence, &Sampling::GREEDY, 0, &CAPACITY);
    let mut whole = fake(Speed::INSTANT);
    assert_eq!(run(&mut whole, &batch(&sequence, 0, &[5, 1, 3])), token);
    let mut chunked = fake(Speed::INSTANT);
    run(&mut chunked, &batch(&sequence[..3], 0, &[0]));
    run(&mut chunked, &batch(&sequence[3..9], 3, &[0, 7, 2]));
    assert_eq!(run(&mut chunked, &batch(&sequence[9..], 9, &[0, 7, 2])), token);
    let mut next = sequence.clone();
    next.push(token);
    assert_eq!(
        run(&mut chunked, &batch(&[], 10, &[0, 7, 2])),
        expected(&next, &Sampling::GREEDY, 0, &CAPACITY),
        "the slot's last token"
    );
}

#[test]
fn a_wrong_block_anywhere_in_the_table_changes_its_token() {
    let sequence: Vec<u32> = (7..17).collect();
    let token = expected(&sequence, &Sampling::GREEDY, 0, &CAPACITY);
    for wrong in 0..3 {
        let mut fake = fake(Speed::INSTANT);
        run(&mut fake, &batch(&[9; 32], 0, &[0, 1, 2, 3, 4, 5, 6, 7]));
        run(&mut fake, &batch(&sequence[..9], 0, &[0, 1, 2]));
        let mut table = [0, 1, 2];
        table[wrong] = 6;
        assert_ne!(run(&mut fake, &batch(&sequence[9..], 9, &table)), token, "block {wrong}");
    }
}
