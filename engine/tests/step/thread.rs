//! The engine as others meet it: a thread behind a handle.

use std::sync::mpsc;
use std::time::{Duration, Instant};

use domain::ExtraKeys;
use engine::backend::Capacity;
use engine::backend::fake::{Fake, RealTime, Speed, expected};
use engine::config::{Config, HASH_SEED};
use engine::handle::Handle;
use engine::kv::hash::BlockHasher;
use engine::request::{FinishReason, FinishRules, Finished, NewRequest, Output, Rejected, Sampling};
use engine::step::{Engine, Ports};

const DEVICE: Capacity =
    Capacity { vocabulary: 1000, context_length: 64, block_tokens: 4, kv_blocks: 32, slots: 4, batch_tokens: 16, logit_rows: 12 };

fn start(config: Config) -> (Handle, std::thread::JoinHandle<()>) {
    let fake = Fake::new(DEVICE, Speed::INSTANT, Box::new(RealTime));
    let (engine, handle) = Engine::new(Box::new(fake), config, Ports::new(Instant::now)).expect("the limits suit the device");
    (handle, std::thread::spawn(move || engine.run().expect("the fake device does not fail")))
}

fn request(prompt: &[u32], tokens_max: u32) -> (NewRequest, mpsc::Receiver<Output>) {
    let (sender, receiver) = mpsc::channel();
    let request = NewRequest {
        prompt: prompt.into(),
        extra: ExtraKeys::default(),
        sampling: Sampling::GREEDY,
        extras: None,
        mask: None,
        finish: FinishRules { tokens_max, ..FinishRules::default() },
        priority: 0,
        kv_transfer: Some("{}".into()),
        remote_kv: false,
        arrived: Instant::now(),
        sink: Box::new(move |output| sender.send(output).is_ok()),
    };
    (request, receiver)
}

fn continued(prompt: &[u32], tokens: usize) -> Vec<u32> {
    let mut sequence = prompt.to_vec();
    for index in 0..tokens {
        sequence.push(expected(&sequence, &Sampling::GREEDY, index as u32, &DEVICE));
    }
    sequence.split_off(prompt.len())
}

#[test]
fn a_request_is_admitted_answered_and_finished() {
    let (handle, thread) = start(Config::for_device(&DEVICE));
    let prompt: Vec<u32> = (0..21).collect();
    let (request, outputs) = request(&prompt, 9);
    handle.submit(request).expect("there is room");
    let outputs: Vec<Output> = outputs.iter().collect();
    let mut wanted = vec![Output::Admitted { cached_tokens: 0 }];
    wanted.extend(continued(&prompt, 9).into_iter().map(|token| Output::Token { token, logprobs: None }));
    wanted.push(Output::Finished(Finished {
        reason: FinishReason::Length,
        prompt_tokens: 21,
        cached_tokens: 0,
        generated_tokens: 9,
        preemptions: 0,
        kv_transfer: Some("{}".into()),
    }));
    assert_eq!(outputs, wanted);
    handle.drain();
    thread.join().expect("the thread ends in peace");
    assert!(!handle.is_alive());
    assert_eq!(handle.submit(self::request(&prompt, 1).0), Err(Rejected::EngineDead));
}

#[test]
fn many_threads_get_what_each_would_get_alone() {
    let (handle, thread) = start(Config::for_device(&DEVICE));
    std::thread::scope(|scope| {
        for client in 0..8u32 {
            let handle = handle.clone();
            scope.spawn(move || {
                for turn in 0..50u32 {
                    let prompt: Vec<u32> = (0..1 + (client * 7 + turn) % 40).map(|i| i * (client % 3 + 1)).collect();
                    let tokens = 1 + (client + turn) % 20;
                    let (request, outputs) = request(&prompt, tokens);
                    handle.submit(request).expect("there is room");
                    let tokens_seen: Vec<u32> = outputs
                        .iter()
                        .filter_map(|output| match output {
                            Output::Token { token, .. } => Some(token),
                            Output::Admitted { .. } | Output::PromptLogprobs(_) | Output::Pooled(_) | Output::Finished(_) => None,
                        })
                        .collect();
                    assert_eq!(tokens_seen, continued(&prompt, tokens as usize), "client {client} turn {turn}");
                }
            });
        }
    });
    // A client hears of its end in the middle of a step; what the step did is shown at its end, and after that it answers this.
    let (sender, shown) = mpsc::channel();
    handle.resume(move || sender.send(()).expect("the test waits")).expect("there is room for a command");
    shown.recv().expect("the engine answers");
    let stats = handle.stats();
    assert_eq!((stats.finished, stats.running, stats.waiting, stats.waiting_tokens), (400, 0, 0, 0));
    assert_eq!(stats.used_blocks + stats.free_blocks, DEVICE.kv_blocks);
    assert!(stats.prefix_hit_tokens > 0);
    // The last handle goes: the thread ends by itself.
    drop(handle);
    thread.join().expect("the thread ends in peace");
}

#[test]
fn the_door_refuses_what_the_engine_cannot_serve() {
    let (handle, _thread) = start(Config { stop_ids_max: 2, pinned_blocks_max: 20, ..Config::for_device(&DEVICE) });
    let check = |prompt: &[u32], stop: &[u32], expected: Rejected| {
        let (mut request, outputs) = request(prompt, 1);
        request.finish.stop = stop.to_vec();
        assert_eq!(handle.submit(request), Err(expected));
        assert_eq!(outputs.iter().count(), 0, "a refused request has no outputs");
    };
    check(&[], &[], Rejected::EmptyPrompt);
    check(&[0; 64], &[], Rejected::PromptTooLong { tokens: 64, context_length: 64 });
    check(&[0; 48], &[], Rejected::NeverFits { blocks: 13, pool_blocks: 12 });
    check(&[0, 1000], &[], Rejected::TokenOutsideVocabulary { parameter: "prompt", token: 1000, vocabulary: 1000 });
    check(
        &[0],
        &[1, u32::MAX],
        Rejected::TokenOutsideVocabulary { parameter: "stop_token_ids", token: u32::MAX, vocabulary: 1000 },
    );
    check(&[0], &[1, 2, 3], Rejected::TooManyStopIds { ids: 3, ids_max: 2 });
}

#[test]
fn an_idle_engine_wakes_when_a_lease_ends() {
    let (handle, _thread) = start(Config::for_device(&DEVICE));
    let prompt: Vec<u32> = (0..8).collect();
    let (request, outputs) = request(&prompt, 1);
    handle.submit(request).expect("there is room");
    assert_eq!(outputs.iter().count(), 3);
    let mut chain = Vec::new();
    BlockHasher::new(HASH_SEED, DEVICE.block_tokens).extend(&mut chain, &prompt, &ExtraKeys::default());
    let (sender, leased) = mpsc::channel();
    let expires = Instant::now() + Duration::from_millis(5);
    handle.lease(chain, expires, move |leased| sender.send(leased).expect("the test waits for it")).expect("there is room");
    assert_eq!(leased.recv().ok().flatten().map(|leased| leased.blocks), Some(2));
    // Nothing but the lease's end wakes the engine now.
    while Instant::now() < expires || handle.stats().used_blocks > 0 {
        assert!(Instant::now() < expires + Duration::from_secs(30), "the lease does not end");
        std::thread::yield_now();
    }
}
