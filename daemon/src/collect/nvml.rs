//! Senses NVIDIA GPUs. One thread owns every handle and makes every call, because a call may hang for ever: what it found is published as a
//! snapshot, and whoever wants to know reads that. A second thread waits for events.
//!
//! Three missed polls mean that the GPU stack is unresponsive. That is something to report, not to repair: the thread stays where it hangs
//! (nothing could end it), everything else of the agent goes on, and when the call comes back, so does the sensing.

pub mod gpu;
pub mod metrics;
pub mod table;

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use nvml::{Event, Gpu, Library, Unavailable};
use tokio::sync::watch;

pub use self::gpu::{GpuSample, Identity};
use self::table::Tier;

/// Between two polls.
pub const EVERY: Duration = Duration::from_secs(1);
/// Polls of one second in a row that may be missed before the stack counts as unresponsive.
pub const MISSED_MAX: u32 = 3;
/// Between two looks for a library or a driver that was not there.
const LOOK_AGAIN: Duration = Duration::from_secs(60);
/// Longest wait for an event; then the thread looks whether it is to end.
const EVENT_WAIT_MS: u32 = 500;

/// What the operator sets.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Settings {
    /// Absolute path of `libnvidia-ml.so.1`; the loader's own where absent.
    pub library: Option<PathBuf>,
    pub dcgm: Dcgm,
    pub off: bool,
}

/// Whether samples are exported under DCGM's names too, and how the label of the host is spelled.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Dcgm {
    Off,
    /// `hostname`, as dcgm-exporter since May 2026.
    #[default]
    Hostname,
    /// `Hostname`, as before.
    CapitalHostname,
}

/// How the GPU stack does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Stack {
    /// Not looked for yet, or switched off.
    Unknown,
    Absent(String),
    Failed(String),
    Answers,
    /// A call has not come back.
    Unresponsive {
        missed: u32,
    },
}

impl Stack {
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Unknown => "unknown",
            Self::Absent(_) => "absent",
            Self::Failed(_) => "failed",
            Self::Answers => "answers",
            Self::Unresponsive { .. } => "unresponsive",
        }
    }
}

/// All GPUs at one moment.
#[derive(Clone, Debug)]
pub struct Snapshot {
    /// [`Stack::Unresponsive`] is never found here: who hangs cannot say so. See [`Sensor::stack`].
    pub stack: Stack,
    pub at: Instant,
    pub driver_version: String,
    pub gpus: Vec<Arc<GpuSample>>,
    /// Time the last poll took.
    pub poll: Duration,
    pub polls: u64,
}

/// What the threads and their readers share.
pub struct Sensor {
    started: Instant,
    snapshot: watch::Sender<Arc<Snapshot>>,
    /// When the poll under way began, in ms since `started` + 1; 0 between polls.
    busy_since_ms: AtomicU64,
    stop: AtomicBool,
    /// Calls that failed, by what NVML said; bounded by the number of NVML's codes.
    pub errors: Mutex<std::collections::BTreeMap<String, u64>>,
}

/// Told of every event, on the thread that waits for them.
pub type OnEvent = Box<dyn FnMut(&Identity, Event) + Send>;

impl Sensor {
    /// Starts the threads. They end with [`Sensor::stop`], unless a call hangs: then they end with the process.
    pub fn start(settings: &Settings, on_event: OnEvent) -> std::io::Result<Arc<Self>> {
        let begin = Snapshot {
            stack: Stack::Unknown,
            at: Instant::now(),
            driver_version: String::new(),
            gpus: Vec::new(),
            poll: Duration::ZERO,
            polls: 0,
        };
        let sensor = Arc::new(Self {
            started: Instant::now(),
            snapshot: watch::Sender::new(Arc::new(begin)),
            busy_since_ms: AtomicU64::new(0),
            stop: AtomicBool::new(false),
            errors: Mutex::default(),
        });
        if !settings.off {
            let (shared, library) = (sensor.clone(), settings.library.clone());
            std::thread::Builder::new().name("nvml".into()).spawn(move || shared.run(library, on_event))?;
        }
        Ok(sensor)
    }

    pub fn stop(&self) {
        self.stop.store(true, Ordering::Relaxed);
    }

    pub fn subscribe(&self) -> watch::Receiver<Arc<Snapshot>> {
        self.snapshot.subscribe()
    }

    pub fn snapshot(&self) -> Arc<Snapshot> {
        self.snapshot.borrow().clone()
    }

    /// How the stack does at this moment, seen from outside the thread that may hang.
    pub fn stack(&self) -> Stack {
        match self.busy_since_ms.load(Ordering::Relaxed).checked_sub(1) {
            Some(since) => {
                let busy = self.started.elapsed().saturating_sub(Duration::from_millis(since));
                let missed = (busy.as_millis() / EVERY.as_millis()) as u32;
                if missed >= MISSED_MAX { Stack::Unresponsive { missed } } else { self.snapshot().stack.clone() }
            }
            None => self.snapshot().stack.clone(),
        }
    }

    fn stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    /// Marks that calls are made from here on.
    fn enter(&self) {
        self.busy_since_ms.store(self.started.elapsed().as_millis() as u64 + 1, Ordering::Relaxed);
    }

