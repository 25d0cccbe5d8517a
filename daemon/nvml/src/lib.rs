//! NVIDIA's management library as the node agent uses it: found at run time, its handles owned by one thread, its gaps in the wrapper filled.
//!
//! Most of it is `nvml-wrapper`, whose methods a [`Gpu`] has by deref. What the wrapper lacks stands in `gaps`, the agent's only unsafe code
//! for NVML. Calls may hang for ever (a driver whose firmware died holds its lock): whoever calls must be a thread that others can do
//! without. The library is never unloaded, because a hung call may still be inside it.

mod events;
mod gaps;
mod look;

use std::ffi::OsStr;
use std::ops::Deref;
use std::path::Path;

pub use nvml_wrapper::enum_wrappers::device as kinds;
pub use nvml_wrapper::enums::device::UsedGpuMemory;
pub use nvml_wrapper::enums::gpm::GpmMetricId;
pub use nvml_wrapper::error::NvmlError as Error;
use nvml_wrapper::{Device, Nvml};

pub use self::events::{Event, Events, kind};
pub use self::gaps::{Fabric, RemappedRows, RowHistogram, SramEcc};
pub use self::look::Look;

/// Where the loader looks unless a path is configured. The development name without the `.1` is missing in most images.
pub const LIBRARY: &str = "libnvidia-ml.so.1";

/// Why there is no NVML.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Unavailable {
    /// This host has no NVIDIA driver, or not its library.
    Absent(String),
    /// There is one, and it cannot be used.
    Failed(String),
}

/// The initialised library.
#[derive(Clone, Copy)]
pub struct Library {
    nvml: &'static Nvml,
}

impl Library {
    /// Loads and initialises. `path`: absolute, where the library is not on the loader's own path (a container with the host's folders).
    /// May take seconds, or for ever.
    pub fn open(path: Option<&Path>) -> Result<Self, Unavailable> {
        let name = path.map_or(OsStr::new(LIBRARY), Path::as_os_str);
        let mut builder = Nvml::builder();
        match builder.lib_path(name).init() {
            Ok(nvml) => Ok(Self { nvml: Box::leak(Box::new(nvml)) }),
            Err(Error::LibloadingError(error)) if path.is_none() => {
                Err(Unavailable::Absent(format!("{LIBRARY} cannot be loaded: {error}")))
            }
            Err(Error::LibloadingError(error)) => {
                Err(Unavailable::Failed(format!("`nvml.library` {} cannot be loaded: {error}", name.display())))
            }
            Err(error @ Error::DriverNotLoaded) => Err(Unavailable::Absent(error.to_string())),
            Err(error @ Error::LibRmVersionMismatch) => Err(Unavailable::Failed(format!(
                "{error}: the driver was updated under way; reload its kernel modules or reboot"
            ))),
            Err(error @ Error::NoPermission) => {
                Err(Unavailable::Failed(format!("{error}: give the agent /dev/nvidiactl and the GPUs' device nodes")))
            }
            Err(error) => Err(Unavailable::Failed(error.to_string())),
        }
    }

    pub fn driver_version(&self) -> Result<String, Error> {
        self.nvml.sys_driver_version()
    }

    pub fn nvml_version(&self) -> Result<String, Error> {
        self.nvml.sys_nvml_version()
    }

    /// Major × 1000 + minor × 10, as CUDA counts.
    pub fn cuda_version(&self) -> Result<i32, Error> {
        self.nvml.sys_cuda_driver_version()
    }

    pub fn gpu_count(&self) -> Result<u32, Error> {
        self.nvml.device_count()
    }

    pub fn gpu(&self, index: u32) -> Result<Gpu, Error> {
        Ok(Gpu { device: self.nvml.device_by_index(index)?, nvml: self.nvml, sample: None })
    }

    /// Listens to the events of these GPUs, as far as each offers them.
    pub fn events(&self, gpus: &[Gpu]) -> Result<Events, Error> {
        Events::new(self.nvml, gpus)
    }
}

