//! Pausing, sleeping, waking; priorities; long prompts beside short ones.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use engine::backend::{Capacity, Sleep};
use engine::config::{Config, Policy};
use engine::handle::{PauseMode, Quiet, Wake};
use engine::request::{FinishReason, Rejected, RequestId};
use engine::step::Activity;

use crate::world::{Ask, World, ask};

const DEVICE: Capacity = Capacity {
    vocabulary: 1000,
    context_length: 256,
    block_tokens: 4,
    kv_blocks: 128,
    slots: 4,
    batch_tokens: 32,
    logit_rows: 16,
};

fn world(config: Config) -> World {
    World::new(DEVICE, 1, config)
}

fn prompt(first: u32, tokens: u32) -> Vec<u32> {
    (0..tokens).map(|i| (first + i) % 1000).collect()
}

/// Pauses; the flag says whether the pause is complete.
fn pause(world: &World, mode: PauseMode, quiet: Quiet, refuse: bool) -> Arc<Mutex<bool>> {
    let done = Arc::new(Mutex::new(false));
    let reply = Arc::clone(&done);
    world.handle.pause(mode, quiet, refuse, move || *reply.lock().unwrap() = true).expect("there is room");
    done
}

fn whole(world: &World, id: RequestId, ask: &Ask) {
    let (tokens, reason) = ask.answer(&DEVICE, DEVICE.context_length);
    assert_eq!(world.answer(id), (tokens, Some(reason)));
}

#[test]
fn a_pause_ends_waits_for_or_keeps_what_runs() {
    let ask = ask(&prompt(1, 10), 12);
    let later = Ask { prompt: prompt(300, 9), ..ask.clone() };
    for (mode, refuse) in [(PauseMode::Abort, true), (PauseMode::Wait, true), (PauseMode::Keep, false)] {
        let mut world = world(Config::for_device(&DEVICE));
        let id = world.submit(&ask).unwrap();
        world.steps(4);
        let seen = world.answer(id).0.len();
        let done = pause(&world, mode, Quiet::default(), refuse);
        let refused = world.submit(&later);
        assert_eq!(refused.is_err(), refuse);
        assert!(!refuse || refused == Err(Rejected::Paused));
        world.settle();
        assert!(*done.lock().unwrap(), "{mode:?}");
        assert_eq!(world.step(), Activity::Idle);
        assert!(world.handle.stats().paused);
        match mode {
            PauseMode::Abort => assert_eq!(world.answer(id).1, Some(FinishReason::Aborted)),
            PauseMode::Wait => whole(&world, id, &ask),
            PauseMode::Keep => {
                assert_eq!(world.answer(id).1, None);
                assert!(world.answer(id).0.len() <= seen + 1, "it stands still but for what was in flight");
            }
        }
        world.handle.resume(|| ()).unwrap();
        world.settle();
        assert!(!world.handle.stats().paused);
        if let Ok(waited) = refused {
            whole(&world, id, &ask);
            whole(&world, waited, &later);
        }
        let id = world.submit(&later).expect("it serves again");
        world.settle();
        whole(&world, id, &later);
    }
}

#[test]
fn a_sleeping_engine_forgets_its_cache_and_loses_no_request() {
    for (sleep, level) in [(Sleep::Offload, 1), (Sleep::Discard, 2)] {
        let mut world = world(Config { host_blocks: 16, ..Config::for_device(&DEVICE) });
        let ask = ask(&prompt(1, 20), 12);
        let kept = world.submit(&ask).unwrap();
        world.steps(4);
        let quiet = Quiet { clear: true, sleep: Some(sleep) };
        let done = pause(&world, PauseMode::Keep, quiet, false);
        world.settle();
        assert!(*done.lock().unwrap());
        let stats = world.handle.stats();
        assert_eq!((stats.sleep_level, stats.used_blocks, stats.cached_blocks), (level, 0, 0));
        let queued = world.submit(&ask).expect("it waits");
        world.settle();
        assert_eq!(world.outputs(queued), []);
        let awake = Arc::new(Mutex::new(None));
        let wake = |world: &mut World, weights, kv_cache| {
            let reply = Arc::clone(&awake);
            world.handle.wake(Wake { weights, kv_cache }, move |all| *reply.lock().unwrap() = Some(all)).unwrap();
            world.step();
            awake.lock().unwrap().take()
        };
        assert_eq!(wake(&mut world, true, false), Some(false), "the KV cache still sleeps");
        assert_eq!(world.outputs(queued), []);
        assert_eq!(wake(&mut world, false, true), Some(true));
        world.settle();
        assert_eq!(world.handle.stats().sleep_level, 0);
        whole(&world, kept, &ask);
        whole(&world, queued, &ask);
        assert_eq!(wake(&mut world, true, true), Some(true), "an engine that is awake stays so");
    }
}

