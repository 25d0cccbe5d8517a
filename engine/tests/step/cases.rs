//! The step by hand: one behaviour, one test.

use std::collections::BTreeMap;
use std::sync::{Arc, mpsc};
use std::time::Duration;

use domain::ExtraKeys;
use domain::block::AdapterKey;
use engine::backend::Capacity;
use engine::backend::fake::Pace;
use engine::config::Config;
use engine::handle::{AdapterError, Busy, Leased, RemoteOutcome, Reset};
use engine::kv::hash::{BlockHash, BlockHasher};
use engine::request::{FinishReason, Output, Rejected, RequestId, Sampling, SamplingExtras};
use engine::sample::{Accepted, LogitMask, MaskError};
use engine::speculate::Speculation;
use engine::step::Activity;
use engine_assets::Adapter;

use crate::oracle;
use crate::world::{Ask, POISON, World, ask};

const DEVICE: Capacity =
    Capacity { vocabulary: 1000, context_length: 64, block_tokens: 4, kv_blocks: 32, slots: 4, batch_tokens: 16, logit_rows: 12 };

fn world(lag: usize) -> World {
    World::new(DEVICE, lag, Config::for_device(&DEVICE))
}

fn prompt(first: u32, tokens: u32) -> Vec<u32> {
    (first..first + tokens).collect()
}

fn alone(ask: &Ask) -> (Vec<u32>, Option<FinishReason>) {
    let (tokens, reason) = ask.answer(&DEVICE, DEVICE.context_length);
    (tokens, Some(reason))
}

fn chain(prompt: &[u32]) -> Vec<BlockHash> {
    let mut chain = Vec::new();
    BlockHasher::new(engine::config::HASH_SEED, DEVICE.block_tokens).extend(&mut chain, prompt, &ExtraKeys::default());
    chain
}

fn cached_tokens(world: &World, id: RequestId) -> u32 {
    let outputs = world.outputs(id);
    let Some(Output::Admitted { cached_tokens }) = outputs.first() else { panic!("not admitted: {outputs:?}") };
    *cached_tokens
}

/// Runs `ask` to its end, checks the answer, and says how many tokens of its prompt were cached.
fn answer(world: &mut World, ask: &Ask) -> u32 {
    let id = world.submit(ask).expect("there is room");
    world.settle();
    assert_eq!(world.answer(id), alone(ask));
    cached_tokens(world, id)
}

#[test]
fn a_prefix_is_found_again_but_for_the_last_token() {
    for lag in [0, 1] {
        let mut world = world(lag);
        // 10 + 5 tokens fill three blocks; the fifteenth token is never computed.
        assert_eq!(answer(&mut world, &ask(&prompt(100, 10), 5)), 0);
        assert_eq!(answer(&mut world, &ask(&prompt(100, 10), 5)), 8);
        assert_eq!(answer(&mut world, &ask(&prompt(100, 8), 5)), 4, "one token of two full blocks must be computed");
        assert_eq!(answer(&mut world, &ask(&prompt(100, 9), 5)), 8);
        assert_eq!(answer(&mut world, &ask(&prompt(101, 9), 5)), 0);
        let mut turn = prompt(100, 10);
        turn.extend(ask(&prompt(100, 10), 5).answer(&DEVICE, 64).0);
        assert_eq!(answer(&mut world, &ask(&turn, 5)), 12, "what was generated is cached as well");
        let stats = world.handle.stats();
        assert_eq!((stats.prefix_query_tokens, stats.prefix_hit_tokens), (10 + 10 + 8 + 9 + 9 + 15, 8 + 4 + 8 + 12));
    }
}

