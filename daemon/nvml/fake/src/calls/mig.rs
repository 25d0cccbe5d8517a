//! MIG: the instances of a GPU.

use std::ffi::c_uint;

use nvml_wrapper_sys::bindings as sys;
use serde_json::Value;

use super::{handle, on, parts, put};
use crate::script::{self, Gpu, NOT_FOUND, NOT_SUPPORTED, Outcome};

pub fn instance<'g>(gpu: &'g Gpu<'_>, mig: usize) -> Outcome<&'g Value> {
    gpu.get("MigDevices")?.as_array().and_then(|devices| devices.get(mig)).ok_or(NOT_FOUND)
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetMaxMigDeviceCount(device: sys::nvmlDevice_t, out: *mut c_uint) -> u32 {
    on("nvmlDeviceGetMaxMigDeviceCount", device, |gpu| put(out, if gpu.get("MigMode").is_ok() { 7 } else { 0 }))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetMigDeviceHandleByIndex(
    device: sys::nvmlDevice_t,
    index: c_uint,
    out: *mut sys::nvmlDevice_t,
) -> u32 {
    on("nvmlDeviceGetMigDeviceHandleByIndex", device, |gpu| {
        instance(gpu, index as usize)?;
        let (parent, _) = parts(device)?;
        put(out, handle(parent, Some(index as usize)))
    })
}

fn of_instance(call: &str, device: sys::nvmlDevice_t, key: &str, out: *mut c_uint) -> u32 {
    on(call, device, |gpu| {
        let mig = parts(device)?.1.ok_or(NOT_SUPPORTED)?;
        put(out, script::number(instance(gpu, mig)?.get(key).ok_or(NOT_SUPPORTED)?)? as c_uint)
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetGpuInstanceId(device: sys::nvmlDevice_t, out: *mut c_uint) -> u32 {
    of_instance("nvmlDeviceGetGpuInstanceId", device, "gpu_instance", out)
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetComputeInstanceId(device: sys::nvmlDevice_t, out: *mut c_uint) -> u32 {
    of_instance("nvmlDeviceGetComputeInstanceId", device, "compute_instance", out)
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetAttributes_v2(device: sys::nvmlDevice_t, out: *mut sys::nvmlDeviceAttributes_t) -> u32 {
    on("nvmlDeviceGetAttributes_v2", device, |gpu| {
        let mig = parts(device)?.1.ok_or(NOT_SUPPORTED)?;
        let found = instance(gpu, mig)?;
        let part = |key: &str| found.get(key).and_then(Value::as_u64).unwrap_or_default();
        put(
            out,
            sys::nvmlDeviceAttributes_t {
                multiprocessorCount: part("multiprocessors") as c_uint,
                sharedCopyEngineCount: 1,
                sharedDecoderCount: 0,
                sharedEncoderCount: 0,
                sharedJpegCount: 0,
                sharedOfaCount: 0,
                gpuInstanceSliceCount: part("gpu_slices") as c_uint,
                computeInstanceSliceCount: part("compute_slices") as c_uint,
                memorySizeMB: part("memory_mib"),
            },
        )
    })
}
