//! One GPU as last read: who it is, its numbers by signal, its links, instances and processes.

use std::time::Instant;

use domain::gpu::{GPUS_MAX, GpuFacts};
use nvml::{Error, GpmMetricId, Gpu, Library, Look, MigDevice, PciAddress, Process};

use super::table::{Read, Signal, TABLE, Tier};
use crate::node::metric::bounded;

/// Most NVLinks of a GPU (Blackwell has 18, as Hopper).
const LINKS_MAX: u32 = 18;
const NVLINK_STATE: u32 = 165;
/// Most processes of one GPU that are kept.
const PROCESSES_MAX: usize = 64;

/// What does not change while the driver is loaded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    pub index: u32,
    pub uuid: String,
    pub pci: PciAddress,
    pub model: String,
    pub serial: String,
    pub vbios: String,
    pub minor: Option<u32>,
    pub mig: Vec<MigDevice>,
}

impl Identity {
    /// Whether a person means this GPU: by its position in PCI order or its UUID.
    pub fn is(&self, name: &str) -> bool {
        name == self.uuid || name.parse() == Ok(self.index)
    }

    /// `00000000:18:00.0`, as NVML and DCGM write it.
    pub fn pci_bus_id(&self) -> String {
        let PciAddress { domain, bus, device } = self.pci;
        format!("{domain:08X}:{bus:02X}:{device:02X}.0")
    }
}

/// Finds every GPU.
pub fn all(library: &Library) -> Result<Vec<(Gpu, Identity)>, Error> {
    let count = library.gpu_count()?.min(GPUS_MAX as u32);
    let mut gpus = Vec::with_capacity(count as usize);
    for index in 0..count {
        // One that is lost at the start has no identity; the others have.
        let found = library.gpu(index).and_then(|gpu| identity(&gpu, index).map(|identity| (gpu, identity)));
        match found {
            Ok(found) => gpus.push(found),
            Err(error) => tracing::error!(gpu = index, %error, "a GPU cannot be identified and is not sensed"),
        }
    }
    Ok(gpus)
}

fn identity(gpu: &Gpu, index: u32) -> Result<Identity, Error> {
    let text = |text: String| bounded(&text).into_owned();
    Ok(Identity {
        index,
        uuid: text(gpu.uuid()?),
        pci: gpu.pci_address()?,
        model: text(gpu.name_lossy()?),
        serial: text(gpu.serial_lossy().unwrap_or_default()),
        vbios: text(gpu.vbios_version().unwrap_or_default()),
        minor: gpu.minor_number().ok(),
        mig: gpu.mig_devices().unwrap_or_default(),
    })
}

/// One GPU as last read.
#[derive(Clone, Debug)]
pub struct GpuSample {
    pub identity: Identity,
    values: Vec<Option<f64>>,
    /// Signals that this GPU does not offer are asked for once.
    offered: Vec<bool>,
    begun: bool,
    /// When it last answered.
    pub at: Instant,
    /// It has fallen off the bus, or is otherwise gone.
    pub lost: bool,
    /// It says that it must be reset.
    pub reset_required: bool,
    /// NVLinks that are active, and those that ever were since the agent's start.
    pub links_up: u32,
    pub links_seen: u32,
    pub processes: Vec<Process>,
    /// Counts resets: a counter that may not fall fell, or the GPU came back.
    pub resets: u64,
}

impl GpuSample {
    pub fn new(identity: Identity) -> Self {
        Self {
            identity,
            values: vec![None; TABLE.len()],
            offered: vec![true; TABLE.len()],
            begun: false,
            at: Instant::now(),
            lost: false,
            reset_required: false,
            links_up: 0,
            links_seen: 0,
            processes: Vec::new(),
            resets: 0,
        }
    }

    /// In the unit of the row's name; `None` where the GPU does not say.
    pub fn get(&self, signal: Signal) -> Option<f64> {
        self.values[signal as usize]
    }

    /// What schedulers are told.
    pub fn facts(&self) -> GpuFacts {
        let bytes = |signal| self.get(signal).map(|bytes| bytes as u64);
        GpuFacts {
            busy: self.get(Signal::Busy),
            sm_active: self.get(Signal::SmActive),
            dram_active: self.get(Signal::DramActive),
            memory_used_bytes: bytes(Signal::MemoryUsed),
            memory_total_bytes: bytes(Signal::MemoryTotal),
            power_w: self.get(Signal::Power),
            temperature_c: self.get(Signal::Temperature),
        }
    }

    /// Everything is asked for again: the GPU was reset.
    pub(super) fn again(&mut self) {
        self.offered.fill(true);
        self.begun = false;
    }

