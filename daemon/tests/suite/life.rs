//! An engine's life as a state machine under a clock of the test's own: a table of stories, and any story at all.

use std::time::Duration;

use daemon::run::exit::Exit;
use daemon::run::machine::{Action, Event, Machine, Policy};
use domain::EngineState::{self, *};
use proptest::prelude::*;

fn s(seconds: f64) -> Duration {
    Duration::from_secs_f64(seconds)
}

/// An engine that works: its step counter is the time.
fn serves(now: f64, running: u32) -> Event {
    Event::Serves { busy: running.into(), running, steps: (now * 1000.0) as u64, draining: false }
}

fn stuck(running: u32) -> Event {
    Event::Serves { busy: running.into(), running, steps: 5, draining: false }
}

fn exit(code: i32) -> Event {
    Event::Exited(Exit::Code(code))
}

fn cleared() -> Event {
    Event::Cleared { survivors: Vec::new() }
}

/// Tells a story: at each moment something happens, is answered with actions, and leaves a state.
#[track_caller]
fn check(owned: bool, story: &[(f64, Event, &[Action], EngineState)]) -> Machine {
    let mut machine = Machine::new(Policy::default(), owned, 1);
    assert_eq!(machine.begin(Duration::ZERO).as_slice(), if owned { &[Action::Spawn][..] } else { &[] });
    let mut last = 0.0;
    for (line, (at, event, actions, state)) in story.iter().enumerate() {
        // The driver ticks every second while something lives; without this a long gap would be the agent's own pause.
        while last + 1.0 < *at {
            last += 1.0;
            let ticked = machine.on(s(last), Event::Tick);
            assert_eq!(ticked, [], "line {line}: something happens at {last} already: {}", machine.reason());
        }
        last = *at;
        let got = machine.on(s(*at), event.clone());
        assert_eq!((got.as_slice(), machine.state()), (*actions, *state), "line {line}: {event:?} at {at}: {}", machine.reason());
    }
    machine
}

#[test]
fn a_quiet_life_ends_when_asked_after_its_requests() {
    let machine = check(
        true,
        &[
            (0.0, Event::Spawned, &[], Starting),
            (0.5, Event::Silent { why: "refused".into() }, &[], Starting),
            (1.0, Event::Answers, &[], Warming),
            (2.0, serves(2.0, 0), &[], Ready),
            (3.0, Event::Drain(true), &[], Draining),
            (3.1, Event::Drain(true), &[], Draining),
            (3.2, Event::Drain(false), &[], Ready),
            (4.0, serves(4.0, 2), &[], Ready),
            (5.0, Event::Stop, &[], Draining),
            (5.9, serves(5.9, 1), &[], Draining),
            (6.0, serves(6.0, 0), &[Action::Terminate], Draining),
            (7.0, exit(0), &[Action::Clear], Draining),
            (7.1, cleared(), &[], Stopped),
        ],
    );
    assert_eq!(machine.restarts(), 0);
}

#[test]
fn requests_that_do_not_end_and_a_deaf_process_have_their_deadlines() {
    let mut machine = check(
        true,
        &[
            (0.0, Event::Spawned, &[], Starting),
            (1.0, serves(1.0, 1), &[], Ready),
            (2.0, Event::Stop, &[], Draining),
            (30.0, serves(30.0, 1), &[], Draining),
            (32.0, serves(32.0, 1), &[Action::Terminate], Draining),
        ],
    );
    assert_eq!(machine.on(s(41.9), Event::Tick), []);
    assert_eq!(machine.on(s(42.0), Event::Tick), [Action::Clear]);
    assert_eq!(machine.on(s(42.1), exit(1)), [], "its end is no news any more");
    assert_eq!(machine.on(s(42.2), cleared()), []);
    assert_eq!(machine.state(), Stopped);
}

#[test]
fn an_engine_that_runs_requests_and_makes_no_step_is_stuck() {
    let mut machine =
        check(true, &[(0.0, Event::Spawned, &[], Starting), (1.0, stuck(0), &[], Ready), (2.0, stuck(4), &[], Ready)]);
    let mut at = 2.0;
    while at < 60.9 {
        at += 0.5;
        assert_eq!(machine.on(s(at), stuck(4)), [], "at {at}");
    }
    assert_eq!(machine.on(s(61.5), stuck(4)), [Action::Clear]);
    assert_eq!((machine.state(), machine.reason()), (Crashed, "no step for 60.5 s with 4 requests running"));
}

