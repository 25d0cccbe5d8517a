//! Counts XIDs once, whichever side they were heard from, and groups a burst of them under its cause.

use std::collections::BTreeMap;
use std::time::Duration;

use domain::gpu::GPUS_MAX;
use nvml::PciAddress;

use super::line::Sighting;
use super::severity::{Class, Severities};

/// An event and a line this close together are the same XID.
const SAME_WITHIN: Duration = Duration::from_secs(2);
/// XIDs of a GPU with less than this between them are one incident.
pub const BURST_GAP: Duration = Duration::from_secs(180);
/// Different XIDs that are counted apart on one GPU.
const CODES_MAX: usize = 128;
/// Means "ended because of another error": never a cause.
const KILLED: u32 = 45;
const RECOVERY_ACTION: u32 = 154;

/// Who saw it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    KernelLog,
    Nvml,
}

/// A burst of XIDs of one GPU.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Incident {
    /// The first XID that explains the others; `None` while only consequences were seen.
    pub cause: Option<u32>,
    /// The cause was named by another line and not seen itself.
    pub inferred: bool,
    /// The worst of all in it.
    pub class: Class,
    /// The XID with that class.
    pub worst: u32,
    pub began: Duration,
    pub last: Duration,
    pub count: u64,
    /// What the line of the cause said.
    pub text: String,
    /// The GPU's recovery action, where a 154 told of it, and when it did last.
    pub recovery: Option<u32>,
    pub recovery_at: Duration,
    /// The GPU was repaired since: what comes now is another incident.
    closed: bool,
}

#[derive(Clone, Debug, Default)]
struct Count {
    total: u64,
    /// Heard from one side, and the other may still tell of them.
    lines: u64,
    events: u64,
    at: Duration,
}

#[derive(Clone, Debug, Default)]
struct PerGpu {
    codes: BTreeMap<u32, Count>,
    last: Option<u32>,
    incident: Option<Incident>,
}

/// All XIDs of a node since the agent's start.
#[derive(Clone, Debug, Default)]
pub struct Ledger {
    gpus: BTreeMap<PciAddress, PerGpu>,
    pub unparsed: u64,
    /// Not counted, because more GPUs or codes were named than can be.
    pub overflowed: u64,
    pub incidents: u64,
}

impl Ledger {
    /// Takes in one sighting; `now` is the time since boot. Returns whether it says something new: a new incident, or a worse one.
    pub fn see(&mut self, source: Source, seen: &Sighting<'_>, now: Duration, severities: &Severities) -> bool {
        if !self.gpus.contains_key(&seen.gpu) && self.gpus.len() >= GPUS_MAX {
            self.overflowed += 1;
            return false;
        }
        let gpu = self.gpus.entry(seen.gpu).or_default();
        if !gpu.codes.contains_key(&seen.code) && gpu.codes.len() >= CODES_MAX {
            self.overflowed += 1;
            return false;
        }
        let count = gpu.codes.entry(seen.code).or_default();
        let repeated = count.hear(source, now);
        gpu.last = Some(seen.code);
        let began = &mut self.incidents;
        if repeated && source == Source::Nvml {
            // The line said all that the event says, and more.
            return false;
        }
        gpu.group(seen, now, severities, !repeated, began)
    }

    /// Total of each (GPU, code).
    pub fn counts(&self) -> impl Iterator<Item = (PciAddress, u32, u64)> {
        self.gpus.iter().flat_map(|(gpu, per)| per.codes.iter().map(|(code, count)| (*gpu, *code, count.total)))
    }

    /// The last XID of a GPU.
    pub fn last(&self, gpu: PciAddress) -> Option<u32> {
        self.gpus.get(&gpu)?.last
    }

    /// The GPU was repaired: no XID to come belongs to what was.
    pub fn close(&mut self, gpu: PciAddress) {
        if let Some(incident) = self.gpus.get_mut(&gpu).and_then(|per| per.incident.as_mut()) {
            incident.closed = true;
        }
    }

    /// The latest incident of a GPU, over or not.
    pub fn incident(&self, gpu: PciAddress) -> Option<&Incident> {
        self.gpus.get(&gpu)?.incident.as_ref()
    }
}

impl Count {
    /// Counts it unless the other side told of it already; returns whether it did.
    fn hear(&mut self, source: Source, now: Duration) -> bool {
        if now.saturating_sub(self.at) > SAME_WITHIN {
            (self.lines, self.events) = (0, 0);
        }
        self.at = self.at.max(now);
        let (own, other) = match source {
            Source::KernelLog => (&mut self.lines, &mut self.events),
            Source::Nvml => (&mut self.events, &mut self.lines),
        };
        if *other > 0 {
            *other -= 1;
            return true;
        }
        *own += 1;
        self.total += 1;
        false
    }
}

impl PerGpu {
    fn group(&mut self, seen: &Sighting<'_>, now: Duration, severities: &Severities, counts: bool, began: &mut u64) -> bool {
        let class = severities.class_of(seen);
        let goes_on = |incident: &Incident| {
            !incident.closed && incident.recovery != Some(0) && now.saturating_sub(incident.last) < BURST_GAP
        };
        let open = self.incident.as_ref().is_some_and(goes_on);
        let mut news = false;
        if !open {
            // A recovery action taken back is the end of an incident, never the beginning of one.
            if seen.code == RECOVERY_ACTION
                && let (Some(incident), Some(_)) = (&mut self.incident, seen.recovery)
            {
                let changed = incident.recovery != seen.recovery;
                (incident.recovery, incident.recovery_at) = (seen.recovery, now);
                return changed;
            }
            *began += 1;
            news = true;
            self.incident = Some(Incident {
                cause: None,
                inferred: false,
                class,
                worst: seen.code,
                began: now,
                last: now,
                count: 0,
                text: String::new(),
                recovery: None,
                recovery_at: Duration::ZERO,
                closed: false,
            });
        }
        let Some(incident) = &mut self.incident else { return false };
        incident.last = incident.last.max(now);
        incident.count += u64::from(counts);
        if class > incident.class {
            (incident.class, incident.worst, news) = (class, seen.code, true);
        }
        if seen.recovery.is_some() && incident.recovery != seen.recovery {
            (incident.recovery, incident.recovery_at, news) = (seen.recovery, now, true);
        }
        let explains = seen.code != KILLED && seen.code != RECOVERY_ACTION;
        if incident.cause.is_none() {
            let cause = if explains { Some(seen.code) } else { seen.caused_by };
            if let Some(cause) = cause {
                (incident.cause, incident.inferred, news) = (Some(cause), !explains, true);
                if explains {
                    incident.text = seen.text.to_owned();
                }
            }
        } else if incident.inferred && incident.cause == Some(seen.code) {
            // The line that was missing came after all.
            (incident.inferred, incident.text, news) = (false, seen.text.to_owned(), true);
        }
        if let Some(cause) = incident.cause.filter(|_| incident.inferred) {
            let class = severities.class(cause);
            if class > incident.class {
                (incident.class, incident.worst) = (class, cause);
            }
        }
        news
    }
}
