//! The loop: senses in, verdicts out.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use domain::EngineName;
use domain::gpu::{EngineHealth, GpuFacts, GpuReport, Verdict};
use nvml::PciAddress;
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;

use super::hold::{Change, Judgement, Levels, Memory};
use super::rules::{Counters, View};
use super::store::{Store, Stored};
use crate::collect::kmsg::{self, Listener, Reader, Record};
use crate::collect::nvml::{self as sensing, Sensor, Snapshot, Stack, metrics};
use crate::config::Slot;
use crate::node::metric::Family;
use crate::node::{Counters as NodeCounters, Node, Urgency};
use crate::xid::{Ledger, Parsed, Severities, Sighting, Source};

/// Between two looks at whether the GPU stack still answers.
const LOOK_EVERY: Duration = Duration::from_millis(250);
/// Least time between two urgent reports: a flood of faults must not become a flood of messages.
const URGENT_GAP: Duration = Duration::from_millis(100);

/// Lines stamped this long before the agent began are from before it.
const BACKLOG: Duration = Duration::from_secs(5);

/// What the operator sets.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Settings {
    /// Verdicts are told and exported, and nobody acts on them.
    pub observe: bool,
    pub xid: Severities,
    pub levels: Levels,
}

/// Time since boot, as the kernel log counts it.
#[derive(Clone, Copy, Debug)]
pub struct BootClock {
    at: Duration,
    from: Instant,
}

impl BootClock {
    /// Reads `/proc/uptime`; without it the clock begins at zero.
    pub fn read() -> Self {
        let text = std::fs::read_to_string("/proc/uptime").unwrap_or_default();
        let seconds = text.split(' ').next().and_then(|seconds| seconds.parse::<f64>().ok()).unwrap_or(0.0);
        Self { at: Duration::from_secs_f64(seconds.clamp(0.0, 1e10)), from: Instant::now() }
    }

    pub fn now(&self) -> Duration {
        self.at + self.from.elapsed()
    }

    /// When a line was heard of. The kernel stamps its log by a clock that nobody corrects, which runs away from this one by seconds in a
    /// month: its stamp is taken for what is older than the agent alone.
    fn heard(&self, stamped: Duration) -> Duration {
        if stamped + BACKLOG < self.at { stamped } else { self.now() }
    }
}

/// What the threads that hear of XIDs share with the loop.
struct Ears {
    ledger: Mutex<Ledger>,
    severities: Severities,
    clock: BootClock,
    news: Notify,
}

impl Ears {
    fn ledger(&self) -> MutexGuard<'_, Ledger> {
        self.ledger.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn hear(&self, source: Source, seen: &Sighting<'_>, at: Duration) {
        if self.ledger().see(source, seen, at, &self.severities) {
            self.news.notify_one();
        }
    }
}

struct KernelLog(Arc<Ears>);

impl Listener for KernelLog {
    fn line(&mut self, record: Record<'_>, parsed: Parsed<'_>) {
        match parsed {
            Parsed::Xid(seen) => self.0.hear(Source::KernelLog, &seen, self.0.clock.heard(record.at)),
            Parsed::Unparsed => self.0.ledger().unparsed += 1,
            Parsed::Other => {}
        }
    }
}

#[derive(Default)]
struct State {
    stored: Stored,
    judged: BTreeMap<String, Judgement>,
    raised: BTreeMap<&'static str, u64>,
    recovered: BTreeMap<&'static str, u64>,
    /// An operator's word is not written down yet.
    unsaved: bool,
    urgent_at: Option<Instant>,
    urgent_held_back: u64,
}

impl State {
    fn count(&mut self, gpu: u32, uuid: &str, changes: &[Change]) {
        for change in changes {
            match change {
                Change::Raised { rule, reason } => {
                    *self.raised.entry(rule).or_default() += 1;
                    tracing::warn!(gpu, uuid, rule, reason, "GPU finding");
                }
                Change::Recovered { rule, reason } => {
                    *self.recovered.entry(rule).or_default() += 1;
                    tracing::info!(gpu, uuid, rule, reason, "GPU recovered");
                }
            }
        }
    }
}

/// Senses, judges and tells.
pub struct Monitor {
    settings: Settings,
    dcgm: sensing::Dcgm,
    node: Arc<Node>,
    sensor: Arc<Sensor>,
    ears: Arc<Ears>,
    /// The error says why the kernel log is not read.
    kmsg: Result<Reader, String>,
    store: Store,
    state: Mutex<State>,
    began: Duration,
    /// GPUs of each engine, as configured: positions or UUIDs.
    engines: Vec<(EngineName, Vec<String>)>,
    /// What its GPUs mean for each engine: changes only when that changes.
    devices: watch::Sender<Arc<BTreeMap<EngineName, EngineHealth>>>,
}

