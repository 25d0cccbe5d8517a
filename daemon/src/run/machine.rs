//! The life of one engine as a pure state machine: what was seen goes in, what has to be done comes out.
//!
//! ```text
//!                 spawned           answers          first answer
//!   Absent ─────▶ Starting ───────▶ Warming ───────▶ Serving ⇄ (drain)
//!     ▲              │                 │                │  stop
//!     │              └── exit, silence, stuck ──────────┤──────────▶ Leaving ──▶ Terminating
//!     │                               ▼                                              │ exit or deadline
//!     │                            Clearing ◀────────────────────────────────────────┘
//!     │                 whole tree gone │
//!     │                 ┌───────────────┼────────────────┐
//!     └── delay over ── Backoff     Quarantined        Stopped
//! ```
//!
//! `now` is handed in as the time since any fixed moment; it must not go back. Time in which nobody called the machine (the agent was
//! stopped, the machine slept) is not held against the engine.

use std::collections::VecDeque;
use std::time::Duration;

use domain::EngineState;
use domain::gpu::EngineHealth;
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

pub use crate::run::event::{Action, Event};
use crate::run::exit::{Exit, ExitClass};
pub use crate::run::policy::Policy;
use crate::run::policy::{Restart, restart};

/// Share by which a delay is longer or shorter than its nominal value, so that engines that died together do not start together.
const JITTER: f64 = 0.2;
/// The machine expects a call at least this often while a process lives; a longer pause is the agent's, not the engine's.
pub const TICK: Duration = Duration::from_secs(1);
/// A pause between calls beyond this was the agent's own.
const PAUSE: Duration = Duration::from_secs(4);
/// An engine that is to be stopped stays up at least this long after saying so, for schedulers to hear of it.
const NOTICE: Duration = Duration::from_millis(250);

#[derive(Clone, Debug, PartialEq)]
enum Phase {
    Absent,
    Starting {
        since: Duration,
    },
    Warming {
        since: Duration,
    },
    Serving {
        since: Duration,
    },
    /// Finishes its requests before it is ended.
    Leaving {
        from: Duration,
    },
    Terminating {
        until: Duration,
    },
    /// Waits for the end of the whole tree; `crash` says whether it will come back.
    Clearing {
        crash: bool,
    },
    Backoff {
        until: Duration,
    },
    Quarantined,
    /// Waits until its GPUs are well.
    Withheld,
    /// Somebody else's engine that holds requests and does nothing; it comes back by making a step.
    Lost,
    Stopped,
}

/// One engine's life. See the module's drawing.
#[derive(Debug)]
pub struct Machine {
    policy: Policy,
    /// Whether the process is ours to start and to end; else somebody else runs it and we only watch.
    owned: bool,
    phase: Phase,
    drain: bool,
    engine_drains: bool,
    reason: String,
    restarts: u32,
    attempt: u32,
    crashes: VecDeque<Duration>,
    busy: u64,
    running: u32,
    steps: u64,
    seen_at: Duration,
    progress_at: Duration,
    called_at: Duration,
    last_class: Option<ExitClass>,
    /// How the last life ended.
    ended: ExitClass,
    gpu: EngineHealth,
    random: SmallRng,
}

impl Machine {
    pub fn new(policy: Policy, owned: bool, seed: u64) -> Self {
        Self {
            policy,
            owned,
            phase: Phase::Absent,
            drain: false,
            engine_drains: false,
            reason: String::new(),
            restarts: 0,
            attempt: 0,
            crashes: VecDeque::new(),
            busy: 0,
            running: 0,
            steps: 0,
            seen_at: Duration::ZERO,
            progress_at: Duration::ZERO,
            called_at: Duration::ZERO,
            last_class: None,
            ended: ExitClass::Unknown,
            gpu: EngineHealth::default(),
            random: SmallRng::seed_from_u64(seed),
        }
    }

    pub fn state(&self) -> EngineState {
        match self.phase {
            Phase::Absent => EngineState::Absent,
            Phase::Starting { .. } => EngineState::Starting,
            Phase::Warming { .. } => EngineState::Warming,
            Phase::Serving { .. } if self.drain || self.engine_drains => EngineState::Draining,
            Phase::Serving { .. } => EngineState::Ready,
            Phase::Leaving { .. } | Phase::Terminating { .. } => EngineState::Draining,
            Phase::Clearing { crash: true } => EngineState::Crashed,
            Phase::Clearing { crash: false } => EngineState::Draining,
            Phase::Backoff { .. } => EngineState::Backoff,
            Phase::Quarantined | Phase::Withheld => EngineState::Quarantined,
            Phase::Lost => EngineState::Crashed,
            Phase::Stopped => EngineState::Stopped,
        }
    }

