//! Keeps findings steady: what a GPU's rules remember, and the verdict they add up to.

use std::collections::BTreeMap;
use std::time::Duration;

use domain::gpu::{REASONS_MAX, Verdict};
use serde::{Deserialize, Serialize};

use super::rules::{Clear, Counters, Finding, RULES, View};
use crate::collect::nvml::table::Signal;

/// A finding that comes back within this is held longer each time.
const AGAIN_WITHIN: Duration = Duration::from_secs(3600);
/// Most doublings of that time.
const DOUBLINGS_MAX: u32 = 4;

/// What one rule remembers of one GPU. Times are since boot.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Held {
    /// Why, while it holds; absent once it has fallen.
    pub reason: Option<String>,
    pub capacity: f64,
    pub raised: Duration,
    pub last_true: Duration,
    pub fell: Option<Duration>,
    /// Raises in a row, each within an hour of the one before.
    pub raises: u32,
    /// When it was raised, for evidence of a repair since.
    #[serde(skip)]
    resets: u64,
    #[serde(default)]
    recovery_asked: bool,
}

/// What is remembered of one GPU.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Memory {
    pub rules: BTreeMap<String, Held>,
    /// XIDs until here are dealt with.
    #[serde(default)]
    pub settled: Duration,
    /// Where the GPU was found last.
    #[serde(default)]
    pub index: u32,
    #[serde(skip)]
    pub counters: Counters,
    #[serde(skip)]
    first_true: BTreeMap<&'static str, Duration>,
}

/// What happened to a finding.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    Raised { rule: &'static str, reason: String },
    Recovered { rule: &'static str, reason: String },
}

/// The verdict over one GPU.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Judgement {
    pub verdict: Verdict,
    pub capacity: f64,
    /// Worst first.
    pub reasons: Vec<String>,
    /// Names of the rules that hold.
    pub rules: Vec<&'static str>,
    pub changes: Vec<Change>,
}

/// Levels of rules as the operator set them.
pub type Levels = BTreeMap<String, Verdict>;

impl Memory {
    /// Judges a GPU, and remembers.
    pub fn judge(&mut self, view: &View<'_>, levels: &Levels) -> Judgement {
        let now = view.now;
        let mut changes = Vec::new();
        let mut standing: Vec<(Verdict, f64, String, &'static str)> = Vec::new();
        for rule in RULES {
            let finding = (rule.check)(&View { settled: self.settled, before: self.counters, ..*view });
            let waited = match &finding {
                Some(_) => now.saturating_sub(*self.first_true.entry(rule.name).or_insert(now)),
                None => {
                    self.first_true.remove(rule.name);
                    Duration::ZERO
                }
            };
            let holds = self.rules.get(rule.name).is_some_and(|held| held.reason.is_some());
            match finding {
                Some(Finding { reason, capacity }) if holds || waited >= rule.raise => {
                    let held = self.rules.entry(rule.name.to_owned()).or_default();
                    if !holds {
                        let again = held.fell.is_some_and(|fell| now.saturating_sub(fell) < AGAIN_WITHIN);
                        held.raises = if again { held.raises.saturating_add(1) } else { 0 };
                        (held.raised, held.resets, held.recovery_asked) = (now, view.gpu.resets, false);
                        changes.push(Change::Raised { rule: rule.name, reason: reason.clone() });
                    }
                    (held.reason, held.capacity, held.last_true) = (Some(reason), capacity, now);
                }
                _ => {}
            }
            let Some(held) = self.rules.get_mut(rule.name) else { continue };
            let Some(reason) = &held.reason else { continue };
            let asked = view.gpu.get(Signal::RecoveryAction).is_some_and(|action| action != 0.0);
            held.recovery_asked |= asked;
            let over = match rule.clear {
                Clear::After(base) => {
                    let hold = base * 2_u32.pow(held.raises.min(DOUBLINGS_MAX));
                    held.last_true < now && now - held.last_true >= hold
                }
                Clear::Repair => {
                    // Nothing is raised while it stands so, hence it came since.
                    let taken_back = view.incident.is_some_and(|incident| incident.recovery == Some(0));
                    let reset = view.gpu.resets > held.resets && !view.gpu.lost;
                    taken_back
                        || reset
                        || (held.recovery_asked && !asked && !view.gpu.lost && view.gpu.get(Signal::RecoveryAction).is_some())
                }
            };
            if over {
                changes.push(Change::Recovered { rule: rule.name, reason: reason.clone() });
                (held.reason, held.fell) = (None, Some(now));
                if rule.clear == Clear::Repair {
                    self.settled = now;
                }
                continue;
            }
            let level = levels.get(rule.name).copied().unwrap_or(rule.level);
            standing.push((level, held.capacity, reason.clone(), rule.name));
        }
        self.counters = Counters::of(view.gpu);
        standing.sort_by_key(|(level, ..)| std::cmp::Reverse(*level));
        let degraded = standing.iter().filter(|(level, ..)| *level >= Verdict::Degraded);
        Judgement {
            verdict: standing.first().map_or(Verdict::Ok, |(level, ..)| *level),
            capacity: degraded.map(|(_, capacity, ..)| *capacity).fold(1.0, f64::min),
            rules: standing.iter().map(|(.., rule)| *rule).collect(),
            reasons: standing.into_iter().take(REASONS_MAX).map(|(_, _, reason, _)| reason).collect(),
            changes,
        }
    }

    /// The verdict as it was written down, before the GPU is seen again.
    pub fn standing(&self, levels: &Levels) -> (Verdict, Option<&str>) {
        let level = |rule: &super::rules::Rule| levels.get(rule.name).copied().unwrap_or(rule.level);
        let held = RULES.iter().filter_map(|rule| Some((level(rule), self.rules.get(rule.name)?.reason.as_deref()?)));
        held.max_by_key(|(level, _)| *level).map_or((Verdict::Ok, None), |(level, reason)| (level, Some(reason)))
    }

    /// An operator says that the GPU is repaired. Returns what was held against it.
    pub fn release(&mut self, now: Duration) -> Vec<Change> {
        self.settled = now;
        let mut changes = Vec::new();
        for rule in RULES {
            let Some(held) = self.rules.get_mut(rule.name) else { continue };
            let Some(reason) = held.reason.take() else { continue };
            held.fell = Some(now);
            changes.push(Change::Recovered { rule: rule.name, reason });
        }
        changes
    }
}