/// Where a GPU sits on the PCI bus. The function is always 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PciAddress {
    pub domain: u32,
    pub bus: u8,
    pub device: u8,
}

/// A MIG device inside a GPU.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MigDevice {
    pub uuid: String,
    pub gpu_instance: u32,
    pub compute_instance: u32,
    /// As NVIDIA names profiles: `3g.40gb`.
    pub profile: String,
}

/// A process with a compute context.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Process {
    /// In the host's pid namespace.
    pub pid: u32,
    /// `None` where NVML cannot say.
    pub used_bytes: Option<u64>,
    pub gpu_instance: Option<u32>,
}

/// One GPU. The wrapper's methods by deref, and what it lacks.
pub struct Gpu {
    device: Device<'static>,
    nvml: &'static Nvml,
    /// The earlier of two GPM samples.
    sample: Option<nvml_wrapper::gpm::GpmSample<'static>>,
}

impl Deref for Gpu {
    type Target = Device<'static>;

    fn deref(&self) -> &Self::Target {
        &self.device
    }
}

impl Gpu {
    pub fn pci_address(&self) -> Result<PciAddress, Error> {
        let info = self.device.pci_info()?;
        let narrow = |number: u32| u8::try_from(number).map_err(|_| Error::UnexpectedVariant(number));
        Ok(PciAddress { domain: info.domain, bus: narrow(info.bus)?, device: narrow(info.device)? })
    }

    /// The MIG devices; empty where the mode is off or unknown to the GPU.
    pub fn mig_devices(&self) -> Result<Vec<MigDevice>, Error> {
        let count = match self.device.mig_device_count() {
            Ok(count) => count.min(64),
            Err(Error::NotSupported | Error::InvalidArg | Error::FailedToLoadSymbol(_)) => 0,
            Err(error) => return Err(error),
        };
        let mut devices = Vec::new();
        for index in 0..count {
            let device = match self.device.mig_device_by_index(index) {
                Ok(device) => device,
                // Indices have holes.
                Err(Error::NotFound | Error::InvalidArg | Error::NotSupported) => continue,
                Err(error) => return Err(error),
            };
            let attributes = device.attributes()?;
            let (gpu_instance, compute_instance) = gaps::instance_ids(self.nvml, &device)?;
            let gigabytes = attributes.memory_size_mb.div_ceil(1024);
            devices.push(MigDevice {
                uuid: device.uuid()?,
                gpu_instance,
                compute_instance,
                profile: format!("{}g.{gigabytes}gb", attributes.gpu_instance_slice_count),
            });
        }
        Ok(devices)
    }

    pub fn compute_processes(&self) -> Result<Vec<Process>, Error> {
        let processes = self.device.running_compute_processes()?;
        let process = |info: nvml_wrapper::struct_wrappers::device::ProcessInfo| Process {
            pid: info.pid,
            used_bytes: match info.used_gpu_memory {
                UsedGpuMemory::Used(bytes) => Some(bytes),
                UsedGpuMemory::Unavailable => None,
            },
            gpu_instance: info.gpu_instance_id,
        };
        Ok(processes.into_iter().map(process).collect())
    }

    /// What the performance monitor counted since the call before; `None` at the first. Each metric on its own may be missing.
    pub fn gpm(&mut self, metrics: &[GpmMetricId]) -> Result<Option<Vec<Option<f64>>>, Error> {
        let sample = self.device.gpm_sample()?;
        let Some(before) = self.sample.replace(sample) else { return Ok(None) };
        let Some(after) = &self.sample else { return Ok(None) };
        let values = nvml_wrapper::gpm::gpm_metrics_get(self.nvml, &before, after, metrics)?;
        Ok(Some(values.into_iter().map(|value| value.ok().map(|value| value.value).filter(|value| value.is_finite())).collect()))
    }
}
