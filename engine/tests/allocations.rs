//! A steady step asks for no memory: counted, over the fake device.

use std::sync::Arc;
use std::time::Instant;

use allocation_counter::AllocationInfo;
use engine::backend::Capacity;
use engine::backend::fake::{Fake, RealTime, Speed};
use engine::config::Config;
use engine::request::{FinishRules, NewRequest, Output, Sampling, SamplingExtras};
use engine::step::{Engine, Ports};

const RUNNING: usize = 64;
const PROMPT_TOKENS: u32 = 32;
/// As many as it takes until every vector has its size, and a few blocks' worth counted.
const WARM_UP_STEPS: usize = 64;
const STEPS: usize = 200;

const DEVICE: Capacity = Capacity {
    vocabulary: 1000,
    context_length: 1024,
    block_tokens: 16,
    kv_blocks: RUNNING * 64,
    slots: RUNNING,
    batch_tokens: 512,
    logit_rows: RUNNING,
};

/// What [`STEPS`] steps of decoding allocate, each request sampling so.
fn allocated(sampling: Sampling, extras: Option<SamplingExtras>) -> AllocationInfo {
    let config = Config { pinned_blocks_max: 0, ..Config::for_device(&DEVICE) };
    let fake = Fake::new(DEVICE, Speed::INSTANT, Box::new(RealTime));
    let (mut engine, handle) = Engine::new(Box::new(fake), config, Ports::new(Instant::now)).expect("the limits suit the device");
    let extras = extras.map(Arc::new);
    for request in 0..RUNNING as u32 {
        let prompt = (0..PROMPT_TOKENS).map(|i| (i + request * 7) % 1000).collect();
        let finish = FinishRules { tokens_max: 900, eos: Vec::new(), stop: Vec::new(), repetition: None };
        let sink = Box::new(|_: Output| true);
        let request = NewRequest { extras: extras.clone(), ..NewRequest::new(prompt, sampling, finish, Instant::now(), sink) };
        handle.submit(request).expect("there is room");
    }
    for _ in 0..WARM_UP_STEPS {
        engine.step().expect("the device does not fail");
    }
    let tokens = handle.stats().generated_tokens;
    let info = allocation_counter::measure(|| {
        for _ in 0..STEPS {
            engine.step().expect("the device does not fail");
        }
    });
    assert_eq!(handle.stats().generated_tokens - tokens, (RUNNING * STEPS) as u64, "every step yields a token for each");
    info
}

#[test]
fn a_steady_decode_step_allocates_nothing() {
    let check = |sampling: Sampling, extras: Option<SamplingExtras>| {
        let info = allocated(sampling, extras.clone());
        assert_eq!(info.count_total, 0, "{} bytes with {sampling:?} and {extras:?}", info.bytes_total);
    };
    let drawn = Sampling { temperature: 0.8, top_k: 40, top_p: 0.9, min_p: 0.05, seed: 7 };
    check(Sampling::GREEDY, None);
    check(drawn, None);
    check(drawn, Some(SamplingExtras { presence_penalty: 0.5, ..SamplingExtras::default() }));
}

#[test]
fn what_allocates_is_counted() {
    let told = SamplingExtras { logprobs: Some(1), ..SamplingExtras::default() };
    assert!(allocated(Sampling::GREEDY, Some(told)).count_total >= (RUNNING * STEPS) as u64, "log-probabilities are boxed");
}

#[test]
fn thousands_of_mixed_requests_leave_no_memory_behind() {
    const REQUESTS: u32 = 3000;
    let device = Capacity { kv_blocks: 256, slots: 16, logit_rows: 32, ..DEVICE };
    let config = Config { pinned_blocks_max: 0, host_blocks: 64, step_time: None, ..Config::for_device(&device) };
    let fake = Fake::new(device, Speed::INSTANT, Box::new(RealTime));
    let (mut engine, handle) = Engine::new(Box::new(fake), config, Ports::new(Instant::now)).expect("the limits suit the device");
    // Short and long, greedy and drawn, with and without log-probabilities, some aborted: more than the blocks hold.
    let mut serve = |numbers: std::ops::Range<u32>| {
        for number in numbers {
            let prompt = (0..1 + number * 37 % 300).map(|i| (i + number % 50 * 7) % 1000).collect();
            let sampling = Sampling { temperature: (number % 2) as f32, seed: number.into(), ..Sampling::GREEDY };
            let finish = FinishRules { tokens_max: 1 + number * 13 % 60, eos: vec![2], stop: Vec::new(), repetition: None };
            let told = || Arc::new(SamplingExtras { logprobs: Some(number % 5), ..SamplingExtras::default() });
            let extras = number.is_multiple_of(3).then(told);
            let reads = number % 7;
            let sink = Box::new(move |output: Output| reads > 0 || !matches!(output, Output::Token { .. }));
            let request = NewRequest { extras, ..NewRequest::new(prompt, sampling, finish, Instant::now(), sink) };
            handle.submit(request).expect("there is room");
            while handle.stats().waiting + handle.stats().running > 24 {
                engine.step().expect("the device does not fail");
            }
        }
        while handle.stats().waiting + handle.stats().running > 0 {
            engine.step().expect("the device does not fail");
        }
    };
    serve(0..REQUESTS);
    let info = allocation_counter::measure(|| serve(REQUESTS..2 * REQUESTS));
    // What the cached blocks happen to share at the end differs by a little; a few words kept of each request would not.
    assert!(info.count_total > u64::from(REQUESTS), "requests allocate");
    assert!(info.bytes_current < i64::from(16 * REQUESTS), "{} bytes are left of {REQUESTS} requests", info.bytes_current);
}
