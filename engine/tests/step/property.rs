//! The step by chance: random devices, arrivals, aborts, hang-ups, transfers and leases; and whatever they are, every request ends
//! with the answer that it would get alone, no block leaks or is shared wrongly, and the events tell what is cached.

use std::time::Duration;

use engine::backend::fake::Pace;
use engine::backend::{Capacity, Sleep};
use engine::config::{Config, Policy};
use engine::handle::{PauseMode, Quiet, Reset, Wake};
use engine::kv::hash::{BlockHash, BlockHasher};
use engine::request::{FinishReason, RequestId, Sampling, SamplingExtras};
use engine::speculate::Speculation;
use engine::step::Activity;
use proptest::prelude::*;

use crate::disk::{Faults, Platter};
use crate::oracle::{self, Rule};
use crate::world::{Ask, Transfer, World, ask};

#[derive(Clone, Debug)]
struct Case {
    lag: usize,
    capacity: Capacity,
    config: Config,
    faults: Faults,
    events: Vec<Event>,
}

/// Something that comes from outside, some steps after the one before.
#[derive(Clone, Debug)]
enum Event {
    Submit {
        after: u8,
        ask: Box<Ask>,
        transfer_steps: u8,
        transferred: Option<u8>,
    },
    /// Aborts one of the requests submitted so far.
    Abort {
        after: u8,
        which: prop::sample::Index,
    },
    Lease {
        after: u8,
        prompt: Vec<u32>,
        steps: u8,
    },
    /// Pauses for some steps.
    Pause {
        after: u8,
        mode: PauseMode,
        quiet: Quiet,
        steps: u8,
    },
    Reset {
        after: u8,
        reset: (bool, bool),
    },
    List {
        after: u8,
    },
}

/// Prompts of one family begin alike.
fn prompt(family: u32, tokens: usize, vocabulary: u32) -> Vec<u32> {
    let token = |i: u32| (i * i * (family + 1) + i / 3 + family) % vocabulary;
    (0..tokens as u32).map(token).collect()
}

fn extras(vocabulary: u32) -> impl Strategy<Value = SamplingExtras> {
    let penalty = || prop_oneof![2 => Just(0.0f32), 1 => -2.0..2.0f32];
    let ids = move |most: usize| prop::collection::vec(0..vocabulary, 1..most);
    let penalties = (penalty(), penalty(), prop_oneof![2 => Just(1.0f32), 1 => 0.5..30.0f32]);
    let bias = prop::option::of((0..vocabulary, -50.0..50.0f32));
    let words = prop::collection::vec(ids(4), 0..3);
    let told = (prop::option::of(0..4u32), prop::option::weighted(0.3, 0..4u32), prop::option::weighted(0.2, ids(4)));
    (penalties, bias, prop_oneof![2 => Just(0u32), 1 => 0..8u32], words, prop::option::weighted(0.3, ids(6)), told).prop_map(
        |((presence_penalty, frequency_penalty, repetition_penalty), bias, min_tokens, bad_words, allowed_token_ids, told)| {
            let (logprobs, prompt_logprobs, named) = told;
            SamplingExtras {
                presence_penalty,
                frequency_penalty,
                repetition_penalty,
                logit_bias: bias.into_iter().collect(),
                min_tokens,
                ignored_eos: Vec::new(),
                bad_words,
                allowed_token_ids,
                logprobs,
                prompt_logprobs,
                logprob_token_ids: named.unwrap_or_default(),
            }
        },
    )
}

/// Plain requests, and some that ask for more.
fn asks(length_max: usize, vocabulary: u32) -> impl Strategy<Value = Ask> {
    let more = prop::option::weighted(0.4, extras(vocabulary));
    let rule =
        prop::option::weighted(0.15, (0..vocabulary, 1..12u32).prop_map(move |(step, tokens)| Rule { step, tokens, vocabulary }));
    (plain_asks(length_max, vocabulary), more, rule).prop_map(|(ask, extras, rule)| Ask {
        extras: extras.unwrap_or_default(),
        rule,
        ..ask
    })
}

