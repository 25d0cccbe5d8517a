//! The C functions. Each asks the script how to behave, then answers from the GPU's table into the caller's structure.

use std::ffi::{c_char, c_int, c_longlong, c_uint, c_ulonglong};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use nvml_wrapper_sys::bindings as sys;
use serde_json::Value;

use crate::script::{
    self, GPU_IS_LOST, Gpu, INSUFFICIENT_SIZE, INVALID_ARGUMENT, NOT_FOUND, NOT_SUPPORTED, Outcome, SUCCESS, TIMEOUT, UNKNOWN,
};

/// Memory that NVML could not account to a process.
const NOT_AVAILABLE: u64 = u64::MAX;
/// A GPU or compute instance that is not there.
const NO_INSTANCE: u32 = 0xffff_ffff;

/// Handles: 1 + index of the GPU, above it 1 + index of the MIG device.
fn handle(index: usize, mig: Option<usize>) -> sys::nvmlDevice_t {
    ((index + 1) | mig.map_or(0, |mig| (mig + 1) << 16)) as sys::nvmlDevice_t
}

fn parts(device: sys::nvmlDevice_t) -> Outcome<(usize, Option<usize>)> {
    let number = device as usize;
    let index = (number & 0xffff).checked_sub(1).ok_or(INVALID_ARGUMENT)?;
    Ok((index, (number >> 16).checked_sub(1)))
}

fn code(outcome: Outcome<()>) -> u32 {
    outcome.err().unwrap_or(SUCCESS)
}

fn put<T>(out: *mut T, value: T) -> Outcome<()> {
    if out.is_null() {
        return Err(INVALID_ARGUMENT);
    }
    // SAFETY: not null, and by nvml.h's contract a place for one T.
    unsafe { out.write(value) };
    Ok(())
}

fn put_text(out: *mut c_char, length: c_uint, text: &[u8]) -> Outcome<()> {
    if out.is_null() {
        return Err(INVALID_ARGUMENT);
    }
    if text.len() + 1 > length as usize {
        return Err(INSUFFICIENT_SIZE);
    }
    // SAFETY: not null, and by nvml.h's contract a place for `length` bytes, which text and its zero fit.
    unsafe {
        std::ptr::copy_nonoverlapping(text.as_ptr().cast(), out, text.len());
        out.add(text.len()).write(0);
    }
    Ok(())
}

/// A text of the script; a list of numbers stands for bytes that are no UTF-8.
fn bytes(value: &Value) -> Vec<u8> {
    match value {
        Value::Array(items) => items.iter().filter_map(Value::as_u64).map(|byte| byte as u8).collect(),
        value => value.as_str().unwrap_or_default().as_bytes().to_vec(),
    }
}

fn fixed<const N: usize>(text: &[u8]) -> [c_char; N] {
    let mut out = [0; N];
    for (place, byte) in out.iter_mut().take(N - 1).zip(text) {
        *place = *byte as c_char;
    }
    out
}