    /// Why it is in that state; empty where the state says it all.
    pub fn reason(&self) -> &str {
        &self.reason
    }

    /// Starts after the first.
    pub fn restarts(&self) -> u32 {
        self.restarts
    }

    pub fn drains(&self) -> bool {
        self.drain
    }

    /// How the last life ended, once for each end.
    pub fn take_exit(&mut self) -> Option<ExitClass> {
        self.last_class.take()
    }

    /// Whether the engine has ended because it was asked to, and stays so.
    pub fn is_stopped(&self) -> bool {
        self.phase == Phase::Stopped
    }

    /// Why a person has to look before it starts again; `None` while it lives, or comes back by itself.
    pub fn given_up(&self) -> Option<&str> {
        (self.phase == Phase::Quarantined).then_some(self.reason.as_str())
    }

    /// When [`Event::Tick`] is due at the latest; `None` while only an event can change anything.
    pub fn deadline(&self, now: Duration) -> Option<Duration> {
        match self.phase {
            Phase::Absent | Phase::Stopped | Phase::Quarantined | Phase::Withheld | Phase::Lost | Phase::Clearing { .. } => None,
            Phase::Starting { .. } | Phase::Warming { .. } | Phase::Serving { .. } => Some(now + TICK),
            Phase::Leaving { from } if now < from + NOTICE => Some(from + NOTICE),
            Phase::Leaving { .. } => Some(now + TICK),
            Phase::Terminating { until } | Phase::Backoff { until } => Some(until),
        }
    }

    /// The first call: starts the engine, unless an earlier one was adopted.
    pub fn begin(&mut self, now: Duration) -> Vec<Action> {
        self.called_at = now;
        if !self.owned {
            return Vec::new();
        }
        self.start(now)
    }

    pub fn on(&mut self, now: Duration, event: Event) -> Vec<Action> {
        self.forgive_pause(now);
        match event {
            Event::Spawned | Event::Adopted => {
                let adopted = event == Event::Adopted;
                self.reason = if adopted { "adopted from an earlier agent".into() } else { String::new() };
                self.seen(now);
                self.progress_at = now;
                (self.steps, self.running, self.busy, self.engine_drains) = (0, 0, 0, false);
                self.phase = Phase::Starting { since: now };
                Vec::new()
            }
            Event::SpawnFailed { why } => {
                (self.last_class, self.ended) = (Some(ExitClass::Spawn), ExitClass::Spawn);
                self.reason = why;
                self.phase = Phase::Clearing { crash: true };
                vec![Action::Clear]
            }
            Event::Answers => {
                self.seen(now);
                match self.phase {
                    Phase::Starting { since } => self.phase = Phase::Warming { since },
                    Phase::Absent if !self.owned => self.phase = Phase::Warming { since: now },
                    _ => {}
                }
                Vec::new()
            }
            Event::Serves { busy, running, steps, draining } => self.serves(now, busy, running, steps, draining),
            Event::Silent { why } => {
                if !self.owned && matches!(self.phase, Phase::Warming { .. } | Phase::Serving { .. } | Phase::Lost) {
                    // Somebody else's engine: there is no process to tell a stop from a stutter, so one refusal is believed.
                    self.phase = Phase::Absent;
                }
                if !matches!(self.phase, Phase::Serving { .. } | Phase::Leaving { .. }) && self.crashing().is_none() {
                    self.reason = why;
                }
                Vec::new()
            }
            Event::Failed { why } => match self.phase {
                Phase::Starting { .. } | Phase::Warming { .. } | Phase::Serving { .. } => self.crash(ExitClass::Failed, why),
                _ => Vec::new(),
            },
            Event::Forbidden { why } => {
                self.reason = why;
                self.phase = Phase::Quarantined;
                Vec::new()
            }
            Event::Exited(exit) => self.exited(exit),
            Event::Cleared { survivors } => self.cleared(now, &survivors),
            Event::Drain(on) => {
                self.drain = on;
                Vec::new()
            }
            Event::Device(gpu) => {
                self.gpu = gpu;
                match (&self.phase, restart(self.ended, &self.gpu)) {
                    (Phase::Withheld, Restart::Backoff) => {
                        self.restarts = self.restarts.saturating_add(1);
                        let last = std::mem::take(&mut self.reason);
                        let actions = self.start(now);
                        self.reason = format!("started after a recovery of: {last}");
                        actions
                    }
                    (Phase::Withheld | Phase::Backoff { .. }, Restart::Withhold { why }) => self.withhold(why),
                    _ => Vec::new(),
                }
            }
            Event::Stop => self.stop(now),
            Event::Release => match self.phase {
                Phase::Quarantined | Phase::Withheld | Phase::Stopped | Phase::Backoff { .. } => {
                    // The operator knows better than the last verdict.
                    self.gpu = EngineHealth::default();
                    self.crashes.clear();
                    self.attempt = 0;
                    self.restarts = self.restarts.saturating_add(1);
                    self.start(now)
                }
                _ => Vec::new(),
            },
            Event::Tick => self.tick(now),
        }
    }