    fn leave(&self) {
        self.busy_since_ms.store(0, Ordering::Relaxed);
    }

    fn sleep(&self, duration: Duration) {
        let until = Instant::now() + duration;
        while !self.stopped() {
            let Some(left) = until.checked_duration_since(Instant::now()) else { return };
            std::thread::sleep(left.min(Duration::from_millis(100)));
        }
    }

    fn publish(&self, snapshot: Snapshot) {
        self.snapshot.send_replace(Arc::new(snapshot));
    }

    fn run(self: Arc<Self>, library: Option<PathBuf>, on_event: OnEvent) {
        let mut told = String::new();
        let opened = loop {
            if self.stopped() {
                return;
            }
            self.enter();
            let opened = Library::open(library.as_deref()).and_then(|library| {
                let gpus = gpu::all(&library).map_err(|error| Unavailable::Failed(error.to_string()))?;
                if gpus.is_empty() { Err(Unavailable::Absent("the driver knows of no GPU".into())) } else { Ok((library, gpus)) }
            });
            self.leave();
            let stack = match opened {
                Ok(opened) => break opened,
                Err(Unavailable::Absent(why)) => Stack::Absent(why),
                Err(Unavailable::Failed(why)) => Stack::Failed(why),
            };
            if let Stack::Absent(why) | Stack::Failed(why) = &stack
                && *why != told
            {
                tracing::info!(why, state = stack.as_str(), "no GPUs are sensed; looked for again every minute");
                told.clone_from(why);
            }
            self.publish(Snapshot { stack, at: Instant::now(), ..self.snapshot().as_ref().clone() });
            self.sleep(LOOK_AGAIN);
        };
        let (library, gpus) = opened;
        self.listen(&library, &gpus, on_event);
        self.poll(&library, gpus);
    }

    /// Starts the thread that waits for events. Without one, the kernel log still tells of XIDs.
    fn listen(self: &Arc<Self>, library: &Library, gpus: &[(Gpu, Identity)], mut on_event: OnEvent) {
        // Handles are equal for one GPU, so the thread gets a set over handles of its own.
        let handles: Result<Vec<Gpu>, nvml::Error> = gpus.iter().map(|(_, identity)| library.gpu(identity.index)).collect();
        let events = match handles.and_then(|handles| library.events(&handles)) {
            Ok(events) => events,
            Err(error) => {
                tracing::warn!(%error, "no NVML events; XIDs are taken from the kernel log alone");
                return;
            }
        };
        let identities: Vec<Identity> = gpus.iter().map(|(_, identity)| identity.clone()).collect();
        let shared = self.clone();
        let thread = std::thread::Builder::new().name("nvml-events".into()).spawn(move || {
            while !shared.stopped() {
                match events.wait(EVENT_WAIT_MS) {
                    Ok(None) => {}
                    Ok(Some(event)) => match event.gpu.and_then(|index| identities.get(index)) {
                        Some(identity) => on_event(identity, event),
                        None => shared.count("event of an unknown GPU"),
                    },
                    Err(error) => {
                        // A GPU that is lost makes the wait fail at once, again and again.
                        shared.count(&error.to_string());
                        shared.sleep(EVERY);
                    }
                }
            }
        });
        if let Err(error) = thread {
            tracing::warn!(%error, "no thread for NVML events; XIDs are taken from the kernel log alone");
        }
    }

    pub(crate) fn count(&self, error: &str) {
        let mut errors = self.errors.lock().unwrap_or_else(PoisonError::into_inner);
        if errors.len() < 64 || errors.contains_key(error) {
            *errors.entry(error.to_owned()).or_default() += 1;
        }
    }

    fn poll(&self, library: &Library, mut gpus: Vec<(Gpu, Identity)>) {
        let driver_version = library.driver_version().unwrap_or_default();
        let mut samples: Vec<Arc<GpuSample>> = gpus.iter().map(|(_, id)| Arc::new(GpuSample::new(id.clone()))).collect();
        // Nodes that were switched on together do not poll together.
        self.sleep(EVERY.mul_f64(f64::from(rand::random::<u8>()) / 1024.0));
        let mut polls: u64 = 0;
        while !self.stopped() {
            let began = Instant::now();
            self.enter();
            for ((gpu, identity), sample) in gpus.iter_mut().zip(&mut samples) {
                let mut next = GpuSample::clone(sample);
                if (next.lost || next.reset_required) && polls.is_multiple_of(10) {
                    // After a reset the old handle may stay dead.
                    if let Ok(again) = library.gpu(identity.index) {
                        *gpu = again;
                        next.again();
                    }
                }
                for (tier, period) in [(Tier::Second, 1), (Tier::TenSeconds, 10), (Tier::Minute, 60)] {
                    if polls.is_multiple_of(period) {
                        next.read(gpu, tier, |error| self.count(error));
                    }
                }
                *sample = Arc::new(next);
            }
            self.leave();
            polls += 1;
            self.publish(Snapshot {
                stack: Stack::Answers,
                at: Instant::now(),
                driver_version: driver_version.clone(),
                gpus: samples.clone(),
                poll: began.elapsed(),
                polls,
            });
            self.sleep(EVERY.saturating_sub(began.elapsed()));
        }
    }
}
