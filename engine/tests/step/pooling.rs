//! An engine that embeds, by chance: whatever arrives beside a prompt, in whatever chunks, in however small a pool, and whoever goes away, each
//! prompt's vector is that which the fake device makes of it alone.

use std::sync::{Arc, Mutex};
use std::time::Instant;

use engine::backend::Capacity;
use engine::backend::fake::{Fake, RealTime, Speed, expected_vector};
use engine::config::Config;
use engine::request::{FinishReason, FinishRules, NewRequest, Output, Rejected, Sampling};
use engine::step::{Activity, Engine, Ports};
use engine_assets::Pooling;
use proptest::prelude::*;

const WIDTH: usize = 3;

fn request(prompt: &[u32]) -> (NewRequest, Arc<Mutex<Vec<Output>>>) {
    let seen = Arc::new(Mutex::new(Vec::new()));
    let told = Arc::clone(&seen);
    let sink = Box::new(move |output| {
        told.lock().unwrap().push(output);
        true
    });
    let finish = FinishRules { tokens_max: 1, ..FinishRules::default() };
    (NewRequest::new(prompt.into(), Sampling::GREEDY, finish, Instant::now(), sink), seen)
}

fn device(kv_blocks: usize) -> Capacity {
    Capacity { vocabulary: 1000, context_length: 64, block_tokens: 4, kv_blocks, slots: 4, batch_tokens: 24, logit_rows: 24 }
}

fn engine(pooling: Pooling, lag: usize, kv_blocks: usize, chunk: usize) -> (Engine, engine::handle::Handle) {
    let capacity = device(kv_blocks);
    let fake = Fake::new(capacity, Speed { lag, ..Speed::INSTANT }, Box::new(RealTime)).pooling(pooling, WIDTH);
    let default = Config::for_device(&capacity);
    let prefix_caching = pooling.allows_cached();
    let limits = Config { pooling: Some(pooling), prefix_caching, prefill_chunk_tokens_max: chunk, ..default };
    let config = Config { pinned_blocks_max: 0, max_model_len: 40, ..limits };
    Engine::new(Box::new(fake), config, Ports::new(Instant::now)).unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn vectors_depend_on_the_prompt_alone(
        pooling in prop::sample::select(vec![Pooling::Cls, Pooling::Last, Pooling::Mean]),
        lag in 0usize..2,
        kv_blocks in 11usize..40,
        chunk in 1usize..25,
        // Steps before it, its length, how many tokens it shares, and after how many steps it is aborted.
        asks in prop::collection::vec((0usize..4, 1usize..=40, 0usize..20, prop::option::weighted(0.2, 0usize..6)), 1..20),
    ) {
        let (mut engine, handle) = engine(pooling, lag, kv_blocks, chunk);
        let (mut open, mut steps) = (Vec::new(), 0);
        for (number, (after, length, shared, abort)) in asks.into_iter().enumerate() {
            for _ in 0..after {
                engine.step().unwrap();
                engine.check();
                steps += 1;
            }
            let prompt: Vec<u32> = (0..length).map(|at| if at < shared { at as u32 } else { (number * 50 + at) as u32 % 1000 }).collect();
            let (request, seen) = request(&prompt);
            let id = handle.submit(request).unwrap();
            open.push((prompt, seen, id, abort.map(|later| steps + later)));
            for (_, _, id, _) in open.iter().filter(|(_, _, _, abort)| abort.is_some_and(|at| at <= steps)) {
                handle.abort(*id, FinishReason::Aborted);
            }
        }
        while engine.step().unwrap() == Activity::Busy {
            engine.check();
        }
        for (prompt, seen, _, abort) in open {
            let seen = seen.lock().unwrap();
            let Some(Output::Finished(finished)) = seen.last() else { panic!("{seen:?}") };
            let vectors: Vec<&Output> = seen.iter().filter(|output| matches!(output, Output::Pooled(_))).collect();
            if finished.reason == FinishReason::Aborted {
                prop_assert!(abort.is_some() && vectors.is_empty());
                continue;
            }
            prop_assert_eq!((&finished.reason, finished.generated_tokens), (&FinishReason::Pooled, 0));
            let expected = Output::Pooled(expected_vector(&prompt, pooling, WIDTH).into());
            prop_assert_eq!(vectors, vec![&expected]);
        }
        let stats = handle.stats();
        prop_assert_eq!((stats.used_blocks, stats.running, stats.waiting, stats.generated_tokens), (0, 0, 0, 0));
    }
}

#[test]
fn a_prompt_may_fill_the_context_and_no_more() {
    let (mut engine, handle) = engine(Pooling::Mean, 1, 40, 7);
    let (longest, seen) = request(&[7; 40]);
    handle.submit(longest).unwrap();
    while engine.step().unwrap() == Activity::Busy {}
    assert!(seen.lock().unwrap().iter().any(|output| matches!(output, Output::Pooled(_))));
    let refused = handle.submit(request(&[7; 41]).0).map(|_| ());
    assert_eq!(refused, Err(Rejected::TextTooLong { tokens: 41, context_length: 40 }));
}