#[test]
fn other_adapters_and_salts_share_nothing() {
    let mut world = world(1);
    let adapter =
        |name: &str| ExtraKeys { adapter: Some(AdapterKey { name: name.into(), path: "p".into() }), ..ExtraKeys::default() };
    let salt = |salt: &str| ExtraKeys { cache_salt: Some(salt.into()), ..ExtraKeys::default() };
    let load = |world: &World, name: &str, path: &str, replaces: bool| {
        let weights = Adapter { path: path.into(), modules: BTreeMap::new() };
        let loaded = |result: Result<(), AdapterError>| result.expect("there is room");
        let key = AdapterKey { name: name.into(), path: path.into() };
        world.handle.load_adapter(key, Arc::new(weights), replaces, loaded).unwrap();
    };
    for name in ["a", "b"] {
        load(&world, name, "p", false);
    }
    world.step();
    let keys = [ExtraKeys::default(), adapter("a"), adapter("b"), salt("a"), salt("b")];
    for round in [0, 8] {
        for extra in &keys {
            let ask = Ask { extra: extra.clone(), ..ask(&prompt(1, 10), 2) };
            assert_eq!(answer(&mut world, &ask), round, "{extra:?}");
        }
    }
    // Case D5: what an adapter computed is forgotten with it, and nothing else; the world's replay of events must agree.
    let before = world.handle.stats().cached_blocks;
    load(&world, "a", "q", true);
    world.handle.unload_adapter("b".into(), |found| assert!(found)).unwrap();
    world.step();
    assert_eq!(world.handle.stats().cached_blocks, before - 2 * 2, "two blocks each");
    for (extra, cached) in [(ExtraKeys::default(), 8), (salt("a"), 8), (salt("b"), 8)] {
        assert_eq!(answer(&mut world, &Ask { extra, ..ask(&prompt(1, 10), 2) }), cached);
    }
    let mut renewed = adapter("a");
    renewed.adapter = Some(AdapterKey { name: "a".into(), path: "q".into() });
    for cached in [0, 8] {
        assert_eq!(answer(&mut world, &Ask { extra: renewed.clone(), ..ask(&prompt(1, 10), 2) }), cached);
    }
}

#[test]
fn without_prefix_caching_nothing_is_cached() {
    let mut world = World::new(DEVICE, 1, Config { prefix_caching: false, ..Config::for_device(&DEVICE) });
    for _ in 0..2 {
        assert_eq!(answer(&mut world, &ask(&prompt(100, 10), 5)), 0);
    }
    assert_eq!(world.handle.stats().cached_blocks, 0);
}

#[test]
fn requests_with_one_prompt_end_up_sharing_its_blocks() {
    let mut world = world(1);
    let asks: Vec<Ask> = (0..4)
        .map(|seed| Ask { sampling: Sampling { temperature: 1.0, seed, ..Sampling::GREEDY }, ..ask(&prompt(7, 9), 3) })
        .collect();
    let ids: Vec<RequestId> = asks.iter().map(|ask| world.submit(ask).unwrap()).collect();
    world.settle();
    for (ask, id) in asks.iter().zip(ids) {
        assert_eq!(world.answer(id), alone(ask));
    }
    // Two blocks of prompt, once; each request's third block holds its own tokens.
    assert_eq!(world.handle.stats().cached_blocks, 2);
}

#[test]
fn the_last_used_tail_is_evicted_first() {
    let mut world = World::new(DEVICE, 1, Config { pinned_blocks_max: 0, ..Config::for_device(&DEVICE) });
    answer(&mut world, &ask(&prompt(100, 41), 1));
    answer(&mut world, &ask(&prompt(200, 41), 1));
    // 20 blocks are cached, 12 are free without content; 13 are needed now: one block goes, the end of the older prompt.
    answer(&mut world, &ask(&prompt(300, 50), 2));
    let known = |prompt: &[u32]| {
        chain(prompt).iter().map(|hash| world.replay.lock().unwrap().blocks.contains_key(hash)).collect::<Vec<_>>()
    };
    assert_eq!(known(&prompt(200, 40)), [true; 10]);
    let mut expected = [true; 10];
    expected[9] = false;
    assert_eq!(known(&prompt(100, 40)), expected);
    world.check_list();
}