fn plain_asks(length_max: usize, vocabulary: u32) -> impl Strategy<Value = Ask> {
    let sampling =
        prop_oneof![Just(Sampling::GREEDY), (0..4u64).prop_map(|seed| Sampling { temperature: 1.0, seed, ..Sampling::GREEDY })];
    let ends = (prop::option::weighted(0.3, 0..vocabulary), prop::option::weighted(0.3, 0..vocabulary));
    (0..3u32, 1..length_max, 1..20u32, sampling, ends, prop::bool::weighted(0.2), prop::option::weighted(0.1, 1..6usize))
        .prop_map(move |(family, tokens, tokens_max, sampling, (eos, stop), remote, reads_max)| Ask {
            sampling,
            eos: eos.into_iter().collect(),
            stop: stop.into_iter().collect(),
            remote,
            priority: i64::from(family) - 1,
            reads_max,
            ..ask(&prompt(family, tokens, vocabulary), tokens_max)
        })
}

fn pauses() -> impl Strategy<Value = (PauseMode, Quiet)> {
    let mode = prop_oneof![1 => Just(PauseMode::Abort), 2 => Just(PauseMode::Wait), 4 => Just(PauseMode::Keep)];
    let sleep = prop_oneof![Just(None), Just(Some(Sleep::Offload)), Just(Some(Sleep::Discard))];
    (mode, any::<bool>(), sleep).prop_map(|(mode, clear, sleep)| (mode, Quiet { clear, sleep }))
}

fn events(length_max: usize, vocabulary: u32) -> impl Strategy<Value = Event> {
    let after = || prop_oneof![3 => Just(0u8), 1 => 0..6u8];
    prop_oneof![
        12 => (after(), asks(length_max, vocabulary), 0..8u8, prop::option::weighted(0.7, 0..100u8))
            .prop_map(|(after, ask, transfer_steps, transferred)| {
                Event::Submit { after, ask: Box::new(ask), transfer_steps, transferred }
            }),
        3 => (after(), any::<prop::sample::Index>()).prop_map(|(after, which)| Event::Abort { after, which }),
        1 => (after(), 0..3u32, 1..length_max, 0..30u8)
            .prop_map(move |(after, family, tokens, steps)| Event::Lease { after, prompt: prompt(family, tokens, vocabulary), steps }),
        1 => (after(), pauses(), 0..9u8).prop_map(|(after, (mode, quiet), steps)| Event::Pause { after, mode, quiet, steps }),
        1 => (after(), any::<(bool, bool)>()).prop_map(|(after, reset)| Event::Reset { after, reset }),
        1 => after().prop_map(|after| Event::List { after }),
    ]
}

fn speculations() -> impl Strategy<Value = Option<Speculation>> {
    let any = (1..6usize, 1..3usize, 0..3usize, 1..6usize, prop_oneof![3 => Just(0.0f32), 1 => Just(0.4)]);
    let speculation = any.prop_map(|(tokens, lookup_min, more, batch_max, acceptance_min)| Speculation {
        tokens,
        lookup_min,
        lookup_max: lookup_min + more,
        batch_max,
        acceptance_min,
    });
    prop::option::weighted(0.7, speculation)
}