#[test]
fn silence_ends_a_life_and_a_pause_of_the_agent_does_not() {
    let story: &[(f64, Event, &[Action], EngineState)] =
        &[(0.0, Event::Spawned, &[], Starting), (1.0, serves(1.0, 0), &[], Ready)];
    let mut silent = check(true, story);
    for at in 2..=31 {
        assert_eq!(silent.on(s(at.into()), Event::Tick), [], "at {at}");
    }
    assert_eq!(silent.on(s(31.5), Event::Tick), [Action::Clear]);
    assert_eq!(silent.reason(), "no answer for 30.5 s");

    let mut paused = check(true, story);
    assert_eq!(paused.on(s(1000.0), Event::Tick), [], "the agent itself was stopped");
    assert_eq!(paused.state(), Ready);
}

#[test]
fn an_engine_that_never_answers_is_given_up_after_its_time_to_load() {
    let mut machine = check(true, &[(0.0, Event::Spawned, &[], Starting), (600.0, Event::Tick, &[], Starting)]);
    assert_eq!(machine.on(s(600.5), Event::Tick), [Action::Clear]);
    assert_eq!(machine.reason(), "not ready 600.0 s after its start");
}

#[test]
fn what_cannot_be_ended_is_named_and_nothing_is_started_beside_it() {
    let mut machine = check(
        true,
        &[
            (0.0, Event::Spawned, &[], Starting),
            (1.0, exit(1), &[Action::Clear], Crashed),
            (9.0, Event::Cleared { survivors: vec![41, 42] }, &[], Quarantined),
        ],
    );
    assert_eq!(machine.reason(), "exited with code 1; processes 41, 42 could not be ended");
    assert_eq!(machine.deadline(s(9.0)), None);
    assert_eq!(machine.on(s(10.0), Event::Release), [Action::Spawn]);
}

#[test]
fn an_engine_that_says_it_failed_is_ended_and_one_that_may_not_start_is_not_started() {
    let mut machine = check(true, &[(0.0, Event::Spawned, &[], Starting), (1.0, serves(1.0, 0), &[], Ready)]);
    assert_eq!(machine.on(s(2.0), Event::Failed { why: "it says that it has failed".into() }), [Action::Clear]);
    assert_eq!((machine.state(), machine.reason()), (Crashed, "it says that it has failed"));

    let mut forbidden = Machine::new(Policy::default(), true, 1);
    assert_eq!(forbidden.on(s(0.0), Event::Forbidden { why: "a record cannot be read".into() }), []);
    assert_eq!((forbidden.state(), forbidden.deadline(s(0.0))), (Quarantined, None));
    assert_eq!(forbidden.on(s(9.0), Event::Release), [Action::Spawn]);
}

#[test]
fn delays_double_within_their_jitter_and_the_sixth_crash_is_the_last() {
    let mut machine = Machine::new(Policy::default(), true, 7);
    assert_eq!(machine.begin(Duration::ZERO), [Action::Spawn]);
    let mut now = Duration::ZERO;
    for crash in 0..6 {
        machine.on(now, Event::Spawned);
        assert_eq!(machine.on(now, exit(3)), [Action::Clear]);
        assert_eq!(machine.on(now, cleared()), []);
        if crash == 5 {
            break;
        }
        assert_eq!(machine.state(), Backoff);
        let due = machine.deadline(now).expect("a delay");
        let nominal = f64::from(1 << crash);
        let delay = (due - now).as_secs_f64();
        assert!((0.8 * nominal..=1.2 * nominal).contains(&delay), "crash {crash}: {delay} s");
        assert_eq!(machine.on(due - Duration::from_millis(1), Event::Tick), []);
        assert_eq!(machine.on(due, Event::Tick), [Action::Spawn]);
        now = due;
    }
    assert_eq!(machine.state(), Quarantined);
    assert_eq!(machine.reason(), "crashed 6 times within 600 s, last: exited with code 3");
    assert_eq!(machine.restarts(), 5);
}