#[test]
fn a_long_prompt_is_computed_in_chunks_beside_the_others() {
    let mut world = World::new(DEVICE, 1, Config { prefill_chunk_tokens_max: 5, ..Config::for_device(&DEVICE) });
    let short = world.submit(&ask(&prompt(1, 3), 30)).unwrap();
    world.step();
    let long = world.submit(&ask(&prompt(500, 40), 2)).unwrap();
    for _ in 0..8 {
        world.step();
    }
    // Eight chunks of 5 took eight steps, and the short one got a token in each that settled.
    assert_eq!(world.answer(long).0.len(), 0);
    assert_eq!(world.answer(short).0.len(), 8);
    world.settle();
    assert_eq!(world.answer(long), alone(&ask(&prompt(500, 40), 2)));
    let decodes: u32 =
        world.reports.lock().unwrap().iter().flat_map(|report| &report.settled).map(|batch| batch.decode_tokens).sum();
    assert_eq!(decodes, 29 + 1, "all tokens but each request's first");
}

#[test]
fn who_needs_room_takes_it_from_the_last() {
    let capacity = Capacity { kv_blocks: 8, context_length: 32, ..DEVICE };
    for lag in [0, 1, 2] {
        let mut world = World::new(capacity, lag, Config::for_device(&capacity));
        // Each needs 8 blocks at its end, so that they cannot all run to it at once.
        let asks = [ask(&prompt(100, 7), 25), ask(&prompt(200, 7), 25), ask(&prompt(300, 7), 25)];
        let ids = asks.clone().map(|ask| world.submit(&ask).unwrap());
        world.settle();
        for (ask, id) in asks.iter().zip(ids) {
            let (tokens, reason) = ask.answer(&capacity, 32);
            assert_eq!(world.answer(id), (tokens, Some(reason)), "lag {lag}");
        }
        let preemptions = |id| match world.outputs(id).pop() {
            Some(Output::Finished(finished)) => finished.preemptions,
            other => panic!("{other:?}"),
        };
        let preemptions = ids.map(preemptions);
        assert_eq!(preemptions[0], 0, "the first is never preempted");
        assert!(preemptions[2] > 0, "{preemptions:?}");
        assert_eq!(world.handle.stats().preemptions, u64::from(preemptions.iter().sum::<u32>()));
    }
}

#[test]
fn the_end_is_seen_late_and_nothing_comes_behind_it() {
    let whole = ask(&prompt(3, 6), 20).answer(&DEVICE, 64).0;
    for (lag, batches) in [(0, 5), (1, 6), (2, 7)] {
        for as_eos in [true, false] {
            let mut world = world(lag);
            let mut ask = ask(&prompt(3, 6), 20);
            let end = if as_eos { &mut ask.eos } else { &mut ask.stop };
            end.push(whole[4]);
            answer(&mut world, &ask);
            // Five tokens were wanted; a late device computes one more for each batch that it is behind.
            assert_eq!(world.device.lock().unwrap().batches, batches, "lag {lag}");
        }
    }
}

#[test]
fn a_length_that_is_known_wastes_nothing() {
    for lag in [0, 1, 2] {
        let mut world = world(lag);
        answer(&mut world, &ask(&prompt(3, 6), 5));
        assert_eq!(world.device.lock().unwrap().batches, 5, "lag {lag}");
        assert_eq!(answer(&mut world, &ask(&prompt(3, 60), 99)), 4, "the context ends it");
    }
}

#[test]
fn an_abort_frees_in_the_next_step() {
    for lag in [0, 1] {
        let mut world = world(lag);
        let running = world.submit(&ask(&prompt(1, 10), 30)).unwrap();
        (0..3).for_each(|_| {
            world.step();
        });
        let waiting = world.submit(&ask(&prompt(1, 10), 30)).unwrap();
        assert!(world.handle.stats().used_blocks > 0);
        world.handle.abort(running, FinishReason::Stop);
        world.handle.abort(waiting, FinishReason::Aborted);
        world.handle.abort(RequestId(99), FinishReason::Aborted);
        world.step();
        let stats = world.handle.stats();
        assert_eq!((stats.used_blocks, stats.running, stats.waiting, stats.waiting_tokens), (0, 0, 0, 0), "lag {lag}");
        assert_eq!(world.answer(running).1, Some(FinishReason::Stop));
        assert_eq!(world.answer(waiting), (vec![], Some(FinishReason::Aborted)));
        world.handle.abort(running, FinishReason::Aborted);
        world.settle();
        assert_eq!(world.answer(running).1, Some(FinishReason::Stop), "once is enough");
    }
}

