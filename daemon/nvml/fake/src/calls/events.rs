//! Events: what the script lists, to every set that was made before.

use std::ffi::{c_uint, c_ulonglong};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use nvml_wrapper_sys::bindings as sys;
use serde_json::Value;

use super::{NO_INSTANCE, code, handle, on, put};
use crate::script::{self, INVALID_ARGUMENT, NOT_SUPPORTED, SUCCESS, TIMEOUT};

/// Events delivered so far, over all sets: a set made later does not hear of earlier events.
#[repr(C)]
struct Set {
    delivered: AtomicUsize,
}

fn events() -> Vec<Value> {
    script::machine(|machine| machine.get("events").and_then(Value::as_array).cloned()).unwrap_or_default()
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlEventSetCreate(out: *mut sys::nvmlEventSet_t) -> u32 {
    let run = || {
        script::behave("nvmlEventSetCreate", None)?;
        let set = Box::into_raw(Box::new(Set { delivered: AtomicUsize::new(events().len()) }));
        put(out, set.cast())
    };
    code(run())
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlEventSetFree(set: sys::nvmlEventSet_t) -> u32 {
    if !set.is_null() {
        // SAFETY: by nvml.h's contract a set of nvmlEventSetCreate, freed once.
        drop(unsafe { Box::from_raw(set.cast::<Set>()) });
    }
    SUCCESS
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceRegisterEvents(device: sys::nvmlDevice_t, types: c_ulonglong, _: sys::nvmlEventSet_t) -> u32 {
    on("nvmlDeviceRegisterEvents", device, |gpu| {
        let supported = gpu.number("SupportedEventTypes")? as c_ulonglong;
        if types & !supported == 0 { Ok(()) } else { Err(NOT_SUPPORTED) }
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlEventSetWait_v2(
    set: sys::nvmlEventSet_t,
    out: *mut sys::nvmlEventData_t,
    timeout_ms: c_uint,
) -> u32 {
    if set.is_null() {
        return INVALID_ARGUMENT;
    }
    // SAFETY: not null, and by nvml.h's contract a set of nvmlEventSetCreate.
    let set = unsafe { &*set.cast::<Set>() };
    let until = Instant::now() + Duration::from_millis(timeout_ms.into());
    loop {
        if let Err(error) = script::behave("nvmlEventSetWait_v2", None) {
            return error;
        }
        let events = events();
        let delivered = set.delivered.load(Ordering::Relaxed);
        if let Some(first) = events.get(delivered) {
            // Where several XIDs wait for one GPU, the last one is reported and the others are lost: as the real library does.
            let same = |event: &&Value| event.get("gpu") == first.get("gpu") && event.get("type") == first.get("type");
            let pending = events[delivered..].iter().take_while(same).count();
            set.delivered.store(delivered + pending, Ordering::Relaxed);
            let event = &events[delivered + pending - 1];
            let part = |key: &str| event.get(key).and_then(Value::as_u64);
            let data = sys::nvmlEventData_t {
                device: handle(part("gpu").unwrap_or_default() as usize, None),
                eventType: part("type").unwrap_or(8),
                eventData: part("data").unwrap_or_default(),
                gpuInstanceId: part("gpu_instance").map_or(NO_INSTANCE, |id| id as c_uint),
                computeInstanceId: part("compute_instance").map_or(NO_INSTANCE, |id| id as c_uint),
            };
            return code(put(out, data));
        }
        if Instant::now() >= until {
            return TIMEOUT;
        }
        std::thread::sleep(Duration::from_millis(2));
    }
}
