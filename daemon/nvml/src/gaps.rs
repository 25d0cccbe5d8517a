//! Calls that `nvml-wrapper` 0.13 lacks, each by the raw function of `nvml-wrapper-sys` (NVML API 13).

use std::ffi::{CStr, c_char, c_uint};
use std::mem;

use nvml_wrapper::error::nvml_sym;
use nvml_wrapper::{Device, FieldIdScheme, Nvml};
use nvml_wrapper_sys::bindings as sys;

use crate::{Error, Gpu};

/// Rows of HBM that were replaced by spares (Ampere and later).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RemappedRows {
    pub correctable: u32,
    pub uncorrectable: u32,
    /// A remap waits for a reset.
    pub pending: bool,
    /// A remap failed: the spares are used up.
    pub failure: bool,
}

/// Banks by how many spare rows they have left.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RowHistogram {
    pub max: u32,
    pub high: u32,
    pub partial: u32,
    pub low: u32,
    pub none: u32,
}

/// Where a GPU stands in its NVLink fabric.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fabric {
    /// 0 not supported, 1 not started, 2 in progress, 3 completed.
    pub state: u32,
    /// 0 not applicable, 1 healthy, 2 unhealthy, 3 limited capacity; `None` from a driver that does not say.
    pub health_summary: Option<u8>,
    /// Two-bit fields, see nvml.h `NVML_GPU_FABRIC_HEALTH_MASK_*`.
    pub health_mask: u32,
    pub clique: u32,
    /// With `clique`, the NVLink domain the GPU belongs to.
    pub cluster: [u8; 16],
}

/// ECC errors of the SRAMs (Hopper and later).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SramEcc {
    pub volatile_corrected: u64,
    pub volatile_uncorrected: u64,
    pub aggregate_corrected: u64,
    pub aggregate_uncorrected: u64,
    /// The board should be replaced.
    pub threshold_exceeded: bool,
}

/// `NVML_STRUCT_VERSION` of nvml.h.
fn version<T>(number: u32) -> c_uint {
    mem::size_of::<T>() as c_uint | number << 24
}

fn check(code: sys::nvmlReturn_t) -> Result<(), Error> {
    if code == sys::nvmlReturn_enum_NVML_SUCCESS { Ok(()) } else { Err(Error::from(code)) }
}

/// Field ids are written in the numbering before driver 580.82, which moved 251–273.
fn translated(scheme: FieldIdScheme, id: u32) -> u32 {
    match (scheme, id) {
        (FieldIdScheme::V13Update1, 251..=255) => id + 18,
        (FieldIdScheme::V13Update1, 256..=273) => id - 5,
        _ => id,
    }
}

impl Gpu {
    fn raw(&self) -> sys::nvmlDevice_t {
        // SAFETY: the handle goes back to the library that it came from, which is never unloaded.
        unsafe { self.device.handle() }
    }

    /// Asks for fields, each with its scope (a link, or 0), in one call.
    pub fn fields(&self, wanted: &[(u32, u32)]) -> Result<Vec<Result<f64, Error>>, Error> {
        let call = nvml_sym(self.nvml.lib().nvmlDeviceGetFieldValues.as_ref())?;
        let scheme = self.nvml.field_id_scheme();
        let value = |(id, scope): &(u32, u32)| sys::nvmlFieldValue_t {
            fieldId: translated(scheme, *id),
            scopeId: *scope,
            timestamp: 0,
            latencyUsec: 0,
            valueType: 0,
            nvmlReturn: sys::nvmlReturn_enum_NVML_ERROR_UNKNOWN,
            value: sys::nvmlValue_t { ullVal: 0 },
        };
        let mut values: Vec<sys::nvmlFieldValue_t> = wanted.iter().map(value).collect();
        let count = i32::try_from(values.len()).map_err(|_| Error::InvalidArg)?;
        // SAFETY: a handle of this library and `count` structures.
        check(unsafe { call(self.raw(), count, values.as_mut_ptr()) })?;
        Ok(values.iter().map(field).collect())
    }

    /// Name of the board. Bytes that are no UTF-8 are replaced: the wrapper's call would fail on them.
    pub fn name_lossy(&self) -> Result<String, Error> {
        let call = nvml_sym(self.nvml.lib().nvmlDeviceGetName.as_ref())?;
        let mut text = [0 as c_char; 96];
        // SAFETY: a handle of this library and a place for `text.len()` bytes.
        check(unsafe { call(self.raw(), text.as_mut_ptr(), text.len() as c_uint) })?;
        Ok(lossy(&text))
    }

    /// Serial number of the board.
    pub fn serial_lossy(&self) -> Result<String, Error> {
        let call = nvml_sym(self.nvml.lib().nvmlDeviceGetSerial.as_ref())?;
        let mut text = [0 as c_char; 64];
        // SAFETY: a handle of this library and a place for `text.len()` bytes.
        check(unsafe { call(self.raw(), text.as_mut_ptr(), text.len() as c_uint) })?;
        Ok(lossy(&text))
    }