#[test]
fn a_client_that_hangs_up_is_freed() {
    for reads_max in [1, 2, 5] {
        let mut world = world(1);
        let id = world.submit(&Ask { reads_max: Some(reads_max), ..ask(&prompt(1, 10), 30) }).unwrap();
        world.settle();
        let (tokens, reason) = world.answer(id);
        assert_eq!((tokens.len(), reason), (reads_max - 1, Some(FinishReason::Aborted)));
        assert_eq!(world.handle.stats().used_blocks, 0);
    }
}

#[test]
fn admission_limits_turn_away_what_is_too_much() {
    let config = Config { waiting_max: 2, waiting_tokens_max: 70, ..Config::for_device(&DEVICE) };
    let mut world = World::new(DEVICE, 1, config);
    world.submit(&ask(&prompt(1, 40), 1)).unwrap();
    let tokens_full = Rejected::QueueTokensFull { tokens: 71, tokens_max: 70 };
    assert_eq!(world.submit(&ask(&prompt(1, 31), 1)), Err(tokens_full));
    world.submit(&ask(&prompt(1, 30), 1)).unwrap();
    assert_eq!(world.submit(&ask(&prompt(1, 1), 1)), Err(Rejected::QueueFull { waiting: 2, waiting_max: 2 }));
    assert_eq!(world.handle.stats().rejected, 2);
    world.settle();
    world.submit(&ask(&prompt(1, 40), 1)).expect("there is room again");
    world.handle.drain();
    assert_eq!(world.submit(&ask(&prompt(1, 1), 1)), Err(Rejected::Draining));
    while world.step() == Activity::Busy {}
    assert_eq!(world.step(), Activity::Ended);
    assert_eq!(world.handle.stats().finished, 3);
}

#[test]
fn a_request_without_a_number_fails_alone_and_leaves_nothing_behind() {
    for lag in [0, 1] {
        let mut world = world(lag);
        world.device.lock().unwrap().poisons = true;
        let mut poisoned = prompt(100, 10);
        poisoned[9] = POISON;
        let good = world.submit(&ask(&prompt(200, 6), 8)).unwrap();
        let bad = world.submit(&ask(&poisoned, 8)).unwrap();
        world.settle();
        assert_eq!(world.answer(good), alone(&ask(&prompt(200, 6), 8)));
        assert!(matches!(world.answer(bad), (tokens, Some(FinishReason::Error(_))) if tokens.is_empty()));
        let replay = world.replay.lock().unwrap();
        assert!(chain(&poisoned).iter().all(|hash| !replay.blocks.contains_key(hash)), "what it computed is not trusted");
        assert!(chain(&prompt(200, 6)).iter().all(|hash| replay.blocks.contains_key(hash)));
    }
}

#[test]
fn a_dead_device_tells_everybody() {
    let mut world = world(1);
    let running = world.submit(&ask(&prompt(1, 10), 30)).unwrap();
    world.step();
    world.device.lock().unwrap().fails = true;
    let waiting = world.submit(&ask(&prompt(1, 10), 30)).unwrap();
    let World { engine, handle, seen, .. } = world;
    assert!(engine.run().is_err());
    for id in [running, waiting] {
        let seen = seen[&id].lock().unwrap();
        let Some(Output::Finished(finished)) = seen.outputs.last() else { panic!("{:?}", seen.outputs) };
        assert_eq!(finished.reason, FinishReason::Error("watched: fell off the bus".into()));
    }
    assert!(!handle.is_alive());
}