#[test]
fn a_reset_can_take_blocks_from_running_requests() {
    let mut world = world(Config::for_device(&DEVICE));
    let ask = ask(&prompt(1, 20), 12);
    let id = world.submit(&ask).unwrap();
    world.steps(4);
    let done = Arc::new(Mutex::new(None));
    let reply = Arc::clone(&done);
    let reset = engine::handle::Reset { running: true, lower: false };
    world.handle.reset_prefix_cache(reset, move |done| *reply.lock().unwrap() = Some(done)).unwrap();
    world.step();
    assert_eq!(*done.lock().unwrap(), Some(true));
    world.settle();
    whole(&world, id, &ask);
}

/// The order in which requests with these priorities get their first token, when one slot serves them all.
fn order(policy: Policy, priorities: &[i64]) -> Vec<usize> {
    let capacity = Capacity { slots: 1, logit_rows: 16, ..DEVICE };
    let mut world = World::new(capacity, 1, Config { policy, ..Config::for_device(&capacity) });
    let submit = |(i, &priority): (usize, &i64)| {
        let ask = Ask { priority, ..ask(&prompt(100 * i as u32, 5), 2) };
        world.submit(&ask)
    };
    let ids: Vec<_> = priorities.iter().enumerate().map(submit).collect::<Result<_, _>>().expect("they are let in");
    let mut order = Vec::new();
    while order.len() < ids.len() {
        world.step();
        let new = |i: &usize| !world.answer(ids[*i]).0.is_empty() && !order.contains(i);
        let first: Vec<usize> = (0..ids.len()).filter(new).collect();
        order.extend(first);
    }
    order
}

#[test]
fn the_more_urgent_go_first_where_priorities_count() {
    assert_eq!(order(Policy::Priority, &[5, 0, -3, 5, 0]), [2, 1, 4, 0, 3]);
    assert_eq!(order(Policy::Fcfs, &[0, 0, 0]), [0, 1, 2]);
    let mut world = world(Config::for_device(&DEVICE));
    let refused = world.submit(&Ask { priority: 1, ..ask(&prompt(1, 5), 2) });
    assert!(matches!(refused, Err(Rejected::Parameter { parameter: "priority", .. })), "{refused:?}");
}

#[test]
fn the_least_urgent_is_preempted_and_comes_back_by_its_priority() {
    let capacity = Capacity { kv_blocks: 16, context_length: 48, ..DEVICE };
    let config = Config { policy: Policy::Priority, pinned_blocks_max: 0, ..Config::for_device(&capacity) };
    let mut world = World::new(capacity, 1, config);
    let asks = [3, 1, 2].map(|priority| Ask { priority, ..ask(&prompt(100 * priority as u32, 8), 30) });
    let ids = asks.clone().map(|ask| world.submit(&ask).unwrap());
    world.settle();
    for (ask, id) in asks.iter().zip(ids) {
        let (tokens, reason) = ask.answer(&capacity, capacity.context_length);
        assert_eq!(world.answer(id), (tokens, Some(reason)));
    }
    let preemptions = ids.map(|id| match world.outputs(id).pop() {
        Some(engine::request::Output::Finished(finished)) => finished.preemptions,
        other => panic!("{other:?}"),
    });
    assert_eq!(preemptions[1], 0, "the most urgent is never preempted: {preemptions:?}");
    assert!(preemptions[0] > 0, "{preemptions:?}");
}