    pub fn remapped_rows(&self) -> Result<RemappedRows, Error> {
        let call = nvml_sym(self.nvml.lib().nvmlDeviceGetRemappedRows.as_ref())?;
        let (mut correctable, mut uncorrectable, mut pending, mut failure) = (0, 0, 0, 0);
        // SAFETY: a handle of this library and four places for a number.
        check(unsafe { call(self.raw(), &mut correctable, &mut uncorrectable, &mut pending, &mut failure) })?;
        Ok(RemappedRows { correctable, uncorrectable, pending: pending != 0, failure: failure != 0 })
    }

    pub fn row_histogram(&self) -> Result<RowHistogram, Error> {
        let call = nvml_sym(self.nvml.lib().nvmlDeviceGetRowRemapperHistogram.as_ref())?;
        let mut banks = sys::nvmlRowRemapperHistogramValues_t { max: 0, high: 0, partial: 0, low: 0, none: 0 };
        // SAFETY: a handle of this library and a place for the structure.
        check(unsafe { call(self.raw(), &mut banks) })?;
        let sys::nvmlRowRemapperHistogramValues_t { max, high, partial, low, none } = banks;
        Ok(RowHistogram { max, high, partial, low, none })
    }

    pub fn fabric(&self) -> Result<Fabric, Error> {
        let call = nvml_sym(self.nvml.lib().nvmlDeviceGetGpuFabricInfoV.as_ref())?;
        // SAFETY: plain numbers, for which zero is a value.
        let mut info: sys::nvmlGpuFabricInfoV_t = unsafe { mem::zeroed() };
        info.version = version::<sys::nvmlGpuFabricInfoV_t>(3);
        // SAFETY: a handle of this library and a place for the structure whose version is given.
        let mut code = unsafe { call(self.raw(), &mut info) };
        let mut has_summary = true;
        if code == sys::nvmlReturn_enum_NVML_ERROR_ARGUMENT_VERSION_MISMATCH {
            // Drivers before 570 know the structure without its last field.
            has_summary = false;
            info.version = version::<sys::nvmlGpuFabricInfo_v2_t>(2);
            // SAFETY: as above; version 2 is a prefix of version 3.
            code = unsafe { call(self.raw(), &mut info) };
        }
        check(code)?;
        // Before the fabric is complete the status says nothing (nvml.h).
        if u32::from(info.state) == sys::NVML_GPU_FABRIC_STATE_COMPLETED {
            check(info.status)?;
        }
        Ok(Fabric {
            state: u32::from(info.state),
            health_summary: has_summary.then_some(info.healthSummary),
            health_mask: info.healthMask,
            clique: info.cliqueId,
            cluster: info.clusterUuid,
        })
    }

    pub fn sram_ecc(&self) -> Result<SramEcc, Error> {
        let call = nvml_sym(self.nvml.lib().nvmlDeviceGetSramEccErrorStatus.as_ref())?;
        // SAFETY: plain numbers, for which zero is a value.
        let mut status: sys::nvmlEccSramErrorStatus_t = unsafe { mem::zeroed() };
        status.version = version::<sys::nvmlEccSramErrorStatus_t>(1);
        // SAFETY: a handle of this library and a place for the structure whose version is given.
        check(unsafe { call(self.raw(), &mut status) })?;
        Ok(SramEcc {
            volatile_corrected: status.volatileCor,
            volatile_uncorrected: status.volatileUncParity.saturating_add(status.volatileUncSecDed),
            aggregate_corrected: status.aggregateCor,
            aggregate_uncorrected: status.aggregateUncParity.saturating_add(status.aggregateUncSecDed),
            threshold_exceeded: status.bThresholdExceeded != 0,
        })
    }

    /// Whether a repair of a memory channel, and of a TPC, waits for a reset.
    pub fn repairs_pending(&self) -> Result<(bool, bool), Error> {
        let call = nvml_sym(self.nvml.lib().nvmlDeviceGetRepairStatus.as_ref())?;
        let number = version::<sys::nvmlRepairStatus_t>(1);
        let mut status = sys::nvmlRepairStatus_t { version: number, bChannelRepairPending: 0, bTpcRepairPending: 0 };
        // SAFETY: a handle of this library and a place for the structure whose version is given.
        check(unsafe { call(self.raw(), &mut status) })?;
        Ok((status.bChannelRepairPending != 0, status.bTpcRepairPending != 0))
    }

    /// °C left before the GPU slows down.
    pub fn margin_temperature(&self) -> Result<i32, Error> {
        let call = nvml_sym(self.nvml.lib().nvmlDeviceGetMarginTemperature.as_ref())?;
        let number = version::<sys::nvmlMarginTemperature_t>(1);
        let mut margin = sys::nvmlMarginTemperature_t { version: number, marginTemperature: 0 };
        // SAFETY: a handle of this library and a place for the structure whose version is given.
        check(unsafe { call(self.raw(), &mut margin) })?;
        Ok(margin.marginTemperature)
    }