#[test]
fn remote_kv_is_waited_for_without_holding_up_the_others() {
    let mut world = world(1);
    let remote = Ask { remote: true, ..ask(&prompt(100, 10), 4) };
    let id = world.submit(&remote).unwrap();
    assert_eq!(world.step(), Activity::Idle, "there is nothing to compute while it waits");
    assert_eq!(world.handle.stats().waiting_remote, 1);
    answer(&mut world, &ask(&prompt(200, 6), 8));
    assert_eq!(world.outputs(id), []);
    let transfer = world.transfers.lock().unwrap().pop().expect("a transfer began");
    assert_eq!((transfer.blocks.len(), transfer.cached_tokens), (3, 0));
    let batches = world.device.lock().unwrap().batches;
    world.end_transfer(&transfer, &remote.prompt, Some(10));
    world.settle();
    assert_eq!(world.answer(id), alone(&remote));
    assert_eq!(world.device.lock().unwrap().batches, batches + 4, "its prompt was not computed, but for the last token");
    let reports = world.reports.lock().unwrap();
    let admitted = reports.iter().flat_map(|report| &report.admitted).find(|report| report.request == id).unwrap();
    assert_eq!((admitted.cached_tokens, admitted.remote_tokens), (0, 9));
}

#[test]
fn a_failed_transfer_is_computed_here() {
    let mut world = world(1);
    answer(&mut world, &ask(&prompt(100, 5), 1));
    let remote = Ask { remote: true, ..ask(&prompt(100, 10), 4) };
    let id = world.submit(&remote).unwrap();
    world.settle();
    let transfer = world.transfers.lock().unwrap().pop().expect("a transfer began");
    assert_eq!(transfer.cached_tokens, 4, "what is cached here need not come");
    world.end_transfer(&transfer, &remote.prompt, None);
    world.handle.remote_done(id, RemoteOutcome::Received { tokens: 10 }).unwrap();
    world.settle();
    assert_eq!(world.answer(id), alone(&remote), "the second word about a transfer is not heard");
}

#[test]
fn blocks_of_an_aborted_transfer_are_kept_until_it_ends() {
    let mut world = world(1);
    let remote = Ask { remote: true, ..ask(&prompt(100, 10), 4) };
    let id = world.submit(&remote).unwrap();
    world.step();
    world.handle.abort(id, FinishReason::Aborted);
    world.step();
    assert_eq!(world.answer(id).1, Some(FinishReason::Aborted));
    assert_eq!(world.handle.stats().used_blocks, 3);
    let transfer = world.transfers.lock().unwrap().pop().expect("a transfer began");
    world.end_transfer(&transfer, &remote.prompt, None);
    world.step();
    assert_eq!(world.handle.stats().used_blocks, 0);
}

#[test]
fn remote_kv_beyond_what_may_be_pinned_is_computed_here() {
    let mut world = World::new(DEVICE, 1, Config { pinned_blocks_max: 4, ..Config::for_device(&DEVICE) });
    let first = Ask { remote: true, ..ask(&prompt(100, 10), 4) };
    let second = Ask { remote: true, ..ask(&prompt(200, 10), 4) };
    let ids = [world.submit(&first).unwrap(), world.submit(&second).unwrap()];
    world.settle();
    assert_eq!(world.answer(ids[1]), alone(&second));
    assert_eq!(world.transfers.lock().unwrap().len(), 1);
    let transfer = world.transfers.lock().unwrap().pop().unwrap();
    world.end_transfer(&transfer, &first.prompt, Some(7));
    world.settle();
    assert_eq!(world.answer(ids[0]), alone(&first), "a part that came is used");
}

fn lease(world: &mut World, prompt: &[u32], time: Duration) -> Option<Leased> {
    let (sender, receiver) = mpsc::channel();
    let expires = world.clock.now() + time;
    world.handle.lease(chain(prompt), expires, move |leased| sender.send(leased).unwrap()).unwrap();
    world.step();
    receiver.recv().unwrap()
}