#[test]
fn a_short_prompt_behind_a_long_one_is_answered_soon() {
    let mut world = world(Config { prefill_chunk_tokens_max: 16, max_num_batched_tokens: 16, ..Config::for_device(&DEVICE) });
    let long = world.submit(&ask(&prompt(1, 240), 2)).unwrap();
    world.steps(2);
    let short = world.submit(&ask(&prompt(500, 8), 2)).unwrap();
    world.steps(3);
    assert!(!world.answer(short).0.is_empty(), "half of a step is enough for it");
    assert_eq!(world.answer(long).0.len(), 0);
    world.settle();
    whole(&world, long, &ask(&prompt(1, 240), 2));
}

#[test]
fn equal_prompts_that_come_together_are_computed_once() {
    let mut world = world(Config::for_device(&DEVICE));
    let asks = [1, 2, 3].map(|tokens| ask(&prompt(1, 200), tokens));
    let ids = asks.clone().map(|ask| world.submit(&ask).unwrap());
    let other = world.submit(&ask(&prompt(700, 6), 1)).unwrap();
    world.steps(4);
    assert!(world.answer(other).1.is_some(), "who does not wait for the prompt is not held up by those who do");
    world.settle();
    for (ask, id) in asks.iter().zip(ids) {
        whole(&world, id, ask);
    }
    let reports = world.reports.lock().unwrap();
    let computed: u32 = reports.iter().flat_map(|report| &report.settled).map(|batch| batch.prefill_tokens).sum();
    // Of each of the others the last block is computed.
    assert!(computed <= 200 + 6 + 2 * 4 + 3, "{computed} tokens were computed");
}

#[test]
fn a_transfer_that_does_not_end_gives_its_request_back() {
    let config = Config { remote_wait_max: Duration::from_millis(20), ..Config::for_device(&DEVICE) };
    let mut world = world(config);
    let remote = Ask { remote: true, ..ask(&prompt(1, 10), 3) };
    let id = world.submit(&remote).unwrap();
    world.steps(10);
    assert_eq!(world.outputs(id), []);
    world.steps(30);
    whole(&world, id, &remote);
    let stats = world.handle.stats();
    assert_eq!(stats.transfers_late, 1);
    assert!(stats.used_blocks > 0, "its blocks are kept for the transfer, which may still write");
    let transfer = world.transfers.lock().unwrap().pop().expect("a transfer began");
    world.end_transfer(&transfer, &remote.prompt, None);
    world.step();
    assert_eq!(world.handle.stats().used_blocks, 0);
}

#[test]
fn a_long_prompt_leaves_decodes_their_time() {
    // 4 tokens a millisecond, 1 ms a step: of a step of 3 ms, decodes need 1, and prompts get the other 2: 8 tokens.
    let capacity = Capacity { batch_tokens: 64, context_length: 1024, kv_blocks: 512, logit_rows: 16, ..DEVICE };
    let speed = engine::backend::fake::Speed { prefill_tok_s: Some(16_000.0), step: Duration::from_millis(1), lag: 0 };
    let check = |step_time, expected: std::ops::RangeInclusive<u128>| {
        let mut world = World::at_speed(capacity, speed, Config { step_time, ..Config::for_device(&capacity) });
        world.submit(&ask(&prompt(1, 64), 200)).unwrap();
        world.steps(50);
        world.submit(&ask(&prompt(500, 900), 2)).unwrap();
        world.steps(30);
        let reports = world.reports.lock().unwrap();
        let mixed =
            reports.iter().flat_map(|report| &report.settled).filter(|batch| batch.decode_tokens > 0 && batch.prefill_tokens > 0);
        // The first are computed before the speed is known well.
        let longest = mixed.skip(8).map(|batch| batch.duration.as_micros()).max().expect("some steps hold both");
        assert!(expected.contains(&longest), "{step_time:?}: {longest} µs");
    };
    check(None, 4500..=5200);
    check(Some(Duration::from_millis(3)), 1900..=3100);
}
