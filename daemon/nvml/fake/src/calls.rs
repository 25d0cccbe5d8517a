//! The C functions. Each asks the script how to behave, then answers from the GPU's table into the caller's structure.

mod events;
mod gpm;
mod mig;
mod numbers;

use std::ffi::{c_char, c_int, c_uint, c_ulonglong};

use nvml_wrapper_sys::bindings as sys;
use serde_json::Value;

use crate::script::{self, GPU_IS_LOST, Gpu, INSUFFICIENT_SIZE, INVALID_ARGUMENT, NOT_SUPPORTED, Outcome, SUCCESS, UNKNOWN};

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
            Some(mig) => put_text(out, length, &bytes(mig::instance(gpu, mig)?.get("UUID").ok_or(NOT_SUPPORTED)?)),
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
