//! The performance monitor. A sample is a number of its own; the metrics do not depend on it.

use std::ffi::c_uint;

use nvml_wrapper_sys::bindings as sys;

use super::{code, on, parts, put};
use crate::script::{self, INVALID_ARGUMENT, SUCCESS};

#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlGpmQueryDeviceSupport(device: sys::nvmlDevice_t, out: *mut sys::nvmlGpmSupport_t) -> u32 {
    on("nvmlGpmQueryDeviceSupport", device, |gpu| {
        put(out, sys::nvmlGpmSupport_t { version: 1, isSupportedDevice: c_uint::from(gpu.get("Gpm").is_ok()) })
    })
}

/// The GPU of each sample: a box of its index, 0 while it was never filled.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlGpmSampleAlloc(out: *mut sys::nvmlGpmSample_t) -> u32 {
    let sample = Box::into_raw(Box::new(0_usize));
    code(put(out, sample.cast()))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlGpmSampleFree(sample: sys::nvmlGpmSample_t) -> u32 {
    if !sample.is_null() {
        // SAFETY: by nvml.h's contract a sample of nvmlGpmSampleAlloc, freed once.
        drop(unsafe { Box::from_raw(sample.cast::<usize>()) });
    }
    SUCCESS
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlGpmSampleGet(device: sys::nvmlDevice_t, sample: sys::nvmlGpmSample_t) -> u32 {
    on("nvmlGpmSampleGet", device, |gpu| {
        gpu.get("Gpm")?;
        let (index, _) = parts(device)?;
        put(sample.cast::<usize>(), index + 1)
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlGpmMetricsGet(request: *mut sys::nvmlGpmMetricsGet_t) -> u32 {
    if request.is_null() {
        return INVALID_ARGUMENT;
    }
    // SAFETY: not null, and by nvml.h's contract a request with samples of nvmlGpmSampleAlloc.
    let (request, index) = unsafe {
        let request = &mut *request;
        if request.sample1.is_null() || request.sample2.is_null() {
            return INVALID_ARGUMENT;
        }
        let index = request.sample2.cast::<usize>().read();
        (request, index)
    };
    let mut run = || {
        let index = index.checked_sub(1).ok_or(INVALID_ARGUMENT)?;
        script::behave("nvmlGpmMetricsGet", Some(index))?;
        script::gpu(index, |gpu| {
            let count = (request.numMetrics as usize).min(request.metrics.len());
            for metric in &mut request.metrics[..count] {
                match gpu.inner("Gpm", &metric.metricId.to_string()) {
                    Ok(value) => (metric.nvmlReturn, metric.value) = (SUCCESS, value),
                    Err(code) => metric.nvmlReturn = code,
                }
            }
            Ok(())
        })
    };
    code(run())
}
