//! The lower tiers by hand: what leaves the device comes back, and what goes wrong costs nobody his answer.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use engine::backend::Capacity;
use engine::config::Config;
use engine::handle::Reset;
use engine::kv::event::Medium;
use engine::request::{FinishReason, Output};
use engine::step::Activity;

use crate::disk::{Faults, Platter};
use crate::world::{Ask, World, ask};

/// Eight blocks: one prompt of 24 tokens fills most of them.
const DEVICE: Capacity =
    Capacity { vocabulary: 1000, context_length: 32, block_tokens: 4, kv_blocks: 8, slots: 4, batch_tokens: 16, logit_rows: 16 };

fn prompt(first: u32) -> Vec<u32> {
    (first..first + 24).collect()
}

fn config(host_blocks: usize, disk_blocks: usize) -> Config {
    Config { host_blocks, disk_blocks, ..Config::for_device(&DEVICE) }
}

fn platter(faults: Faults) -> Platter {
    Platter::new(faults)
}

const QUICK: Faults = Faults { delay: 1, loses_every: None, fails_after: None, room: usize::MAX };

/// Runs `prompt(first)` to its end, checks the answer, and says how many of its tokens were cached, came from the host, from the disk.
fn answer(world: &mut World, first: u32) -> (u32, u32, u32) {
    let ask: Ask = ask(&prompt(first), 3);
    let id = world.submit(&ask).expect("there is room");
    world.settle();
    let (tokens, reason) = ask.answer(&DEVICE, DEVICE.context_length);
    assert_eq!(world.answer(id), (tokens, Some(reason)));
    let reports = world.reports.lock().unwrap();
    let admitted = reports.iter().flat_map(|report| &report.admitted).find(|report| report.request == id).expect("admitted");
    (admitted.cached_tokens, admitted.host_tokens, admitted.disk_tokens)
}

#[test]
fn what_leaves_the_device_comes_back_from_the_host() {
    for lag in [0, 1] {
        let mut world = World::new(DEVICE, lag, config(32, 0));
        for first in [100, 200, 300] {
            assert_eq!(answer(&mut world, first), (0, 0, 0));
        }
        let (cached, host, disk) = answer(&mut world, 100);
        // One block's last token is computed again.
        assert_eq!((cached, disk), (20, 0));
        assert!(host >= 16, "{host} tokens came from the host");
        let stats = world.handle.stats();
        assert_eq!(stats.lower_hit_tokens, u64::from(host));
        assert_eq!(stats.prefix_hit_tokens, u64::from(cached - host), "hits of the device are counted apart");
        assert_eq!(stats.tiers.host_loaded, u64::from(host) / 4);
        world.check_list();
    }
}

#[test]
fn what_leaves_the_host_comes_back_from_the_disk() {
    let mut world = World::with_disk(DEVICE, 1, config(2, 64), platter(QUICK));
    for first in [100, 200, 300, 400] {
        assert_eq!(answer(&mut world, first), (0, 0, 0));
    }
    let (cached, host, disk) = answer(&mut world, 100);
    assert_eq!((cached, host, disk), (20, 0, 20));
    assert_eq!(world.handle.stats().tiers.disk_read, 5);
    world.check_list();
}

#[test]
fn nobody_waits_for_another_requests_disk() {
    let mut world = World::with_disk(DEVICE, 1, config(1, 64), platter(Faults { delay: 50, ..QUICK }));
    for first in [100, 200, 300] {
        answer(&mut world, first);
    }
    let slow = world.submit(&ask(&prompt(100), 3)).unwrap();
    assert_eq!(world.step(), Activity::Idle, "there is nothing to compute while the disk reads");
    assert_eq!(world.handle.stats().waiting_remote, 1);
    let quick = world.submit(&ask(&[7, 8, 9], 3)).unwrap();
    world.steps(6);
    assert!(world.answer(quick).1.is_some(), "it overtakes");
    assert_eq!(world.outputs(slow), []);
    world.steps(400);
    let (tokens, reason) = ask(&prompt(100), 3).answer(&DEVICE, 32);
    assert_eq!(world.answer(slow), (tokens, Some(reason)));
}

