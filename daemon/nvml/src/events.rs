//! Events of the GPUs, by the raw call: the wrapper's drops the MIG instances and every kind that came after Ampere.
//!
//! NVML keeps one pending XID of a GPU and drops those before it, so a counter must not be built on these events alone.

use nvml_wrapper::Nvml;
use nvml_wrapper::error::nvml_sym;
use nvml_wrapper_sys::bindings as sys;

use crate::{Error, Gpu};

/// Kinds of events, as nvml.h numbers them.
pub mod kind {
    pub const SINGLE_BIT_ECC: u64 = 0x1;
    pub const DOUBLE_BIT_ECC: u64 = 0x2;
    pub const XID: u64 = 0x8;
    pub const MIG_CONFIG: u64 = 0x100;
    pub const SINGLE_BIT_ECC_STORM: u64 = 0x200;
    pub const DRAM_RETIREMENT: u64 = 0x400;
    pub const DRAM_RETIREMENT_FAILURE: u64 = 0x800;
    pub const NON_FATAL_POISON: u64 = 0x1000;
    pub const FATAL_POISON: u64 = 0x2000;
    pub const GPU_UNAVAILABLE: u64 = 0x4000;
    pub const GPU_RECOVERY_ACTION: u64 = 0x8000;

    /// All that the agent listens to. Clock and performance-state changes are left out: there are thousands, and they mean nothing.
    pub const WANTED: u64 = DOUBLE_BIT_ECC
        | XID
        | MIG_CONFIG
        | SINGLE_BIT_ECC_STORM
        | DRAM_RETIREMENT
        | DRAM_RETIREMENT_FAILURE
        | NON_FATAL_POISON
        | FATAL_POISON
        | GPU_UNAVAILABLE
        | GPU_RECOVERY_ACTION;
}

/// NVML's word for "no instance".
const NO_INSTANCE: u32 = u32::MAX;

/// One event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Event {
    /// Position among the GPUs listened to; `None` for one of none of them.
    pub gpu: Option<usize>,
    /// One of [`kind`].
    pub kind: u64,
    /// Of an XID, its number.
    pub data: u64,
    pub gpu_instance: Option<u32>,
    pub compute_instance: Option<u32>,
}

/// A set of events. Made by the thread that owns the GPUs' handles, waited on by one of its own.
pub struct Events {
    nvml: &'static Nvml,
    set: sys::nvmlEventSet_t,
    /// Handles of the GPUs listened to, in order; compared, never used.
    handles: Vec<usize>,
}

// SAFETY: NVML is thread-safe, and the set is a handle that only this value uses.
unsafe impl Send for Events {}

impl Events {
    pub(crate) fn new(nvml: &'static Nvml, gpus: &[Gpu]) -> Result<Self, Error> {
        let lib = nvml.lib();
        let create = nvml_sym(lib.nvmlEventSetCreate.as_ref())?;
        let supported = nvml_sym(lib.nvmlDeviceGetSupportedEventTypes.as_ref())?;
        let register = nvml_sym(lib.nvmlDeviceRegisterEvents.as_ref())?;
        let mut set = std::ptr::null_mut();
        // SAFETY: `set` is a place for one handle.
        check(unsafe { create(&mut set) })?;
        let mut events = Self { nvml, set, handles: Vec::with_capacity(gpus.len()) };
        for gpu in gpus {
            // SAFETY: the handle is compared and given back to the library that it came from.
            let device = unsafe { gpu.handle() };
            let mut offered = 0;
            // SAFETY: a handle of this library and a place for one number.
            if check(unsafe { supported(device, &mut offered) }).is_ok() && offered & kind::WANTED != 0 {
                // SAFETY: handles of this library.
                check(unsafe { register(device, offered & kind::WANTED, events.set) })?;
            }
            events.handles.push(device as usize);
        }
        Ok(events)
    }

    /// Waits for one event; `None` when none came in time.
    pub fn wait(&self, timeout_ms: u32) -> Result<Option<Event>, Error> {
        let wait = nvml_sym(self.nvml.lib().nvmlEventSetWait_v2.as_ref())?;
        let mut data = sys::nvmlEventData_t {
            device: std::ptr::null_mut(),
            eventType: 0,
            eventData: 0,
            gpuInstanceId: NO_INSTANCE,
            computeInstanceId: NO_INSTANCE,
        };
        // SAFETY: the set is alive and `data` is a place for one event.
        match check(unsafe { wait(self.set, &mut data, timeout_ms) }) {
            Ok(()) => {}
            Err(Error::Timeout) => return Ok(None),
            Err(error) => return Err(error),
        }
        let instance = |id: u32| (id != NO_INSTANCE).then_some(id);
        Ok(Some(Event {
            gpu: self.handles.iter().position(|handle| *handle == data.device as usize),
            kind: data.eventType,
            data: data.eventData,
            gpu_instance: instance(data.gpuInstanceId),
            compute_instance: instance(data.computeInstanceId),
        }))
    }
}

impl Drop for Events {
    fn drop(&mut self) {
        if let Ok(free) = self.nvml.lib().nvmlEventSetFree.as_ref() {
            // SAFETY: the set was made by this library and is freed once.
            unsafe { free(self.set) };
        }
    }
}

fn check(code: sys::nvmlReturn_t) -> Result<(), Error> {
    if code == sys::nvmlReturn_enum_NVML_SUCCESS { Ok(()) } else { Err(Error::from(code)) }
}