impl Monitor {
    /// Starts the senses. What is not there is told by [`Monitor::families`] and `/status`; it is no error.
    pub fn start(
        settings: Settings,
        nvml: &sensing::Settings,
        host_root: &Path,
        state_dir: &Path,
        node: Arc<Node>,
        slots: &[Slot],
    ) -> std::io::Result<Self> {
        let store = Store::new(state_dir);
        let stored = store.load(&node.identity.boot_id);
        let clock = BootClock::read();
        let ears = Arc::new(Ears { ledger: Mutex::default(), severities: settings.xid.clone(), clock, news: Notify::new() });
        let path = host_root.join("dev/kmsg");
        let kmsg = Reader::start(&path, stored.kmsg_next, Box::new(KernelLog(ears.clone())))
            .map_err(|error| format!("{}: {error}; the agent needs CAP_SYSLOG where kernel.dmesg_restrict is 1", path.display()));
        if let Err(why) = &kmsg {
            tracing::warn!(why, "the kernel log is not read: XIDs are taken from NVML alone, which keeps one of many");
        }
        let heard = ears.clone();
        let on_event = Box::new(move |gpu: &sensing::Identity, event: ::nvml::Event| {
            if event.kind == ::nvml::kind::XID {
                let code = u32::try_from(event.data).unwrap_or(u32::MAX);
                heard.hear(Source::Nvml, &seen_by_nvml(gpu.pci, code, event.gpu_instance), heard.clock.now());
            } else {
                // The verdict is in fields that are read anyway; the event only says that it is time.
                heard.news.notify_one();
            }
        });
        let sensor = Sensor::start(nvml, on_event)?;
        let engines = slots.iter().map(|slot| (slot.name.clone(), slot.gpus.clone())).collect();
        let monitor = Self {
            settings,
            dcgm: nvml.dcgm,
            node,
            sensor,
            began: ears.clock.now(),
            ears,
            kmsg,
            store,
            state: Mutex::new(State { stored, ..State::default() }),
            engines,
            devices: watch::Sender::new(Arc::default()),
        };
        let known = monitor.written_down(&monitor.state().stored);
        if !monitor.settings.observe {
            monitor.devices.send_replace(Arc::new(monitor.engines(&known)));
        }
        Ok(monitor)
    }