    /// Reads the signals of a tier. `failed` is told of calls that failed for other reasons than that the GPU lacks what was asked for.
    pub(super) fn read(&mut self, gpu: &mut Gpu, tier: Tier, mut failed: impl FnMut(&str)) {
        if tier != Tier::Second {
            // One that is gone is asked by the next poll whether it is back.
            if !self.lost && !self.reset_required && self.read_tier(gpu, tier, &mut failed) && tier == Tier::TenSeconds {
                self.read_links(gpu);
                match gpu.compute_processes() {
                    Ok(processes) => self.processes = processes.into_iter().take(PROCESSES_MAX).collect(),
                    Err(error) => self.note(&error, &mut failed),
                }
            }
            return;
        }
        let was = (self.lost, self.reset_required);
        (self.lost, self.reset_required) = (false, false);
        if !self.begun {
            self.begun = true;
            self.read_tier(gpu, Tier::Start, &mut failed);
        }
        if self.read_tier(gpu, tier, &mut failed) {
            self.at = Instant::now();
            self.resets += u64::from(was != (false, false));
            return;
        }
        if !self.lost && !self.reset_required {
            // It did not answer, and did not say why: what was known of it stands.
            (self.lost, self.reset_required) = was;
        }
        // Numbers of a GPU that does not answer are not its present ones. Its energy is kept, by which a reset is seen.
        for (signal, value) in self.values.iter_mut().enumerate() {
            if signal != Signal::Energy as usize {
                *value = None;
            }
        }
    }

    /// Whether the GPU answered at all.
    fn read_tier(&mut self, gpu: &mut Gpu, tier: Tier, failed: &mut impl FnMut(&str)) -> bool {
        let mut answered = false;
        let look = Look::at(gpu);
        let mut fields = Vec::new();
        let mut metrics: Vec<(Signal, GpmMetricId)> = Vec::new();
        for row in TABLE.iter().filter(|row| row.tier == tier) {
            if !self.offered[row.signal as usize] {
                continue;
            }
            match row.read {
                Read::Call(call) => {
                    let read = call(&look);
                    answered |= read.is_ok();
                    self.take(row.signal, read, failed);
                    if self.lost || self.reset_required {
                        // Whatever is asked now fails too, and a lost GPU may take long to say so.
                        return false;
                    }
                }
                Read::Field(id) => fields.push((row.signal, id)),
                Read::Gpm(metric) => metrics.push((row.signal, metric)),
            }
        }
        let asked: Vec<(u32, u32)> = fields.iter().map(|(_, id)| (*id, 0)).collect();
        if !asked.is_empty() {
            match gpu.fields(&asked) {
                Ok(values) => {
                    for ((signal, _), value) in fields.iter().zip(values) {
                        self.take(*signal, value, failed);
                    }
                }
                Err(error) => self.note(&error, failed),
            }
        }
        if !metrics.is_empty() {
            self.read_gpm(gpu, &metrics, failed);
        }
        answered
    }

    fn read_gpm(&mut self, gpu: &mut Gpu, metrics: &[(Signal, GpmMetricId)], failed: &mut impl FnMut(&str)) {
        let offered = gpu.gpm_support();
        if !matches!(offered, Ok(true)) {
            metrics.iter().for_each(|(signal, _)| self.offered[*signal as usize] = false);
            return;
        }
        let ids: Vec<GpmMetricId> = metrics.iter().map(|(_, id)| *id).collect();
        match gpu.gpm(&ids) {
            Ok(None) => {}
            Ok(Some(values)) => {
                for ((signal, _), value) in metrics.iter().zip(values) {
                    self.put(*signal, value);
                }
            }
            Err(error) => self.note(&error, failed),
        }
    }

    fn read_links(&mut self, gpu: &Gpu) {
        let asked: Vec<(u32, u32)> = (0..LINKS_MAX).map(|link| (NVLINK_STATE, link)).collect();
        let Ok(states) = gpu.fields(&asked) else { return };
        self.links_up = states.iter().filter(|state| matches!(state, Ok(up) if *up != 0.0)).count() as u32;
        self.links_seen = self.links_seen.max(self.links_up);
    }

    fn put(&mut self, signal: Signal, value: Option<f64>) {
        let value = value.map(|value| value * signal.row().scale);
        if signal == Signal::Energy
            && let (Some(before), Some(now)) = (self.get(signal), value)
            && now < before
        {
            // Energy is counted since the driver was loaded or the GPU was reset.
            self.resets += 1;
        }
        self.values[signal as usize] = value;
    }

    fn take(&mut self, signal: Signal, read: Result<f64, Error>, failed: &mut impl FnMut(&str)) {
        match read {
            Ok(value) => self.put(signal, Some(value)),
            Err(Error::NotSupported | Error::FailedToLoadSymbol(_) | Error::InvalidArg | Error::FunctionNotFound) => {
                self.put(signal, None);
                self.offered[signal as usize] = false;
            }
            Err(error) => {
                // A number that cannot be had is not the number of a minute ago.
                self.values[signal as usize] = None;
                self.note(&error, failed);
            }
        }
    }

    fn note(&mut self, error: &Error, failed: &mut impl FnMut(&str)) {
        match error {
            Error::GpuLost => self.lost = true,
            Error::ResetRequired => self.reset_required = true,
            Error::NotSupported | Error::FailedToLoadSymbol(_) | Error::NoData | Error::NotFound => return,
            _ => {}
        }
        failed(&error.to_string());
    }
}