/// Runs a call on a GPU.
fn on(call: &str, device: sys::nvmlDevice_t, answer: impl FnOnce(&Gpu<'_>) -> Outcome<()>) -> u32 {
    let run = || {
        let (index, _) = parts(device)?;
        script::behave(call, Some(index))?;
        script::gpu(index, |gpu| if gpu.get("lost").is_ok() { Err(GPU_IS_LOST) } else { answer(gpu) })
    };
    code(run())
}

/// Calls of the shape `(device, *mut T)`.
macro_rules! numbers {
    ($($name:ident: $type:ty = $key:literal;)*) => {$(
        #[unsafe(no_mangle)]
        pub unsafe extern "C" fn $name(device: sys::nvmlDevice_t, out: *mut $type) -> u32 {
            on(stringify!($name), device, |gpu| put(out, gpu.number($key)? as $type))
        }
    )*};
}

numbers! {
    nvmlDeviceGetPowerUsage: c_uint = "PowerUsage";
    nvmlDeviceGetEnforcedPowerLimit: c_uint = "EnforcedPowerLimit";
    nvmlDeviceGetPowerManagementLimit: c_uint = "PowerManagementLimit";
    nvmlDeviceGetPowerManagementDefaultLimit: c_uint = "PowerManagementDefaultLimit";
    nvmlDeviceGetTotalEnergyConsumption: c_ulonglong = "TotalEnergyConsumption";
    nvmlDeviceGetCurrentClocksThrottleReasons: c_ulonglong = "CurrentClocksEventReasons";
    nvmlDeviceGetCurrentClocksEventReasons: c_ulonglong = "CurrentClocksEventReasons";
    nvmlDeviceGetPcieReplayCounter: c_uint = "PcieReplayCounter";
    nvmlDeviceGetCurrPcieLinkGeneration: c_uint = "CurrPcieLinkGeneration";
    nvmlDeviceGetCurrPcieLinkWidth: c_uint = "CurrPcieLinkWidth";
    nvmlDeviceGetMaxPcieLinkGeneration: c_uint = "MaxPcieLinkGeneration";
    nvmlDeviceGetMaxPcieLinkWidth: c_uint = "MaxPcieLinkWidth";
    nvmlDeviceGetMinorNumber: c_uint = "MinorNumber";
    nvmlDeviceGetArchitecture: c_uint = "Architecture";
    nvmlDeviceGetNumaNodeId: c_uint = "NumaNodeId";
    nvmlDeviceGetModuleId: c_uint = "ModuleId";
    nvmlDeviceGetRetiredPagesPendingStatus: c_uint = "RetiredPagesPendingStatus";
    nvmlDeviceGetSupportedEventTypes: c_ulonglong = "SupportedEventTypes";
    nvmlDeviceGetPerformanceState: c_uint = "PerformanceState";
}

/// Calls of the shape `(device, kind, *mut T)`, answered from a list.
macro_rules! kinds {
    ($($name:ident: $type:ty = $key:literal;)*) => {$(
        #[unsafe(no_mangle)]
        pub unsafe extern "C" fn $name(device: sys::nvmlDevice_t, kind: c_uint, out: *mut $type) -> u32 {
            on(stringify!($name), device, |gpu| put(out, gpu.item($key, kind as usize)? as $type))
        }
    )*};
}

kinds! {
    nvmlDeviceGetTemperature: c_uint = "Temperature";
    nvmlDeviceGetTemperatureThreshold: c_uint = "TemperatureThreshold";
    nvmlDeviceGetClockInfo: c_uint = "ClockInfo";
    nvmlDeviceGetMaxClockInfo: c_uint = "MaxClockInfo";
    nvmlDeviceGetNvLinkState: c_uint = "NvLinkState";
}

/// Calls of the shape `(device, *mut a, *mut b)`.
macro_rules! pairs {
    ($($name:ident: $type:ty = $key:literal;)*) => {$(
        #[unsafe(no_mangle)]
        pub unsafe extern "C" fn $name(device: sys::nvmlDevice_t, a: *mut $type, b: *mut $type) -> u32 {
            on(stringify!($name), device, |gpu| {
                put(a, gpu.item($key, 0)? as $type)?;
                put(b, gpu.item($key, 1)? as $type)
            })
        }
    )*};
}

pairs! {
    nvmlDeviceGetEccMode: c_uint = "EccMode";
    nvmlDeviceGetMigMode: c_uint = "MigMode";
    nvmlDeviceGetEncoderUtilization: c_uint = "EncoderUtilization";
    nvmlDeviceGetDecoderUtilization: c_uint = "DecoderUtilization";
    nvmlDeviceGetJpgUtilization: c_uint = "JpgUtilization";
    nvmlDeviceGetOfaUtilization: c_uint = "OfaUtilization";
    nvmlDeviceGetCudaComputeCapability: c_int = "CudaComputeCapability";
    nvmlDeviceGetPowerManagementLimitConstraints: c_uint = "PowerManagementLimitConstraints";
}

/// Calls of the shape `(device, *mut c_char, length)`.
macro_rules! texts {
    ($($name:ident = $key:literal;)*) => {$(
        #[unsafe(no_mangle)]
        pub unsafe extern "C" fn $name(device: sys::nvmlDevice_t, out: *mut c_char, length: c_uint) -> u32 {
            on(stringify!($name), device, |gpu| put_text(out, length, &bytes(gpu.get($key)?)))
        }
    )*};
}

texts! {
    nvmlDeviceGetName = "Name";
    nvmlDeviceGetSerial = "Serial";
    nvmlDeviceGetVbiosVersion = "VbiosVersion";
    nvmlDeviceGetInforomImageVersion = "InforomImageVersion";
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetUUID(device: sys::nvmlDevice_t, out: *mut c_char, length: c_uint) -> u32 {
    on("nvmlDeviceGetUUID", device, |gpu| {
        let (_, mig) = parts(device)?;
        match mig {
            None => put_text(out, length, gpu.text("UUID")?.as_bytes()),
            Some(mig) => put_text(out, length, &bytes(instance(gpu, mig)?.get("UUID").ok_or(NOT_SUPPORTED)?)),
        }
    })
}

fn system(call: &str, key: &str, out: *mut c_char, length: c_uint) -> u32 {
    let run = || {
        script::behave(call, None)?;
        let text = script::machine(|machine| machine.get(key).map(bytes)).ok_or(NOT_SUPPORTED)?;
        put_text(out, length, &text)
    };
    code(run())
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlSystemGetDriverVersion(out: *mut c_char, length: c_uint) -> u32 {
    system("nvmlSystemGetDriverVersion", "DriverVersion", out, length)
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlSystemGetNVMLVersion(out: *mut c_char, length: c_uint) -> u32 {
    system("nvmlSystemGetNVMLVersion", "NVMLVersion", out, length)
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlSystemGetCudaDriverVersion_v2(out: *mut c_int) -> u32 {
    let version = script::machine(|machine| machine.get("CudaDriverVersion").and_then(Value::as_i64));
    code(version.ok_or(NOT_SUPPORTED).and_then(|version| put(out, version as c_int)))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlInit_v2() -> u32 {
    code(script::behave("nvmlInit_v2", None))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlShutdown() -> u32 {
    SUCCESS
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetCount_v2(out: *mut c_uint) -> u32 {
    code(script::behave("nvmlDeviceGetCount_v2", None).and_then(|()| put(out, script::gpu_count() as c_uint)))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetHandleByIndex_v2(index: c_uint, out: *mut sys::nvmlDevice_t) -> u32 {
    let run = || {
        if index as usize >= script::gpu_count() {
            return Err(INVALID_ARGUMENT);
        }
        script::behave("nvmlDeviceGetHandleByIndex_v2", Some(index as usize))?;
        put(out, handle(index as usize, None))
    };
    code(run())
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetIndex(device: sys::nvmlDevice_t, out: *mut c_uint) -> u32 {
    code(parts(device).and_then(|(index, _)| put(out, index as c_uint)))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetPciInfo_v3(device: sys::nvmlDevice_t, out: *mut sys::nvmlPciInfo_t) -> u32 {
    on("nvmlDeviceGetPciInfo_v3", device, |gpu| {
        let text = gpu.text("BusId")?;
        let mut numbers = text.split([':', '.']).map(|part| u32::from_str_radix(part, 16).map_err(|_| UNKNOWN));
        let mut next = || numbers.next().unwrap_or(Err(UNKNOWN));
        let (domain, bus, device) = (next()?, next()?, next()?);
        put(
            out,
            sys::nvmlPciInfo_t {
                busIdLegacy: fixed(format!("{domain:04X}:{bus:02X}:{device:02X}.0").as_bytes()),
                domain,
                bus,
                device,
                pciDeviceId: gpu.number("PciDeviceId").unwrap_or(0.0) as c_uint,
                pciSubSystemId: 0,
                busId: fixed(format!("{domain:08X}:{bus:02X}:{device:02X}.0").as_bytes()),
            },
        )
    })
}

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

fn instance<'g>(gpu: &'g Gpu<'_>, mig: usize) -> Outcome<&'g Value> {
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

// --- GPM. A sample is a number of its own; the metrics do not depend on it.

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

// --- Events.

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