    /// Why the clocks are below what they could be, as nvml.h's `nvmlClocksEventReason*` bits, those of later drivers included.
    pub fn clocks_event_reasons(&self) -> Result<u64, Error> {
        let lib = self.nvml.lib();
        // Renamed in driver 535; older ones have the old name only.
        let call = lib.nvmlDeviceGetCurrentClocksEventReasons.as_ref();
        let call = nvml_sym(call.or(lib.nvmlDeviceGetCurrentClocksThrottleReasons.as_ref()))?;
        let mut reasons = 0;
        // SAFETY: a handle of this library and a place for a number.
        check(unsafe { call(self.raw(), &mut reasons) })?;
        Ok(reasons)
    }

    /// Busy share of the JPEG decoders and of the optical-flow engine, in percent.
    pub fn jpeg_utilization(&self) -> Result<u32, Error> {
        let call = nvml_sym(self.nvml.lib().nvmlDeviceGetJpgUtilization.as_ref())?;
        let (mut percent, mut period_us) = (0, 0);
        // SAFETY: a handle of this library and two places for a number.
        check(unsafe { call(self.raw(), &mut percent, &mut period_us) })?;
        Ok(percent)
    }

    pub fn optical_flow_utilization(&self) -> Result<u32, Error> {
        let call = nvml_sym(self.nvml.lib().nvmlDeviceGetOfaUtilization.as_ref())?;
        let (mut percent, mut period_us) = (0, 0);
        // SAFETY: a handle of this library and two places for a number.
        check(unsafe { call(self.raw(), &mut percent, &mut period_us) })?;
        Ok(percent)
    }

    /// Place on the baseboard, from 1.
    pub fn module_id(&self) -> Result<u32, Error> {
        let call = nvml_sym(self.nvml.lib().nvmlDeviceGetModuleId.as_ref())?;
        let mut id = 0;
        // SAFETY: a handle of this library and a place for a number.
        check(unsafe { call(self.raw(), &mut id) })?;
        Ok(id)
    }

    /// Pages retired so far, by double and by single bit errors (before Ampere).
    pub fn retired_pages_count(&self, double_bit: bool) -> Result<u32, Error> {
        let call = nvml_sym(self.nvml.lib().nvmlDeviceGetRetiredPages_v2.as_ref())?;
        let (mut count, nowhere) = (0, std::ptr::null_mut());
        // SAFETY: a handle of this library, and by nvml.h's contract no room asks for the count alone.
        match unsafe { call(self.raw(), c_uint::from(double_bit), &mut count, nowhere, nowhere) } {
            sys::nvmlReturn_enum_NVML_ERROR_INSUFFICIENT_SIZE => Ok(count),
            code => check(code).map(|()| count),
        }
    }
}

/// GPU instance and compute instance of a MIG device.
pub(crate) fn instance_ids(nvml: &Nvml, device: &Device<'_>) -> Result<(u32, u32), Error> {
    let gpu = nvml_sym(nvml.lib().nvmlDeviceGetGpuInstanceId.as_ref())?;
    let compute = nvml_sym(nvml.lib().nvmlDeviceGetComputeInstanceId.as_ref())?;
    let (mut gpu_instance, mut compute_instance) = (0, 0);
    // SAFETY: a handle of this library and a place for a number each.
    unsafe {
        check(gpu(device.handle(), &mut gpu_instance))?;
        check(compute(device.handle(), &mut compute_instance))?;
    }
    Ok((gpu_instance, compute_instance))
}

fn field(value: &sys::nvmlFieldValue_t) -> Result<f64, Error> {
    check(value.nvmlReturn)?;
    let held = value.value;
    // SAFETY: every member of the union is a number, valid for any bits, and the library says which one it wrote.
    let number = unsafe {
        match value.valueType {
            sys::nvmlValueType_enum_NVML_VALUE_TYPE_DOUBLE => held.dVal,
            sys::nvmlValueType_enum_NVML_VALUE_TYPE_UNSIGNED_INT => f64::from(held.uiVal),
            sys::nvmlValueType_enum_NVML_VALUE_TYPE_UNSIGNED_LONG => held.ulVal as f64,
            sys::nvmlValueType_enum_NVML_VALUE_TYPE_UNSIGNED_LONG_LONG => held.ullVal as f64,
            sys::nvmlValueType_enum_NVML_VALUE_TYPE_SIGNED_LONG_LONG => held.sllVal as f64,
            sys::nvmlValueType_enum_NVML_VALUE_TYPE_SIGNED_INT => f64::from(held.siVal),
            sys::nvmlValueType_enum_NVML_VALUE_TYPE_UNSIGNED_SHORT => f64::from(held.usVal),
            other => return Err(Error::UnexpectedVariant(other)),
        }
    };
    if number.is_finite() { Ok(number) } else { Err(Error::NoData) }
}

/// The text before the first zero; a text that fills its place has none.
fn lossy(text: &[c_char]) -> String {
    let bytes: Vec<u8> = text.iter().map(|c| c.cast_unsigned()).collect();
    let text = CStr::from_bytes_until_nul(&bytes).map_or(bytes.as_slice(), CStr::to_bytes);
    String::from_utf8_lossy(text).into_owned()
}