#[test]
fn a_slow_disk_is_waited_for_until_the_deadline_and_no_longer() {
    let limits = Config { restore_wait_max: Duration::from_millis(10), ..config(1, 64) };
    let mut world = World::with_disk(DEVICE, 1, limits, platter(Faults { delay: 1000, ..QUICK }));
    for first in [100, 200, 300] {
        answer(&mut world, first);
    }
    let id = world.submit(&ask(&prompt(100), 3)).unwrap();
    world.steps(30);
    let (tokens, reason) = ask(&prompt(100), 3).answer(&DEVICE, 32);
    assert_eq!(world.answer(id), (tokens, Some(reason)), "it is computed here");
    assert_eq!(world.handle.stats().tiers.restores_late, 1);
}

#[test]
fn a_request_that_ends_while_it_is_restored_leaves_nothing_behind() {
    let mut world = World::with_disk(DEVICE, 1, config(1, 64), platter(Faults { delay: 5, ..QUICK }));
    for first in [100, 200, 300] {
        answer(&mut world, first);
    }
    let id = world.submit(&ask(&prompt(100), 3)).unwrap();
    world.steps(8);
    world.handle.abort(id, FinishReason::Aborted);
    world.step();
    assert!(matches!(world.outputs(id).last(), Some(Output::Finished(_))));
    assert_eq!(world.handle.stats().used_blocks, 0);
    world.settle();
    assert_eq!(answer(&mut world, 400), (0, 0, 0));
}

#[test]
fn damage_and_failure_cost_a_computation_and_no_answer() {
    let check = |faults: Faults, failed: bool| {
        let mut world = World::with_disk(DEVICE, 1, config(1, 64), platter(faults));
        for first in [100, 200, 300, 100, 200, 300] {
            answer(&mut world, first);
        }
        let stats = world.handle.stats();
        assert_eq!(stats.disk_failed, failed, "{faults:?}");
        assert_eq!(stats.disk_blocks == 0, failed, "a disk that failed holds nothing");
        assert!(failed || stats.tiers.disk_lost > 0);
        world.check_list();
    };
    check(Faults { loses_every: Some(2), ..QUICK }, false);
    check(Faults { loses_every: Some(1), ..QUICK }, false);
    check(Faults { fails_after: Some(0), ..QUICK }, true);
    check(Faults { fails_after: Some(3), ..QUICK }, true);
}

#[test]
fn a_disk_that_cannot_keep_up_drops_and_counts() {
    let mut world = World::with_disk(DEVICE, 1, config(1, 64), platter(Faults { room: 1, ..QUICK }));
    for first in [100, 200, 300, 100] {
        answer(&mut world, first);
    }
    assert!(world.handle.stats().tiers.disk_dropped > 0);
}

#[test]
fn another_life_finds_what_the_disk_kept() {
    let mut world = World::with_disk(DEVICE, 1, config(1, 64), platter(QUICK));
    for first in [100, 200, 300] {
        answer(&mut world, first);
    }
    let left = world.platter.lock().unwrap().content();
    let kept: BTreeSet<_> = world.replay.lock().unwrap().on(Medium::Disk).map(|(&hash, _)| hash).collect();
    let mut later = platter(QUICK);
    later.left = left;
    let mut world = World::with_disk(DEVICE, 1, config(1, 64), later);
    world.step();
    let found: BTreeSet<_> = world.replay.lock().unwrap().on(Medium::Disk).map(|(&hash, _)| hash).collect();
    // A block whose beginning lay on another tier cannot be reached any more.
    assert!(found.is_subset(&kept) && found.len() >= 5, "{} of {}", found.len(), kept.len());
    world.check_list();
    let (cached, _, disk) = answer(&mut world, 100);
    assert_eq!((cached, disk), (20, 20));
}

#[test]
fn a_reset_leaves_lower_tiers_alone() {
    let mut world = World::new(DEVICE, 1, config(32, 0));
    for first in [100, 200, 300] {
        answer(&mut world, first);
    }
    let done = Arc::new(Mutex::new(None));
    let reply = Arc::clone(&done);
    world.handle.reset_prefix_cache(Reset::default(), move |done| *reply.lock().unwrap() = Some(done)).unwrap();
    world.step();
    assert_eq!(*done.lock().unwrap(), Some(true));
    let stats = world.handle.stats();
    assert_eq!(stats.cached_blocks, 0);
    assert!(stats.host_blocks > 0);
    world.check_list();
    let (cached, host, _) = answer(&mut world, 100);
    assert_eq!(cached, host);
    assert!(host > 0);
}