    fn withhold(&mut self, why: String) -> Vec<Action> {
        self.reason = why;
        self.phase = Phase::Withheld;
        Vec::new()
    }

    fn start(&mut self, now: Duration) -> Vec<Action> {
        if let Restart::Withhold { why } = restart(self.ended, &self.gpu) {
            return self.withhold(why);
        }
        self.phase = Phase::Starting { since: now };
        self.reason.clear();
        self.seen(now);
        vec![Action::Spawn]
    }

    fn seen(&mut self, now: Duration) {
        self.seen_at = now;
    }

    /// `Some` while the end of a life is being dealt with.
    fn crashing(&self) -> Option<bool> {
        match self.phase {
            Phase::Clearing { crash } => Some(crash),
            Phase::Backoff { .. } | Phase::Quarantined | Phase::Withheld => Some(true),
            Phase::Terminating { .. } | Phase::Stopped => Some(false),
            _ => None,
        }
    }

    /// Moves every deadline by a pause of the agent itself.
    fn forgive_pause(&mut self, now: Duration) {
        let pause = now.saturating_sub(self.called_at);
        self.called_at = now;
        let lives =
            matches!(self.phase, Phase::Starting { .. } | Phase::Warming { .. } | Phase::Serving { .. } | Phase::Leaving { .. });
        if lives && pause > PAUSE {
            self.seen_at += pause;
            self.progress_at += pause;
            if let Phase::Starting { since } | Phase::Warming { since } = &mut self.phase {
                *since += pause;
            }
        }
    }

    fn serves(&mut self, now: Duration, busy: u64, running: u32, steps: u64, draining: bool) -> Vec<Action> {
        self.seen(now);
        if steps != self.steps || running == 0 {
            self.progress_at = now;
        }
        (self.busy, self.running, self.steps, self.engine_drains) = (busy, running, steps, draining);
        match self.phase {
            Phase::Starting { .. } | Phase::Warming { .. } => {
                self.phase = Phase::Serving { since: now };
                self.progress_at = now;
                self.reason.clear();
            }
            Phase::Absent if !self.owned => {
                self.phase = Phase::Serving { since: now };
                self.progress_at = now;
                self.reason.clear();
            }
            Phase::Lost if self.progress_at == now => {
                self.phase = Phase::Serving { since: now };
                self.reason.clear();
            }
            _ => {}
        }
        self.tick(now)
    }

    fn exited(&mut self, exit: Exit) -> Vec<Action> {
        match self.phase {
            Phase::Terminating { .. } | Phase::Leaving { .. } => {
                self.last_class = Some(ExitClass::Asked);
                self.reason = format!("stopped: {exit}");
                self.phase = Phase::Clearing { crash: false };
                vec![Action::Clear]
            }
            Phase::Starting { .. } | Phase::Warming { .. } | Phase::Serving { .. } => {
                (self.last_class, self.ended) = (Some(exit.class()), exit.class());
                self.reason = exit.to_string();
                self.phase = Phase::Clearing { crash: true };
                vec![Action::Clear]
            }
            // The exit of a process that we are ending anyway, or of one that is long dealt with.
            _ => Vec::new(),
        }
    }

    fn crash(&mut self, class: ExitClass, reason: String) -> Vec<Action> {
        self.reason = reason;
        (self.last_class, self.ended) = (Some(class), class);
        if !self.owned {
            self.phase = Phase::Lost;
            return Vec::new();
        }
        self.phase = Phase::Clearing { crash: true };
        vec![Action::Clear]
    }