fn cases() -> impl Strategy<Value = Case> {
    let device = (0..3usize, 1..6usize, 3..24usize, 1..6usize, 0..12usize, prop_oneof![1..4u32, Just(11)]);
    let faults = (0..5usize, prop::option::weighted(0.3, 1..5usize), prop::option::weighted(0.2, 0..9usize), 0..6usize);
    let faults = faults.prop_map(|(delay, loses_every, fails_after, room)| Faults { delay, loses_every, fails_after, room });
    let tiers = prop_oneof![1 => Just((0, 0)), 1 => (1..9usize, Just(0)), 2 => (1..6usize, 1..12usize)];
    let limits = (1..12usize, prop::bool::weighted(0.85), 0..8usize, speculations());
    (device, limits, tiers, 1..8u64, faults).prop_flat_map(|(device, limits, tiers, wait_ms, faults)| {
        let (chunk, prefix_caching, pinned, speculation) = limits;
        let (lag, block_tokens, kv_blocks, slots, more_tokens, vocabulary) = device;
        let capacity = Capacity {
            vocabulary: vocabulary as usize,
            context_length: 40,
            block_tokens,
            kv_blocks,
            slots,
            batch_tokens: slots + more_tokens,
            logit_rows: slots + more_tokens / 2,
        };
        let config = Config {
            prefill_chunk_tokens_max: chunk,
            prefix_caching,
            pinned_blocks_max: pinned.min(kv_blocks - 2usize.div_ceil(block_tokens)),
            speculation,
            waiting_max: 12,
            waiting_tokens_max: 200,
            host_blocks: tiers.0,
            disk_blocks: tiers.1,
            restore_wait_max: Duration::from_millis(wait_ms),
            remote_wait_max: Duration::from_millis(wait_ms),
            policy: if wait_ms % 3 == 0 { Policy::Priority } else { Policy::Fcfs },
            step_time: Some(Duration::from_millis(wait_ms)).filter(|_| wait_ms % 2 == 0),
            ..Config::for_device(&capacity)
        };
        let length_max = config.length_max(&capacity);
        prop::collection::vec(events(length_max, vocabulary), 1..40).prop_map(move |events| Case {
            lag,
            capacity,
            config: config.clone(),
            faults,
            events,
        })
    })
}

/// A request that was let in, and what must become of it.
struct Open {
    id: RequestId,
    ask: Ask,
    transfer_steps: u8,
    transferred: Option<u8>,
    aborted: bool,
}

struct Run {
    world: World,
    open: Vec<Open>,
    length_max: usize,
    /// Transfers in progress, with the steps that they still take.
    transfers: Vec<(Transfer, u8)>,
    steps: usize,
}

impl Run {
    fn new(case: &Case) -> Self {
        let platter = Platter::new(case.faults);
        let world = World::with_disk(case.capacity, case.lag, case.config.clone(), platter);
        Self { world, open: Vec::new(), length_max: case.config.length_max(&case.capacity), transfers: Vec::new(), steps: 0 }
    }

    fn step(&mut self) -> Activity {
        self.steps += 1;
        let begun: Vec<Transfer> = self.world.transfers.lock().unwrap().drain(..).collect();
        for transfer in begun {
            let steps = self.of(transfer.request).transfer_steps;
            self.transfers.push((transfer, steps));
        }
        for (_, steps) in &mut self.transfers {
            *steps = steps.saturating_sub(1);
        }
        while let Some(at) = self.transfers.iter().position(|&(_, steps)| steps == 0) {
            let (transfer, _) = self.transfers.swap_remove(at);
            let Open { ask, transferred, .. } = self.of(transfer.request);
            let (prompt, cached) = (ask.prompt.clone(), transfer.cached_tokens as usize);
            let tokens = transferred.map(|percent| (prompt.len() * percent as usize).div_ceil(100).max(cached));
            self.world.end_transfer(&transfer, &prompt, tokens);
        }
        self.world.step()
    }

    fn of(&self, id: RequestId) -> &Open {
        self.open.iter().find(|open| open.id == id).expect("the engine names requests that were submitted")
    }