#[test]
fn leased_blocks_stay_until_the_lease_ends() {
    let mut world = world(1);
    answer(&mut world, &ask(&prompt(100, 20), 1));
    assert_eq!(lease(&mut world, &prompt(101, 20), Duration::from_secs(1)), None);
    let leased = lease(&mut world, &prompt(100, 20), Duration::from_secs(1)).expect("its blocks are cached");
    assert_eq!((leased.blocks, world.handle.stats().used_blocks), (5, 5));
    // Fills the pool again and again: the leased blocks are not taken.
    for first in 0..5 {
        answer(&mut world, &ask(&prompt(300 + 50 * first, 50), 10));
    }
    assert_eq!(answer(&mut world, &ask(&prompt(100, 20), 1)), 16);
    world.handle.renew(leased.id, world.clock.now() + Duration::from_secs(9)).unwrap();
    world.clock.advance(Duration::from_secs(2));
    world.step();
    assert_eq!(world.handle.stats().used_blocks, 5);
    world.clock.advance(Duration::from_secs(8));
    world.step();
    assert_eq!((world.handle.stats().used_blocks, world.handle.stats().leases), (0, 0));
    world.handle.renew(leased.id, world.clock.now() + Duration::from_secs(9)).unwrap();
    world.step();
    assert_eq!(world.handle.stats().leases, 0, "a lease that has ended stays ended");
    let leased = lease(&mut world, &prompt(100, 20), Duration::from_secs(1)).expect("its blocks are cached");
    world.handle.release(leased.id).unwrap();
    world.step();
    assert_eq!(world.handle.stats().used_blocks, 0);
}

#[test]
fn leases_keep_no_more_than_may_be_pinned() {
    let mut world = World::new(DEVICE, 1, Config { pinned_blocks_max: 7, ..Config::for_device(&DEVICE) });
    answer(&mut world, &ask(&prompt(100, 20), 1));
    let blocks: Vec<Option<usize>> =
        (0..3).map(|_| lease(&mut world, &prompt(100, 20), Duration::from_secs(1)).map(|leased| leased.blocks)).collect();
    assert_eq!(blocks, [Some(5), Some(2), None]);
}

#[test]
fn the_prefix_cache_is_reset_when_nothing_runs() {
    let mut world = world(1);
    let reset = |world: &mut World| {
        let (sender, receiver) = mpsc::channel();
        world.handle.reset_prefix_cache(Reset::default(), move |done| sender.send(done).unwrap()).unwrap();
        world.step();
        receiver.recv().unwrap()
    };
    let id = world.submit(&ask(&prompt(100, 10), 5)).unwrap();
    world.step();
    world.step();
    assert!(!reset(&mut world));
    world.settle();
    assert!(world.answer(id).1.is_some());
    assert!(reset(&mut world));
    assert_eq!(world.handle.stats().cached_blocks, 0);
    assert_eq!(answer(&mut world, &ask(&prompt(100, 10), 5)), 0);
}

#[test]
fn the_report_tells_times_and_tokens() {
    let mut world = World::new(DEVICE, 1, Config { max_num_seqs: 1, ..Config::for_device(&DEVICE) });
    let first = world.submit(&ask(&prompt(1, 10), 3)).unwrap();
    let second = world.submit(&ask(&prompt(50, 4), 1)).unwrap();
    world.settle();
    let ms = Duration::from_millis;
    let reports = std::mem::take(&mut *world.reports.lock().unwrap());
    let of = |id| reports.iter().flat_map(|report| &report.finished).find(|report| report.request == id).unwrap();
    // Launched in step 1, its tokens settle in steps 2, 3 and 4; a step is 1 ms.
    let report = of(first);
    assert_eq!((report.queue, report.prefill, report.decode), (Some(ms(1)), Some(ms(1)), Some(ms(2))));
    assert_eq!((report.e2e, report.inference, report.generated_tokens), (ms(4), Some(ms(3)), 3));
    // The slot is free when the last token has settled: the second is admitted in step 5.
    assert_eq!((of(second).queue, of(second).e2e), (Some(ms(5)), ms(6)));
    let first_tokens: Vec<Duration> = reports.iter().flat_map(|report| report.first_token.clone()).collect();
    assert_eq!(first_tokens, [ms(2), ms(6)]);
    let between: Vec<Duration> = reports.iter().flat_map(|report| report.inter_token.clone()).collect();
    assert_eq!(between, [ms(1), ms(1)]);
    let tokens: Vec<(u32, u32)> =
        reports.iter().flat_map(|report| &report.settled).map(|batch| (batch.prefill_tokens, batch.decode_tokens)).collect();
    assert_eq!(tokens, [(10, 0), (0, 1), (0, 1), (4, 0)]);
    let stats = world.handle.stats();
    assert_eq!((stats.prompt_tokens, stats.generated_tokens, stats.finished), (14, 4, 2));
}