    fn cleared(&mut self, now: Duration, survivors: &[u32]) -> Vec<Action> {
        let Phase::Clearing { crash } = self.phase else { return Vec::new() };
        if !survivors.is_empty() {
            let pids = survivors.iter().map(u32::to_string).collect::<Vec<_>>().join(", ");
            // A process that outlives SIGKILL hangs in the kernel, most likely in a device driver: a second engine would meet it there.
            self.reason = format!("{}; processes {pids} could not be ended", self.reason);
            self.phase = Phase::Quarantined;
            return Vec::new();
        }
        if !crash {
            self.phase = Phase::Stopped;
            return Vec::new();
        }
        if let Restart::Withhold { why } = restart(self.ended, &self.gpu) {
            // Not its fault, and not counted against it.
            let why = format!("{}; {why}", self.reason);
            return self.withhold(why);
        }
        self.crashes.push_back(now);
        while self.crashes.front().is_some_and(|&at| now.saturating_sub(at) > self.policy.crash_window) {
            self.crashes.pop_front();
        }
        if self.crashes.len() > self.policy.crashes_max {
            let window = self.policy.crash_window.as_secs();
            self.reason = format!("crashed {} times within {window} s, last: {}", self.crashes.len(), self.reason);
            self.phase = Phase::Quarantined;
            return Vec::new();
        }
        let nominal = self.policy.backoff_first.saturating_mul(1 << self.attempt.min(16)).min(self.policy.backoff_max);
        let delay = nominal.mul_f64(self.random.random_range(1.0 - JITTER..=1.0 + JITTER));
        self.attempt = self.attempt.saturating_add(1);
        self.phase = Phase::Backoff { until: now + delay };
        Vec::new()
    }

    fn stop(&mut self, now: Duration) -> Vec<Action> {
        if !self.owned {
            self.phase = Phase::Stopped;
            return Vec::new();
        }
        match self.phase {
            Phase::Serving { .. } => {
                self.phase = Phase::Leaving { from: now };
                self.reason = "stops when its requests are done".into();
                Vec::new()
            }
            Phase::Starting { .. } | Phase::Warming { .. } => self.terminate(now),
            Phase::Clearing { .. } => {
                self.phase = Phase::Clearing { crash: false };
                Vec::new()
            }
            Phase::Absent | Phase::Backoff { .. } | Phase::Quarantined | Phase::Withheld | Phase::Lost => {
                self.phase = Phase::Stopped;
                Vec::new()
            }
            Phase::Leaving { .. } | Phase::Terminating { .. } | Phase::Stopped => Vec::new(),
        }
    }

    fn terminate(&mut self, now: Duration) -> Vec<Action> {
        self.phase = Phase::Terminating { until: now + self.policy.term_grace };
        vec![Action::Terminate]
    }

    fn tick(&mut self, now: Duration) -> Vec<Action> {
        match self.phase {
            Phase::Starting { since } | Phase::Warming { since } if self.owned => {
                if now.saturating_sub(since) > self.policy.ready_within {
                    let waited = self.policy.ready_within.as_secs_f64();
                    return self.crash(ExitClass::NotReady, format!("not ready {waited:.1} s after its start"));
                }
                Vec::new()
            }
            Phase::Serving { since } => {
                if now.saturating_sub(since) > self.policy.stable_after && self.attempt > 0 {
                    self.attempt = 0;
                    self.crashes.clear();
                }
                let silence = now.saturating_sub(self.seen_at);
                if self.owned && silence > self.policy.silent_after {
                    return self.crash(ExitClass::Silent, format!("no answer for {:.1} s", silence.as_secs_f64()));
                }
                let still = now.saturating_sub(self.progress_at);
                if self.running > 0 && still > self.policy.stuck_after {
                    let reason = format!("no step for {:.1} s with {} requests running", still.as_secs_f64(), self.running);
                    return self.crash(ExitClass::Stuck, reason);
                }
                Vec::new()
            }
            Phase::Leaving { from } => {
                let waited = now.saturating_sub(from);
                if (self.busy == 0 && waited >= NOTICE) || waited >= self.policy.drain_within {
                    return self.terminate(now);
                }
                Vec::new()
            }
            Phase::Terminating { until } if now >= until => {
                self.last_class = Some(ExitClass::Asked);
                self.reason = format!("killed: still there {:.1} s after SIGTERM", self.policy.term_grace.as_secs_f64());
                self.phase = Phase::Clearing { crash: false };
                vec![Action::Clear]
            }
            Phase::Backoff { until } if now >= until => {
                let last = std::mem::take(&mut self.reason);
                self.restarts = self.restarts.saturating_add(1);
                let actions = self.start(now);
                if self.phase != Phase::Withheld {
                    self.reason = format!("restarted after: {last}");
                }
                actions
            }
            _ => Vec::new(),
        }
    }
}
