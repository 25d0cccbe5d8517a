//! The decision as a table: what is asked, what is known, where it goes and why.

use std::sync::Arc;

use domain::{Ask, EngineId, EngineState, ExtraKeys, InFlight, ModelId, Role};
use proptest::prelude::*;
use scheduler::decide::{Candidate, Decision, Policy, Prefix, Reason, decide};
use scheduler::filter::{Limits, Refusal};
use scheduler::fleet::engine::{Evidence, Probe};
use scheduler::pick::ENDPOINTS_MAX;
use scheduler::score::Weights;

fn ask(tokens: usize) -> Ask {
    Ask { model: ModelId::base("m"), tokens: vec![0; tokens].into(), extra: ExtraKeys::default(), tokens_max: None }
}

fn id(name: &str) -> EngineId {
    EngineId { node: "n".into(), name: name.into() }
}

/// An idle engine that serves "m" and holds nothing.
fn idle(id: &EngineId) -> Candidate<'_> {
    Candidate {
        id,
        address: domain::DataAddress(([127, 0, 0, 1], 8200).into()),
        base: "m",
        adapters: &[],
        role: Role::Both,
        state: EngineState::Ready,
        evidence: Evidence::Fresh,
        probe: Probe::Unasked,
        verdict: domain::gpu::Verdict::Ok,
        capacity: 1.0,
        context_length: 1000,
        in_flight: InFlight::default(),
        kv_use: 0.0,
        prefix: Prefix { cached_blocks: 0, prompt_blocks: 10, block_tokens: 16 },
    }
}