#[test]
fn ten_minutes_of_service_forgive_what_was_before() {
    let mut machine = Machine::new(Policy::default(), true, 7);
    machine.begin(Duration::ZERO);
    let mut now = 0.0;
    for _ in 0..20 {
        machine.on(s(now), Event::Spawned);
        for _ in 0..700 {
            now += 1.0;
            assert_eq!(machine.on(s(now), serves(now, 1)), []);
        }
        assert_eq!(machine.on(s(now), exit(3)), [Action::Clear]);
        machine.on(s(now), cleared());
        let due = machine.deadline(s(now)).expect("a delay, for ever");
        assert!(due - s(now) <= s(1.2), "the first delay again");
        now = due.as_secs_f64();
        assert_eq!(machine.on(due, Event::Tick), [Action::Spawn]);
    }
}

#[test]
fn an_engine_of_somebody_else_is_watched_and_never_touched() {
    check(
        false,
        &[
            (0.0, Event::Silent { why: "refused".into() }, &[], Absent),
            (1.0, Event::Answers, &[], Warming),
            (2.0, stuck(0), &[], Ready),
            (3.0, stuck(1), &[], Ready),
            (4.0, Event::Silent { why: "reset".into() }, &[], Absent),
            (5.0, serves(5.0, 0), &[], Ready),
            (6.0, Event::Stop, &[], Stopped),
        ],
    );
    let mut machine = check(false, &[(1.0, stuck(0), &[], Ready)]);
    for at in 2..=61 {
        assert_eq!(machine.on(s(at.into()), stuck(1)), []);
    }
    assert_eq!(machine.on(s(61.5), stuck(1)), []);
    assert_eq!(machine.state(), Crashed, "it is stuck, and somebody else's to end");
    assert_eq!(machine.on(s(62.0), stuck(1)), []);
    assert_eq!(machine.state(), Crashed);
    machine.on(s(63.0), serves(63.0, 1));
    assert_eq!(machine.state(), Ready);
}

fn any_event() -> impl Strategy<Value = Event> {
    prop_oneof![
        Just(Event::Answers),
        (0..3u32, 0..3u64).prop_map(|(running, steps)| Event::Serves { busy: running.into(), running, steps, draining: false }),
        Just(Event::Silent { why: "refused".into() }),
        Just(exit(9)),
        any::<bool>().prop_map(Event::Drain),
        Just(Event::Stop),
        Just(Event::Release),
        Just(Event::Tick),
    ]
}

proptest! {
    /// Whatever happens in whatever order: never two lives at once, never work for the dead, no start after a stop.
    #[test]
    fn any_story_keeps_to_one_life(
        steps in prop::collection::vec((0..120_000u64, any_event(), any::<bool>(), any::<bool>()), 1..200),
        seed: u64,
    ) {
        let mut machine = Machine::new(Policy::default(), true, seed);
        let mut now = Duration::ZERO;
        // What the world looks like: whether anything of a life is there, and whether its main process is.
        let (mut life, mut process, mut stopped) = (false, false, false);
        let mut open = machine.begin(now);
        for (ms, event, start_fails, survives) in steps {
            while let Some(action) = open.pop() {
                match action {
                    Action::Spawn => {
                        prop_assert!(!life, "a second life beside the first");
                        prop_assert!(!stopped, "started after it was stopped");
                        let event = if start_fails { Event::SpawnFailed { why: "no such file".into() } } else { Event::Spawned };
                        (life, process) = (!start_fails, !start_fails);
                        open.extend(machine.on(now, event));
                    }
                    Action::Terminate => prop_assert!(life, "nobody to end"),
                    Action::Clear => {
                        process = false;
                        let survivors = if life && survives { vec![1] } else { Vec::new() };
                        // A person ends what could not be ended before anybody releases the engine.
                        life = false;
                        open.extend(machine.on(now, Event::Cleared { survivors }));
                    }
                }
            }
            now += Duration::from_millis(ms);
            match &event {
                Event::Exited(_) if !process => continue,
                Event::Exited(_) => process = false,
                Event::Stop => stopped = true,
                Event::Release if machine.state() == Stopped => stopped = false,
                // A release of an engine that is on its way out comes too early and is no start.
                Event::Release if stopped => continue,
                _ => {}
            }
            open.extend(machine.on(now, event));
            prop_assert!(!machine.state().takes_work() || process, "work for the dead");
            if let Some(due) = machine.deadline(now) {
                prop_assert!(due >= now || matches!(machine.state(), Backoff | Draining), "a deadline in the past");
            }
        }
    }
}