    /// GPUs as the agent before left them: an engine must not be started on a quarantined one before it has been seen again.
    fn written_down(&self, stored: &Stored) -> Vec<GpuReport> {
        let report = |(uuid, memory): (&String, &Memory)| {
            let (verdict, reason) = memory.standing(&self.settings.levels);
            GpuReport {
                uuid: uuid.clone(),
                index: memory.index,
                pci_bus_id: String::new(),
                model: String::new(),
                verdict,
                reasons: reason.map(str::to_owned).into_iter().collect(),
                capacity: 1.0,
                facts: GpuFacts::default(),
                age: Duration::ZERO,
            }
        };
        stored.gpus.iter().map(report).collect()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What its GPUs mean for each engine; empty where nobody is to act on it.
    pub fn devices(&self) -> watch::Receiver<Arc<BTreeMap<EngineName, EngineHealth>>> {
        self.devices.subscribe()
    }

    pub fn sensor(&self) -> &Arc<Sensor> {
        &self.sensor
    }

    /// Judges at every poll, at every piece of news and four times a second, until `shutdown`.
    pub async fn run(self: Arc<Self>, shutdown: CancellationToken) {
        let mut snapshots = self.sensor.subscribe();
        let mut ticks = tokio::time::interval(LOOK_EVERY);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut last = Stack::Unknown;
        loop {
            tokio::select! {
                () = shutdown.cancelled() => break,
                () = self.ears.news.notified() => {}
                changed = snapshots.changed() => if changed.is_err() { break },
                _ = ticks.tick() => {
                    // Between polls only the clock moves.
                    let stack = self.sensor.stack();
                    if stack.as_str() == last.as_str() && !matches!(stack, Stack::Unresponsive { .. }) {
                        continue;
                    }
                }
            }
            let stack = self.sensor.stack();
            if stack.as_str() != last.as_str() {
                tracing::info!(before = last.as_str(), now = stack.as_str(), "GPU stack");
            }
            last = stack.clone();
            if self.judge(&self.sensor.snapshot(), &stack) {
                self.save().await;
            }
        }
        self.sensor.stop();
        self.save().await;
    }

    /// Judges all GPUs and tells what changed. Returns whether there is something to write down.
    fn judge(&self, snapshot: &Snapshot, stack: &Stack) -> bool {
        let now = self.ears.clock.now();
        let mut guard = self.state();
        let state = &mut *guard;
        let mut reports = Vec::with_capacity(snapshot.gpus.len());
        let mut changed = std::mem::take(&mut state.unsaved);
        for gpu in &snapshot.gpus {
            let uuid = &gpu.identity.uuid;
            let memory: &mut Memory = state.stored.gpus.entry(uuid.clone()).or_default();
            memory.index = gpu.identity.index;
            let judgement = {
                let mut ledger = self.ears.ledger();
                let incident = ledger.incident(gpu.identity.pci);
                let (before, settled) = (Counters::default(), Duration::ZERO);
                let view = View { gpu, stack, incident, before, settled, began: self.began, now };
                let settled = memory.settled;
                let judgement = memory.judge(&view, &self.settings.levels);
                if memory.settled > settled {
                    ledger.close(gpu.identity.pci);
                }
                judgement
            };
            changed |= !judgement.changes.is_empty();
            state.count(gpu.identity.index, uuid, &judgement.changes);
            reports.push(GpuReport {
                uuid: uuid.clone(),
                index: gpu.identity.index,
                pci_bus_id: gpu.identity.pci_bus_id(),
                model: gpu.identity.model.clone(),
                verdict: judgement.verdict,
                reasons: judgement.reasons.clone(),
                capacity: judgement.capacity,
                facts: gpu.facts(),
                age: gpu.at.elapsed(),
            });
            state.judged.insert(uuid.clone(), judgement);
        }
        if reports.is_empty() {
            // Not seen yet: what was written down stands.
            return changed;
        }
        // Nor is a GPU well because it cannot be identified any more.
        let missing = self.written_down(&state.stored).into_iter();
        let unseen = |old: &GpuReport| old.verdict > Verdict::Ok && snapshot.gpus.iter().all(|gpu| gpu.identity.uuid != old.uuid);
        reports.extend(missing.filter(unseen));
        let engines = if self.settings.observe { BTreeMap::new() } else { self.engines(&reports) };
        let urgency = self.urgency(state, &engines);
        drop(guard);
        self.node.set_gpus(reports);
        for (engine, health) in &engines {
            self.node.update(engine, urgency, |status| status.health = health.clone());
        }
        self.devices.send_if_modified(|devices| {
            let news = **devices != engines;
            if news {
                *devices = Arc::new(engines);
            }
            news
        });
        changed
    }

    /// Work that must not be sent any more is urgent, at most once in [`URGENT_GAP`].
    fn urgency(&self, state: &mut State, engines: &BTreeMap<EngineName, EngineHealth>) -> Urgency {
        let before = self.devices.borrow().clone();
        let took = |engine: &EngineName| before.get(engine).is_none_or(|health| health.verdict.takes_work());
        let lost_work = engines.iter().any(|(engine, health)| !health.verdict.takes_work() && took(engine));
        if !lost_work {
            return Urgency::Usual;
        }
        let now = Instant::now();
        if state.urgent_at.is_some_and(|at| now - at < URGENT_GAP) {
            state.urgent_held_back += 1;
            return Urgency::Usual;
        }
        state.urgent_at = Some(now);
        Urgency::Urgent
    }

    /// The worst of each engine's GPUs.
    fn engines(&self, reports: &[GpuReport]) -> BTreeMap<EngineName, EngineHealth> {
        let of = |(name, gpus): &(EngineName, Vec<String>)| {
            let own = |report: &&GpuReport| gpus.iter().any(|gpu| *gpu == report.uuid || gpu.parse() == Ok(report.index));
            let own: Vec<&GpuReport> = reports.iter().filter(own).collect();
            let worst = own.iter().max_by_key(|report| report.verdict)?;
            let reason = worst.reasons.first().filter(|_| worst.verdict > Verdict::Ok);
            Some((
                name.clone(),
                EngineHealth {
                    verdict: worst.verdict,
                    capacity: own.iter().map(|report| report.capacity).fold(1.0, f64::min),
                    reason: reason.map(|reason| format!("GPU {}: {reason}", worst.index)).unwrap_or_default(),
                },
            ))
        };
        self.engines.iter().filter_map(of).collect()
    }

    async fn save(&self) {
        let stored = {
            let mut state = self.state();
            state.stored.boot_id.clone_from(&self.node.identity.boot_id);
            if let Ok(reader) = &self.kmsg {
                let next = reader.totals.next.load(std::sync::atomic::Ordering::Relaxed);
                state.stored.kmsg_next = state.stored.kmsg_next.max(next);
            }
            state.stored.clone()
        };
        let store = self.store.clone();
        if let Ok(Err(error)) = tokio::task::spawn_blocking(move || store.save(&stored)).await {
            NodeCounters::add(&self.node.counters.record_failures, 1);
            tracing::error!(%error, "verdicts cannot be written down: a restarted agent may not know them");
        }
    }

    /// An operator says that a GPU is repaired. `None`: there is no such GPU; else whether anything was held against it.
    pub fn release(&self, gpu: &str) -> Option<bool> {
        let mut guard = self.state();
        let state = &mut *guard;
        // One that cannot be identified any more is known by what was written down of it.
        let named = |(uuid, memory): &(&String, &mut Memory)| *uuid == gpu || gpu.parse() == Ok(memory.index);
        let (uuid, memory) = state.stored.gpus.iter_mut().find(named)?;
        let (uuid, index) = (uuid.clone(), memory.index);
        let changes = memory.release(self.ears.clock.now());
        state.count(index, &uuid, &changes);
        state.unsaved = true;
        if let Some(sample) = self.sensor.snapshot().gpus.iter().find(|sample| sample.identity.uuid == uuid) {
            self.ears.ledger().close(sample.identity.pci);
        }
        self.ears.news.notify_one();
        Some(!changes.is_empty())
    }

    /// Everything of the GPUs as metrics, from what was last read.
    pub fn families(&self) -> Vec<Family> {
        let (snapshot, stack) = (self.sensor.snapshot(), self.sensor.stack());
        let mut families = {
            let ledger = self.ears.ledger();
            let node = self.node.identity.node.as_str();
            let mut families = metrics::families(&snapshot, &stack, &ledger, node, self.dcgm);
            families.extend(metrics::xids(&snapshot, &ledger));
            families
        };
        let mut errors = Family::counter("trackside_nvml_errors_total", "Calls of NVML that failed, by what it said.");
        for (error, count) in &*self.sensor.errors.lock().unwrap_or_else(PoisonError::into_inner) {
            errors.push([("error", error)], *count as f64);
        }
        families.push(errors);
        families.extend(self.verdicts(&snapshot));
        if let Ok(reader) = &self.kmsg {
            let kmsg::Totals { records, overruns, lost, next: _ } = &*reader.totals;
            let total = |name, help, value| Family::counter(name, help).with([], NodeCounters::get(value) as f64);
            families.extend([
                total("trackside_kmsg_records_total", "Records of the kernel log that were read.", records),
                total("trackside_kmsg_overruns_total", "Times the kernel log was faster than its reader.", overruns),
                total("trackside_kmsg_records_lost_total", "Records of the kernel log lost in overruns.", lost),
            ]);
        }
        families
    }

    fn verdicts(&self, snapshot: &Snapshot) -> [Family; 6] {
        let state = self.state();
        let mut verdict = Family::gauge("trackside_gpu_verdict", "1 for the verdict over each GPU.");
        let mut capacity = Family::gauge("trackside_gpu_capacity_ratio", "Share of its usual throughput that a GPU still has.");
        let mut raised = Family::counter("trackside_gpu_findings_total", "Findings raised, by rule.");
        let mut recovered = Family::counter("trackside_gpu_recoveries_total", "Findings that ended, by rule.");
        let mut holds = Family::gauge("trackside_gpu_finding", "1 for each rule that holds against a GPU.");
        for gpu in &snapshot.gpus {
            let id = &gpu.identity;
            let Some(judged) = state.judged.get(&id.uuid) else { continue };
            let index = id.index.to_string();
            for each in Verdict::ALL {
                let labels = [("gpu", index.as_str()), ("uuid", &id.uuid), ("verdict", each.as_str())];
                verdict.push(labels, f64::from(u8::from(each == judged.verdict)));
            }
            capacity.push([("gpu", &index), ("uuid", &id.uuid)], judged.capacity);
            for rule in &judged.rules {
                holds.push([("gpu", index.as_str()), ("uuid", &id.uuid), ("rule", rule)], 1.0);
            }
        }
        for (rule, count) in &state.raised {
            raised.push([("rule", rule)], *count as f64);
        }
        for (rule, count) in &state.recovered {
            recovered.push([("rule", rule)], *count as f64);
        }
        let held_back = Family::counter(
            "trackside_gpu_urgent_reports_held_back_total",
            "Urgent reports that waited for the next usual one, because another had just left.",
        );
        let held_back = held_back.with([], state.urgent_held_back as f64);
        [verdict, capacity, raised, recovered, holds, held_back]
    }

    /// Whether the kernel log is read, and why not.
    pub fn kernel_log(&self) -> Result<(), &str> {
        self.kmsg.as_ref().map(|_| ()).map_err(String::as_str)
    }
}

fn seen_by_nvml(gpu: PciAddress, code: u32, gpu_instance: Option<u32>) -> Sighting<'static> {
    Sighting { gpu, code, gpu_instance, fatal: None, caused_by: None, recovery: None, text: "" }
}