fn caches(blocks: u32, candidate: Candidate<'_>) -> Candidate<'_> {
    Candidate { prefix: Prefix { cached_blocks: blocks, ..candidate.prefix }, ..candidate }
}

fn has(requests: u32, candidate: Candidate<'_>) -> Candidate<'_> {
    Candidate { in_flight: InFlight { requests, uncached_tokens: 0 }, ..candidate }
}

/// Which of two engines is chosen, whatever the tie-breaker: 0, 1, or `None` if it depends on it.
fn preferred(a: Candidate<'_>, b: Candidate<'_>) -> Option<usize> {
    let first = |tie| match decide(&ask(160), &[a, b], &Policy::default(), tie).decision {
        Decision::Route { endpoints, prefill: None } => endpoints[0],
        other => panic!("no route: {other:?}"),
    };
    let choices: Vec<usize> = (0..64).map(first).collect();
    choices.iter().all(|choice| *choice == choices[0]).then_some(choices[0])
}

#[test]
fn weights_of_three_two_two_make_these_choices() {
    let (a, b) = (id("a"), id("b"));
    let (a, b) = (idle(&a), idle(&b));
    let full = |kv_use, candidate| Candidate { kv_use, ..candidate };
    assert_eq!(preferred(a, b), None, "alike: chance decides");
    assert_eq!(preferred(a, caches(10, b)), Some(1), "all of the prompt is there");
    assert_eq!(preferred(a, caches(1, b)), Some(1), "a little of it");
    assert_eq!(preferred(a, full(0.5, b)), Some(0), "more room");
    assert_eq!(preferred(a, has(1, b)), Some(0), "less to do");
    assert_eq!(preferred(a, caches(5, has(4, b))), Some(1), "half a prompt (1.5) is worth four requests of eight (1.0)");
    assert_eq!(preferred(a, caches(5, has(7, b))), Some(0), "and not seven (1.75)");
    assert_eq!(preferred(a, caches(10, has(8, full(0.4, b)))), Some(1), "3.0 against 2.0 + 0.8 is close");
    assert_eq!(preferred(a, caches(10, has(8, full(0.6, b)))), Some(0), "and 2.0 + 1.2 is too much");
    assert_eq!(preferred(has(100, a), has(200, caches(6, b))), Some(0), "beyond eight the spread itself is the measure");
    assert_eq!(preferred(has(100, a), has(200, caches(7, b))), Some(1));
}

#[test]
fn each_filter_leaves_out_what_it_says() {
    let name = id("e");
    let e = idle(&name);
    let adapters: [Arc<str>; 1] = ["x".into()];
    let tuned = Ask { model: ModelId { base: "m".into(), adapter: Some("x".into()) }, ..ask(160) };
    let limits = Limits { in_flight_max: 4 };
    let policy = Policy { limits, ..Policy::default() };
    let unknown = Candidate { evidence: Evidence::Unknown, ..e };
    let cases: Vec<(&str, Ask, Candidate<'_>, Option<Refusal>)> = vec![
        ("idle", ask(160), e, None),
        ("other model", ask(160), Candidate { base: "z", ..e }, Some(Refusal::OtherModel)),
        ("without the adapter", tuned.clone(), e, Some(Refusal::OtherModel)),
        ("with the adapter", tuned, Candidate { adapters: &adapters, ..e }, None),
        ("prefill only", ask(160), Candidate { role: Role::Prefill, ..e }, Some(Refusal::OtherRole(Role::Prefill))),
        ("decode", ask(160), Candidate { role: Role::Decode, ..e }, None),
        ("degraded", ask(160), Candidate { state: EngineState::Degraded, ..e }, None),
        ("draining", ask(160), Candidate { state: EngineState::Draining, ..e }, Some(Refusal::State(EngineState::Draining))),
        ("crashed", ask(160), Candidate { state: EngineState::Crashed, ..e }, Some(Refusal::State(EngineState::Crashed))),
        ("stream lost", ask(160), unknown, None),
        ("stream lost, address fails", ask(160), Candidate { probe: Probe::Failed, ..unknown }, Some(Refusal::Silent)),
        (
            "crashed when last heard of, answers now",
            ask(160),
            Candidate { state: EngineState::Crashed, probe: Probe::Answered, ..unknown },
            None,
        ),
        (
            "crashed when last heard of",
            ask(160),
            Candidate { state: EngineState::Crashed, ..unknown },
            Some(Refusal::State(EngineState::Crashed)),
        ),
        (
            "draining when last heard of, answers",
            ask(160),
            Candidate { state: EngineState::Draining, probe: Probe::Answered, ..unknown },
            Some(Refusal::State(EngineState::Draining)),
        ),
        ("connection refused", ask(160), Candidate { probe: Probe::Failed, ..e }, Some(Refusal::Silent)),
        ("prompt fills the context", ask(1000), e, Some(Refusal::ContextTooShort { context_length: 1000 })),
        ("one token left", ask(999), e, None),
        ("unknown context", ask(5000), Candidate { context_length: 0, ..e }, None),
        ("unknown prompt", ask(0), e, None),
        ("four in flight", ask(160), has(4, e), Some(Refusal::Full)),
        ("three in flight", ask(160), has(3, e), None),
    ];
    for (case, ask, candidate, refusal) in cases {
        let choice = decide(&ask, &[candidate], &policy, 0);
        assert_eq!(choice.standings[0].as_ref().err(), refusal.as_ref(), "{case}");
        let routed = choice.decision == Decision::Route { endpoints: vec![0], prefill: None };
        assert_eq!(routed, refusal.is_none(), "{case}");
    }
}

#[test]
fn when_nobody_can_the_reason_is_the_one_that_is_easiest_to_overcome() {
    let name = id("e");
    let e = idle(&name);
    let in_state = |state| Candidate { state, ..e };
    let silent = Candidate { probe: Probe::Failed, ..e };
    let too_long = Decision::Reject { reason: Reason::PromptTooLong { prompt_tokens: 1500, context_length: 1200 } };
    let longer = Candidate { context_length: 1200, ..e };
    let cases: Vec<(&str, usize, Vec<Candidate<'_>>, Decision)> = vec![
        ("nobody", 1, vec![], Decision::Reject { reason: Reason::NoEngine }),
        ("starting", 1, vec![silent, in_state(EngineState::Starting)], Decision::Wait { reason: Reason::Starting }),
        ("backoff", 1, vec![in_state(EngineState::Backoff)], Decision::Wait { reason: Reason::Starting }),
        ("full", 1, vec![in_state(EngineState::Warming), has(5000, e), silent], Decision::Reject { reason: Reason::Saturated }),
        ("silent", 1, vec![silent], Decision::Reject { reason: Reason::NoneTakesWork(Refusal::Silent) }),
        ("too long for all", 1500, vec![e, longer], too_long),
    ];
    for (case, tokens, candidates, decision) in cases {
        assert_eq!(decide(&ask(tokens), &candidates, &Policy::default(), 7).decision, decision, "{case}");
    }
}

#[test]
fn ties_are_spread_evenly() {
    let names: Vec<EngineId> = (0..4).map(|i| id(&format!("e{i}"))).collect();
    let candidates: Vec<Candidate<'_>> = names.iter().map(idle).collect();
    let mut counts = [0; 4];
    for tie in 0..4000 {
        let Decision::Route { endpoints, .. } = decide(&ask(1), &candidates, &Policy::default(), tie).decision else { panic!() };
        counts[endpoints[0]] += 1;
    }
    assert!(counts.iter().all(|count| (850..1150).contains(count)), "{counts:?}");
}

proptest! {
    /// Whatever the fleet: the order is by rating, nobody left out is in it, nobody who is let in is missing below the maximum.
    #[test]
    fn the_order_is_the_ratings(
        engines in prop::collection::vec((0u32..12, 0u32..40, 0.0f64..=1.0, 0usize..10, any::<bool>()), 0..20),
        weights in (0.0f64..5.0, 0.0f64..5.0, 0.0f64..5.0),
        tie in any::<u64>(),
    ) {
        let names: Vec<EngineId> = (0..engines.len()).map(|i| id(&i.to_string())).collect();
        let candidates: Vec<Candidate<'_>> = engines.iter().zip(&names).map(|(&(cached, requests, kv_use, state, silent), name)| {
            let probe = if silent { Probe::Failed } else { Probe::Unasked };
            let state = if state < 10 { EngineState::ALL[state] } else { EngineState::Ready };
            Candidate { kv_use, state, probe, ..has(requests, caches(cached.min(10), idle(name))) }
        }).collect();
        let policy = Policy { weights: Weights { prefix: weights.0, kv: weights.1, queue: weights.2 }, ..Policy::default() };
        let choice = decide(&ask(160), &candidates, &policy, tie);
        prop_assert_eq!(&choice, &decide(&ask(160), &candidates, &policy, tie), "one tie, one choice");
        let admitted = choice.standings.iter().filter(|standing| standing.is_ok()).count();
        let Decision::Route { endpoints, .. } = &choice.decision else {
            prop_assert_eq!(admitted, 0);
            return Ok(());
        };
        prop_assert_eq!(endpoints.len(), admitted.min(ENDPOINTS_MAX));
        let totals: Vec<f64> = endpoints.iter().map(|at| choice.standings[*at].as_ref().expect("admitted").total).collect();
        prop_assert!(totals.is_sorted_by(|a, b| a >= b), "{totals:?}");
        let best = choice.standings.iter().flatten().map(|rating| rating.total).fold(f64::MIN, f64::max);
        prop_assert_eq!(totals[0], best);
    }
}