    fn happen(&mut self, event: &Event, config: &Config) {
        let (Event::Submit { after, .. }
        | Event::Abort { after, .. }
        | Event::Lease { after, .. }
        | Event::Pause { after, .. }
        | Event::Reset { after, .. }
        | Event::List { after }) = *event;
        (0..after).for_each(|_| {
            self.step();
        });
        match event {
            Event::Submit { ask, transfer_steps, transferred, .. } => {
                let priority = if config.policy == Policy::Fcfs { 0 } else { ask.priority };
                let ask = &Ask { priority, ..(**ask).clone() };
                if let Ok(id) = self.world.submit(ask) {
                    let (ask, transfer_steps, transferred) = (ask.clone(), *transfer_steps, *transferred);
                    self.open.push(Open { id, ask, transfer_steps, transferred, aborted: false });
                }
            }
            Event::Abort { which, .. } => {
                if !self.open.is_empty() {
                    let which = which.index(self.open.len());
                    let open = &mut self.open[which];
                    open.aborted = true;
                    self.world.handle.abort(open.id, FinishReason::Aborted);
                }
            }
            Event::Lease { prompt, steps, .. } => {
                let mut chain: Vec<BlockHash> = Vec::new();
                let mut hasher = BlockHasher::new(&config.hash_seed, self.world.capacity.block_tokens);
                hasher.extend(&mut chain, prompt, &domain::ExtraKeys::default());
                let expires = self.world.clock.now() + Duration::from_millis(u64::from(*steps));
                self.world.handle.lease(chain, expires, |_| ()).unwrap();
            }
            &Event::Pause { mode, quiet, steps, .. } => {
                if mode == PauseMode::Abort {
                    self.open.iter_mut().for_each(|open| open.aborted = true);
                }
                self.world.handle.pause(mode, quiet, false, || ()).unwrap();
                // At least one: what is submitted before the engine hears of the pause is in it.
                (0..=steps).for_each(|_| {
                    self.step();
                });
                self.world.handle.wake(Wake { weights: true, kv_cache: true }, |_| ()).unwrap();
            }
            &Event::Reset { reset: (running, lower), .. } => {
                self.world.handle.reset_prefix_cache(Reset { running, lower }, |_| ()).unwrap();
            }
            Event::List { .. } => self.world.check_list(),
        }
    }

    /// Lets everything come to its end and checks what each client saw.
    fn finish(mut self) {
        let mut idle = 0;
        // Leases last 30 steps at most.
        while idle < 32 || !self.transfers.is_empty() {
            idle = if self.step() == Activity::Busy { 0 } else { idle + 1 };
            assert!(self.steps < 20_000, "a request does not end");
        }
        for Open { id, ask, aborted, .. } in &self.open {
            let (tokens, reason) = self.world.answer(*id);
            let (whole, all_told, natural) = oracle::answer(ask, &self.world.capacity, self.length_max);
            let reason = reason.expect("every request ends");
            assert!(whole.starts_with(&tokens), "{ask:?}: {tokens:?} instead of {whole:?}");
            let (prompt_told, told) = self.world.told(*id);
            for (told, expected) in told.iter().zip(&all_told) {
                assert_eq!(told.is_some(), expected.is_some(), "{ask:?}");
                told.iter().zip(expected).for_each(|(told, expected)| oracle::assert_told(told, expected));
            }
            let whole_prompt = ask.extras.prompt_logprobs.map(|top| oracle::prompt_logprobs(ask, top, &self.world.capacity));
            let whole_prompt = whole_prompt.unwrap_or_default();
            assert!(prompt_told.len() == whole_prompt.len() || tokens.is_empty() && prompt_told.len() < whole_prompt.len());
            prompt_told.iter().zip(&whole_prompt).for_each(|(told, expected)| oracle::assert_told(told, expected));
            if reason == FinishReason::Aborted && (*aborted || ask.reads_max.is_some()) {
                continue;
            }
            assert_eq!((tokens, reason), (whole, natural), "{ask:?}");
        }
        let stats = self.world.handle.stats();
        assert_eq!((stats.waiting, stats.waiting_tokens, stats.running, stats.used_blocks, stats.leases), (0, 0, 0, 0, 0));
        assert_eq!(stats.finished as usize, self.open.len());
        self.world.check_list();
        self.world.handle.drain();
        assert_eq!(self.world.step(), Activity::Ended);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1500, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn whatever_comes_every_request_gets_its_own_answer(case in cases()) {
        let mut run = Run::new(&case);
        case.events.iter().for_each(|event| run.happen(event, &case.config));
        run.finish();
    }
}
