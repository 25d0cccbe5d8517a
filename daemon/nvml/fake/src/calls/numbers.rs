//! A GPU's numbers that come in structures of their own: load, memory, errors, fields, processes.

use std::ffi::{c_char, c_int, c_longlong, c_uint, c_ulonglong};

use nvml_wrapper_sys::bindings as sys;
use serde_json::Value;

use super::{NO_INSTANCE, bytes, on, put, put_text};
use crate::script::{INSUFFICIENT_SIZE, INVALID_ARGUMENT, SUCCESS};

/// Memory that NVML could not account to a process.
const NOT_AVAILABLE: u64 = u64::MAX;

#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetUtilizationRates(device: sys::nvmlDevice_t, out: *mut sys::nvmlUtilization_t) -> u32 {
    on("nvmlDeviceGetUtilizationRates", device, |gpu| {
        let (busy, memory) = (gpu.item("UtilizationRates", 0)?, gpu.item("UtilizationRates", 1)?);
        put(out, sys::nvmlUtilization_t { gpu: busy as c_uint, memory: memory as c_uint })
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetMemoryInfo_v2(device: sys::nvmlDevice_t, out: *mut sys::nvmlMemory_v2_t) -> u32 {
    on("nvmlDeviceGetMemoryInfo_v2", device, |gpu| {
        let part = |key| gpu.inner("MemoryInfo", key).map(|bytes| bytes as c_ulonglong);
        let (total, reserved, used) = (part("total")?, part("reserved")?, part("used")?);
        put(out, sys::nvmlMemory_v2_t { version: 0, total, reserved, used, free: total.saturating_sub(reserved + used) })
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetBAR1MemoryInfo(device: sys::nvmlDevice_t, out: *mut sys::nvmlBAR1Memory_t) -> u32 {
    on("nvmlDeviceGetBAR1MemoryInfo", device, |gpu| {
        let part = |key| gpu.inner("BAR1MemoryInfo", key).map(|bytes| bytes as c_ulonglong);
        let (total, used) = (part("total")?, part("used")?);
        put(out, sys::nvmlBAR1Memory_t { bar1Total: total, bar1Used: used, bar1Free: total.saturating_sub(used) })
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetTotalEccErrors(
    device: sys::nvmlDevice_t,
    error: c_uint,
    counter: c_uint,
    out: *mut c_ulonglong,
) -> u32 {
    on("nvmlDeviceGetTotalEccErrors", device, |gpu| {
        let kind = if error == 0 { "corrected" } else { "uncorrected" };
        let span = if counter == 0 { "volatile" } else { "aggregate" };
        put(out, gpu.inner("TotalEccErrors", &format!("{kind}_{span}"))? as c_ulonglong)
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetViolationStatus(
    device: sys::nvmlDevice_t,
    policy: c_uint,
    out: *mut sys::nvmlViolationTime_t,
) -> u32 {
    on("nvmlDeviceGetViolationStatus", device, |gpu| {
        let violation = gpu.item("ViolationStatus", policy as usize)? as c_ulonglong;
        put(out, sys::nvmlViolationTime_t { referenceTime: 0, violationTime: violation })
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetRetiredPages_v2(
    device: sys::nvmlDevice_t,
    cause: c_uint,
    count: *mut c_uint,
    _addresses: *mut c_ulonglong,
    _times: *mut c_ulonglong,
) -> u32 {
    on("nvmlDeviceGetRetiredPages_v2", device, |gpu| put(count, gpu.item("RetiredPages", cause as usize)? as c_uint))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetRemappedRows(
    device: sys::nvmlDevice_t,
    corrected: *mut c_uint,
    uncorrected: *mut c_uint,
    pending: *mut c_uint,
    failure: *mut c_uint,
) -> u32 {
    on("nvmlDeviceGetRemappedRows", device, |gpu| {
        for (index, out) in [corrected, uncorrected, pending, failure].into_iter().enumerate() {
            put(out, gpu.item("RemappedRows", index)? as c_uint)?;
        }
        Ok(())
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetRowRemapperHistogram(
    device: sys::nvmlDevice_t,
    out: *mut sys::nvmlRowRemapperHistogramValues_t,
) -> u32 {
    on("nvmlDeviceGetRowRemapperHistogram", device, |gpu| {
        let bank = |index| gpu.item("RowRemapperHistogram", index).map(|banks| banks as c_uint);
        let (max, high, partial, low, none) = (bank(0)?, bank(1)?, bank(2)?, bank(3)?, bank(4)?);
        put(out, sys::nvmlRowRemapperHistogramValues_t { max, high, partial, low, none })
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetGpuFabricInfoV(device: sys::nvmlDevice_t, out: *mut sys::nvmlGpuFabricInfoV_t) -> u32 {
    on("nvmlDeviceGetGpuFabricInfoV", device, |gpu| {
        let part = |key| gpu.inner("GpuFabricInfo", key).map(|number| number as c_uint);
        put(
            out,
            sys::nvmlGpuFabricInfoV_t {
                version: 0,
                clusterUuid: [0x5a; 16],
                status: SUCCESS,
                cliqueId: part("clique")?,
                state: part("state")? as u8,
                healthMask: part("health_mask")?,
                healthSummary: part("health_summary")? as u8,
            },
        )
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetSramEccErrorStatus(
    device: sys::nvmlDevice_t,
    out: *mut sys::nvmlEccSramErrorStatus_t,
) -> u32 {
    on("nvmlDeviceGetSramEccErrorStatus", device, |gpu| {
        let part = |key| gpu.inner("SramEccErrorStatus", key).map(|number| number as c_ulonglong);
        put(
            out,
            sys::nvmlEccSramErrorStatus_t {
                version: 0,
                aggregateUncParity: part("aggregate_uncorrected")?,
                aggregateUncSecDed: 0,
                aggregateCor: part("aggregate_corrected")?,
                volatileUncParity: part("volatile_uncorrected")?,
                volatileUncSecDed: 0,
                volatileCor: part("volatile_corrected")?,
                aggregateUncBucketL2: 0,
                aggregateUncBucketSm: 0,
                aggregateUncBucketPcie: 0,
                aggregateUncBucketMcu: 0,
                aggregateUncBucketOther: 0,
                bThresholdExceeded: part("threshold_exceeded")? as c_uint,
            },
        )
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetRepairStatus(device: sys::nvmlDevice_t, out: *mut sys::nvmlRepairStatus_t) -> u32 {
    on("nvmlDeviceGetRepairStatus", device, |gpu| {
        let (channel, tpc) = (gpu.item("RepairStatus", 0)? as c_uint, gpu.item("RepairStatus", 1)? as c_uint);
        put(out, sys::nvmlRepairStatus_t { version: 0, bChannelRepairPending: channel, bTpcRepairPending: tpc })
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetMarginTemperature(
    device: sys::nvmlDevice_t,
    out: *mut sys::nvmlMarginTemperature_t,
) -> u32 {
    on("nvmlDeviceGetMarginTemperature", device, |gpu| {
        let margin = gpu.number("MarginTemperature")? as c_int;
        put(out, sys::nvmlMarginTemperature_t { version: 0, marginTemperature: margin })
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetGspFirmwareVersion(device: sys::nvmlDevice_t, out: *mut c_char) -> u32 {
    on("nvmlDeviceGetGspFirmwareVersion", device, |gpu| put_text(out, 64, &bytes(gpu.get("GspFirmwareVersion")?)))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetFieldValues(
    device: sys::nvmlDevice_t,
    count: c_int,
    values: *mut sys::nvmlFieldValue_t,
) -> u32 {
    on("nvmlDeviceGetFieldValues", device, |gpu| {
        if values.is_null() || count < 0 {
            return Err(INVALID_ARGUMENT);
        }
        // SAFETY: not null, and by nvml.h's contract `count` structures.
        let values = unsafe { std::slice::from_raw_parts_mut(values, count as usize) };
        for value in values {
            value.timestamp = 1;
            match gpu.field(value.fieldId, value.scopeId) {
                Ok(number) => {
                    value.nvmlReturn = SUCCESS;
                    if number < 0.0 {
                        value.valueType = sys::nvmlValueType_enum_NVML_VALUE_TYPE_SIGNED_LONG_LONG;
                        value.value = sys::nvmlValue_t { sllVal: number as c_longlong };
                    } else {
                        value.valueType = sys::nvmlValueType_enum_NVML_VALUE_TYPE_UNSIGNED_LONG_LONG;
                        value.value = sys::nvmlValue_t { ullVal: number as c_ulonglong };
                    }
                }
                Err(code) => value.nvmlReturn = code,
            }
        }
        Ok(())
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetComputeRunningProcesses_v3(
    device: sys::nvmlDevice_t,
    count: *mut c_uint,
    infos: *mut sys::nvmlProcessInfo_t,
) -> u32 {
    on("nvmlDeviceGetComputeRunningProcesses_v3", device, |gpu| {
        let processes = gpu.get("Processes").ok().and_then(Value::as_array).cloned().unwrap_or_default();
        if count.is_null() {
            return Err(INVALID_ARGUMENT);
        }
        // SAFETY: not null, and by nvml.h's contract one number.
        let room = unsafe { count.read() } as usize;
        put(count, processes.len() as c_uint)?;
        if processes.len() > room {
            return Err(INSUFFICIENT_SIZE);
        }
        for (i, process) in processes.iter().enumerate() {
            let part = |key: &str| process.get(key).and_then(Value::as_u64);
            let info = sys::nvmlProcessInfo_t {
                pid: part("pid").unwrap_or_default() as c_uint,
                usedGpuMemory: part("used_bytes").unwrap_or(NOT_AVAILABLE),
                gpuInstanceId: part("gpu_instance").map_or(NO_INSTANCE, |id| id as c_uint),
                computeInstanceId: part("compute_instance").map_or(NO_INSTANCE, |id| id as c_uint),
            };
            // SAFETY: i < room, the number of places the caller gave.
            unsafe { infos.add(i).write(info) };
        }
        Ok(())
    })
}