#[test]
fn a_sick_gpu_gets_no_pick_and_a_slow_one_gets_its_share() {
    use domain::gpu::Verdict;
    let (a, b) = (id("a"), id("b"));
    let (a, b) = (idle(&a), idle(&b));
    for verdict in [Verdict::Draining, Verdict::Quarantined] {
        let sick = Candidate { verdict, ..caches(10, a) };
        assert_eq!(preferred(sick, has(100, b)), Some(1), "{verdict}: neither its cache nor the other's queue brings it back");
        // Silence of its node repairs nothing.
        let silent = Candidate { evidence: Evidence::Unknown, probe: Probe::Answered, ..sick };
        assert_eq!(preferred(silent, b), Some(1));
        let choice = decide(&ask(160), &[sick], &Policy::default(), 0);
        assert_eq!(choice.standings[0], Err(Refusal::Gpu(verdict)));
    }
    let half = |candidate| Candidate { verdict: Verdict::Degraded, capacity: 0.5, ..candidate };
    assert_eq!(preferred(half(a), b), Some(1), "of two idle ones the well one");
    assert_eq!(preferred(half(has(2, a)), has(3, b)), Some(1), "2 requests at half the pace last longer than 3");
    assert_eq!(preferred(half(has(1, a)), has(7, b)), Some(0), "and 1 does not last longer than 7");
}