#[test]
fn all_can_be_aborted_at_once() {
    let mut world = world(1);
    let ids: Vec<RequestId> = (0..6).map(|first| world.submit(&ask(&prompt(first, 10), 30)).unwrap()).collect();
    let remote = world.submit(&Ask { remote: true, ..ask(&prompt(100, 10), 4) }).unwrap();
    (0..3).for_each(|_| {
        world.step();
    });
    world.handle.abort_all(FinishReason::Aborted).unwrap();
    world.settle();
    for id in ids.into_iter().chain([remote]) {
        assert_eq!(world.answer(id).1, Some(FinishReason::Aborted));
    }
    let transfer = world.transfers.lock().unwrap().pop().expect("a transfer began");
    world.end_transfer(&transfer, &prompt(100, 10), None);
    world.settle();
    assert_eq!(world.handle.stats().used_blocks, 0);
}

#[test]
fn commands_beyond_what_may_wait_are_refused_and_counted() {
    let mut world = World::new(DEVICE, 1, Config { commands_max: 2, ..Config::for_device(&DEVICE) });
    let results: Vec<Result<(), Busy>> = (0..3).map(|_| world.handle.reset_prefix_cache(Reset::default(), |_| ())).collect();
    assert_eq!(results, [Ok(()), Ok(()), Err(Busy::QueueFull)]);
    assert_eq!(world.handle.stats().dropped_commands, 1);
    world.step();
    assert_eq!(world.handle.reset_prefix_cache(Reset::default(), |_| ()), Ok(()));
    let World { engine, handle, .. } = world;
    drop(engine);
    assert_eq!(handle.reset_prefix_cache(Reset::default(), |_| ()), Err(Busy::EngineDead));
}

/// On a device with one token, every draft is right.
#[test]
fn drafts_that_are_right_save_steps() {
    let capacity = Capacity { vocabulary: 1, ..DEVICE };
    let speculation = Speculation { tokens: 6, lookup_min: 2, lookup_max: 3, batch_max: 2, acceptance_min: 0.4 };
    let config = Config { speculation: Some(speculation), ..Config::for_device(&DEVICE) };
    for lag in [0, 1] {
        let mut world = World::new(capacity, lag, config.clone());
        let asked = ask(&[0; 10], 40);
        let id = world.submit(&asked).unwrap();
        world.settle();
        assert_eq!(world.answer(id), (vec![0; 40], Some(FinishReason::Length)), "lag {lag}");
        let stats = world.handle.stats();
        // 1 token from the prompt, then 4, 7, 7, 7, 7 and 7.
        assert_eq!((stats.drafts, stats.draft_tokens, stats.accepted_tokens), (6, 33, 33), "lag {lag}");
        assert_eq!(world.device.lock().unwrap().batches, 7, "lag {lag}");
        let reports = world.reports.lock().unwrap();
        let drafts: Vec<u32> = reports.iter().flat_map(|report| &report.drafts).map(|draft| draft.drafted).collect();
        assert_eq!(drafts, [3, 6, 6, 6, 6, 6], "lag {lag}");
    }
}

#[test]
fn a_large_batch_goes_without_drafts() {
    let capacity = Capacity { vocabulary: 1, ..DEVICE };
    let config =
        Config { speculation: Some(Speculation { batch_max: 2, ..Speculation::ngram(4) }), ..Config::for_device(&DEVICE) };
    let mut world = World::new(capacity, 0, config);
    // Short of a block that could be shared, so that all three are admitted at once.
    let ids = [0; 3].map(|_| world.submit(&ask(&[0; 4], 20)).unwrap());
    world.settle();
    assert!(ids.iter().all(|id| world.answer(*id).0.len() == 20));
    assert_eq!(world.handle.stats().draft_tokens, 0);
}

/// The whole context, told position by position, in chunks as large as the device has rows of logits for.
#[test]
fn a_prompt_is_told_of_in_chunks_whatever_is_cached() {
    for lag in [0, 1] {
        let mut world = world(lag);
        let asked = ask(&prompt(100, 30), 3);
        answer(&mut world, &asked);
        let told = Ask { extras: SamplingExtras { prompt_logprobs: Some(2), ..SamplingExtras::default() }, ..asked };
        let id = world.submit(&told).unwrap();
        world.settle();
        assert_eq!(cached_tokens(&world, id), 0, "cached blocks hold no logits");
        let (seen, _) = world.told(id);
        let expected = oracle::prompt_logprobs(&told, 2, &DEVICE);
        assert_eq!((seen.len(), expected.len()), (29, 29));
        seen.iter().zip(&expected).for_each(|(seen, expected)| oracle::assert_told(seen, expected));
        assert!(world.outputs(id).iter().filter(|output| matches!(output, Output::PromptLogprobs(_))).count() >= 4);
    }
}

/// A mask that fails, by saying so or by a panic, costs its own request alone.
#[test]
fn a_grammar_that_fails_fails_its_request_alone() {
    struct Broken(bool);
    impl LogitMask for Broken {
        fn begin(&mut self) {}
        fn join(&mut self) -> Result<&[u32], MaskError> {
            if self.0 { Err(MaskError("too deep".into())) } else { panic!("a bug of the matcher") }
        }
        fn accept(&mut self, _: u32) -> Result<Accepted, MaskError> {
            Ok(Accepted::More)
        }
    }
    for (says, reason) in [(true, "structured output: too deep"), (false, "structured output: the grammar's matcher failed")] {
        let mut world = world(0);
        let good = world.submit(&ask(&prompt(200, 6), 8)).unwrap();
        let bad = world.submit_masked(&ask(&prompt(100, 6), 8), Some(Box::new(Broken(says)))).unwrap();
        world.settle();
        assert_eq!(world.answer(good), alone(&ask(&prompt(200, 6), 8)));
        assert_eq!(world.answer(bad), (vec![], Some(FinishReason::Error(reason.into()))));
    }
}

/// Case A5: what names tokens that the model does not have is refused by its name, as is what cannot be.
#[test]
fn what_cannot_be_is_refused_by_name() {
    let check = |extras: SamplingExtras, parameter: &str| {
        let mut world = world(0);
        let refused = world.submit(&Ask { extras: extras.clone(), ..ask(&prompt(1, 4), 1) }).expect_err("it is refused");
        match &refused {
            Rejected::TokenOutsideVocabulary { parameter: named, token: 1000, vocabulary: 1000 } if *named == parameter => {}
            Rejected::Parameter { parameter: named, .. } if *named == parameter => {}
            other => panic!("{other:?} for {extras:?}"),
        }
        assert!(refused.to_string().contains(parameter), "{refused}");
    };
    let none = SamplingExtras::default;
    check(SamplingExtras { logit_bias: vec![(3, 1.0), (1000, 5.0)], ..none() }, "logit_bias");
    check(SamplingExtras { logit_bias: vec![(3, f32::NAN)], ..none() }, "logit_bias");
    check(SamplingExtras { bad_words: vec![vec![1], vec![2, 1000]], ..none() }, "bad_words");
    check(SamplingExtras { bad_words: vec![vec![]], ..none() }, "bad_words");
    check(SamplingExtras { allowed_token_ids: Some(vec![1000]), ..none() }, "allowed_token_ids");
    check(SamplingExtras { allowed_token_ids: Some(vec![]), ..none() }, "allowed_token_ids");
    check(SamplingExtras { logprob_token_ids: vec![1000], ..none() }, "logprob_token_ids");
    check(SamplingExtras { logprobs: Some(21), ..none() }, "logprobs");
    check(SamplingExtras { prompt_logprobs: Some(21), ..none() }, "prompt_logprobs");
    check(SamplingExtras { presence_penalty: 2.1, ..none() }, "presence_penalty");
    check(SamplingExtras { frequency_penalty: f32::NAN, ..none() }, "frequency_penalty");
    check(SamplingExtras { repetition_penalty: 0.0, ..none() }, "repetition_penalty");
}
