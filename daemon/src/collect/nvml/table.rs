//! Every number that is read of a GPU: what it is, which call gives it, how often, and under which names it is exported.
//!
//! One row is one signal. Own names are in base units with the unit last; DCGM's names and units are those of dcgm-exporter 4.6's default
//! counters, so that its dashboards work. Field ids are in the numbering before driver 580.82 (`nvml` translates).

use nvml::kinds::{Clock, EccCounter, MemoryError, PerformancePolicy, TemperatureSensor, TemperatureThreshold};
use nvml::{Error, GpmMetricId, Look};

use crate::node::metric::Kind;

/// How often a signal is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Tier {
    /// 1 s.
    Second,
    /// 10 s.
    TenSeconds,
    /// 60 s.
    Minute,
    /// When the GPU is found, and again after a reset.
    Start,
}

/// How a signal is had.
#[derive(Clone, Copy)]
pub enum Read {
    Call(fn(&Look<'_>) -> Result<f64, Error>),
    /// `nvmlDeviceGetFieldValues`, all fields of a tier in one call.
    Field(u32),
    /// The performance monitor (Hopper and later), between two samples.
    Gpm(GpmMetricId),
}

/// A name of DCGM with its unit: own value × `scale`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Dcgm {
    pub name: &'static str,
    pub kind: Kind,
    pub scale: f64,
}

pub struct Row {
    pub signal: Signal,
    pub tier: Tier,
    pub read: Read,
    /// What the library gives × `scale` is in the unit of `name`.
    pub scale: f64,
    pub kind: Kind,
    pub name: &'static str,
    pub labels: &'static [(&'static str, &'static str)],
    pub help: &'static str,
    pub dcgm: Option<Dcgm>,
}

const MIB: f64 = 1_048_576.0;
const NS: f64 = 1e-9;

fn flag(truth: bool) -> f64 {
    f64::from(u8::from(truth))
}

const fn gauge(name: &'static str, scale: f64) -> Option<Dcgm> {
    Some(Dcgm { name, kind: Kind::Gauge, scale })
}

const fn counter(name: &'static str, scale: f64) -> Option<Dcgm> {
    Some(Dcgm { name, kind: Kind::Counter, scale })
}

macro_rules! table {
    ($($signal:ident: $tier:ident, $read:expr, $scale:expr, $kind:ident $name:literal [$($label:literal = $value:literal)?], $help:literal, $dcgm:expr;)*) => {
        /// A number read of a GPU; the position of its row in [`TABLE`].
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Signal { $($signal,)* }

        /// All signals.
        pub static TABLE: &[Row] = &[$(Row {
            signal: Signal::$signal,
            tier: Tier::$tier,
            read: $read,
            scale: $scale,
            kind: Kind::$kind,
            name: $name,
            labels: &[$(($label, $value))?],
            help: $help,
            dcgm: $dcgm,
        },)*];
    };
}

use Read::{Call, Field, Gpm};

table! {
    // --- load
    Busy: Second, Call(|gpu| Ok(gpu.utilization_rates()?.gpu.into())), 0.01, Gauge "trackside_gpu_busy_ratio" [],
        "Share of time in which some kernel ran; says nothing of saturation.", gauge("DCGM_FI_DEV_GPU_UTIL", 100.0);
    MemoryBusy: Second, Call(|gpu| Ok(gpu.utilization_rates()?.memory.into())), 0.01, Gauge "trackside_gpu_memory_busy_ratio" [],
        "Share of time in which memory was read or written.", gauge("DCGM_FI_DEV_MEM_COPY_UTIL", 100.0);
    GraphicsActive: Second, Gpm(GpmMetricId::GraphicsUtil), 0.01, Gauge "trackside_gpu_engine_active_ratio" [],
        "Share of time in which the compute engine was active.", gauge("DCGM_FI_PROF_GR_ENGINE_ACTIVE", 1.0);
    SmActive: Second, Gpm(GpmMetricId::SmUtil), 0.01, Gauge "trackside_gpu_sm_active_ratio" [],
        "Share of the multiprocessors' time in which they had work.", gauge("DCGM_FI_PROF_SM_ACTIVE", 1.0);
    SmOccupancy: Second, Gpm(GpmMetricId::SmOccupancy), 0.01, Gauge "trackside_gpu_sm_occupancy_ratio" [],
        "Resident warps as a share of the most there can be.", gauge("DCGM_FI_PROF_SM_OCCUPANCY", 1.0);
    TensorActive: Second, Gpm(GpmMetricId::AnyTensorUtil), 0.01, Gauge "trackside_gpu_tensor_active_ratio" [],
        "Share of time in which the tensor cores were active.", gauge("DCGM_FI_PROF_PIPE_TENSOR_ACTIVE", 1.0);
    DramActive: Second, Gpm(GpmMetricId::DramBwUtil), 0.01, Gauge "trackside_gpu_dram_active_ratio" [],
        "Share of the memory's bandwidth in use.", gauge("DCGM_FI_PROF_DRAM_ACTIVE", 1.0);
    Fp64Active: Second, Gpm(GpmMetricId::Fp64Util), 0.01, Gauge "trackside_gpu_fp64_active_ratio" [],
        "Share of time in which the FP64 pipe was active.", gauge("DCGM_FI_PROF_PIPE_FP64_ACTIVE", 1.0);
    Fp32Active: Second, Gpm(GpmMetricId::Fp32Util), 0.01, Gauge "trackside_gpu_fp32_active_ratio" [],
        "Share of time in which the FP32 pipe was active.", gauge("DCGM_FI_PROF_PIPE_FP32_ACTIVE", 1.0);
    Fp16Active: Second, Gpm(GpmMetricId::Fp16Util), 0.01, Gauge "trackside_gpu_fp16_active_ratio" [],
        "Share of time in which the FP16 pipe was active.", gauge("DCGM_FI_PROF_PIPE_FP16_ACTIVE", 1.0);
    Encoder: TenSeconds, Call(|gpu| Ok(gpu.encoder_utilization()?.utilization.into())), 0.01, Gauge "trackside_gpu_encoder_busy_ratio" [],
        "Busy share of the video encoders.", gauge("DCGM_FI_DEV_ENC_UTIL", 100.0);
    Decoder: TenSeconds, Call(|gpu| Ok(gpu.decoder_utilization()?.utilization.into())), 0.01, Gauge "trackside_gpu_decoder_busy_ratio" [],
        "Busy share of the video decoders.", gauge("DCGM_FI_DEV_DEC_UTIL", 100.0);
    Jpeg: Minute, Call(|gpu| gpu.jpeg_utilization().map(f64::from)), 0.01, Gauge "trackside_gpu_jpeg_busy_ratio" [],
        "Busy share of the JPEG decoders.", None;
    OpticalFlow: Minute, Call(|gpu| gpu.optical_flow_utilization().map(f64::from)), 0.01, Gauge "trackside_gpu_optical_flow_busy_ratio" [],
        "Busy share of the optical-flow engine.", None;

    // --- memory
    MemoryTotal: Second, Call(|gpu| Ok(gpu.memory_info()?.total as f64)), 1.0, Gauge "trackside_gpu_memory_total_bytes" [],
        "Memory of the GPU.", None;
    MemoryUsed: Second, Call(|gpu| Ok(gpu.memory_info()?.used as f64)), 1.0, Gauge "trackside_gpu_memory_used_bytes" [],
        "Memory in use, without what the driver reserves.", gauge("DCGM_FI_DEV_FB_USED", 1.0 / MIB);
    MemoryFree: Second, Call(|gpu| Ok(gpu.memory_info()?.free as f64)), 1.0, Gauge "trackside_gpu_memory_free_bytes" [],
        "Memory that is free.", gauge("DCGM_FI_DEV_FB_FREE", 1.0 / MIB);
    MemoryReserved: Second, Call(|gpu| Ok(gpu.memory_info()?.reserved as f64)), 1.0, Gauge "trackside_gpu_memory_reserved_bytes" [],
        "Memory reserved by driver and firmware.", gauge("DCGM_FI_DEV_FB_RESERVED", 1.0 / MIB);
    Bar1Used: Minute, Call(|gpu| Ok(gpu.bar1_memory_info()?.used as f64)), 1.0, Gauge "trackside_gpu_bar1_used_bytes" [],
        "BAR1 window in use; GPUDirect RDMA needs what is left.", gauge("DCGM_FI_DEV_BAR1_USED", 1.0 / MIB);
    Bar1Total: Minute, Call(|gpu| Ok(gpu.bar1_memory_info()?.total as f64)), 1.0, Gauge "trackside_gpu_bar1_total_bytes" [],
        "BAR1 window.", gauge("DCGM_FI_DEV_BAR1_TOTAL", 1.0 / MIB);

    // --- power, clocks, heat
    Power: Second, Call(|gpu| gpu.power_usage().map(f64::from)), 1e-3, Gauge "trackside_gpu_power_watts" [],
        "Power drawn; on most GPUs the average of a second.", gauge("DCGM_FI_DEV_POWER_USAGE", 1.0);
    PowerInstant: Second, Field(186), 1e-3, Gauge "trackside_gpu_power_instant_watts" [],
        "Power drawn at this moment.", gauge("DCGM_FI_DEV_POWER_USAGE_INSTANT", 1.0);
    PowerLimit: Minute, Call(|gpu| gpu.power_management_limit().map(f64::from)), 1e-3, Gauge "trackside_gpu_power_limit_watts" [],
        "Power limit as set.", gauge("DCGM_FI_DEV_POWER_MGMT_LIMIT", 1.0);
    PowerLimitEnforced: Minute, Call(|gpu| gpu.enforced_power_limit().map(f64::from)), 1e-3,
        Gauge "trackside_gpu_power_limit_enforced_watts" [], "Least of all power limits.", gauge("DCGM_FI_DEV_ENFORCED_POWER_LIMIT", 1.0);
    PowerLimitDefault: Start, Call(|gpu| gpu.power_management_limit_default().map(f64::from)), 1e-3,
        Gauge "trackside_gpu_power_limit_default_watts" [], "Power limit as shipped.", None;
    Energy: Second, Call(|gpu| gpu.total_energy_consumption().map(|mj| mj as f64)), 1e-3, Counter "trackside_gpu_energy_joules_total" [],
        "Energy since the driver was loaded.", counter("DCGM_FI_DEV_TOTAL_ENERGY_CONSUMPTION", 1e3);
    SmClock: Second, Call(|gpu| gpu.clock_info(Clock::SM).map(f64::from)), 1e6, Gauge "trackside_gpu_sm_clock_hertz" [],
        "Clock of the multiprocessors.", gauge("DCGM_FI_DEV_SM_CLOCK", 1e-6);
    MemoryClock: Second, Call(|gpu| gpu.clock_info(Clock::Memory).map(f64::from)), 1e6, Gauge "trackside_gpu_memory_clock_hertz" [],
        "Clock of the memory.", gauge("DCGM_FI_DEV_MEM_CLOCK", 1e-6);
    SmClockMax: Start, Call(|gpu| gpu.max_clock_info(Clock::SM).map(f64::from)), 1e6, Gauge "trackside_gpu_sm_clock_max_hertz" [],
        "Highest clock of the multiprocessors.", None;
    ClockEvents: Second, Call(|gpu| gpu.clocks_event_reasons().map(|bits| bits as f64)), 1.0, Gauge "trackside_gpu_clock_event_reasons" [],
        "Why clocks are below what they could be, as NVML's bits.", gauge("DCGM_FI_DEV_CLOCKS_EVENT_REASONS", 1.0);
    Temperature: Second, Call(|gpu| gpu.temperature(TemperatureSensor::Gpu).map(f64::from)), 1.0, Gauge "trackside_gpu_temperature_celsius" [],
        "Temperature of the GPU.", gauge("DCGM_FI_DEV_GPU_TEMP", 1.0);
    MemoryTemperature: TenSeconds, Field(82), 1.0, Gauge "trackside_gpu_memory_temperature_celsius" [],
        "Temperature of the memory.", gauge("DCGM_FI_DEV_MEMORY_TEMP", 1.0);
    TemperatureMargin: TenSeconds, Call(|gpu| gpu.margin_temperature().map(f64::from)), 1.0,
        Gauge "trackside_gpu_temperature_margin_celsius" [], "Degrees left before the GPU slows down.", gauge("DCGM_FI_DEV_GPU_TEMP_LIMIT", 1.0);
    TemperatureSlowdown: Start, Call(|gpu| gpu.temperature_threshold(TemperatureThreshold::Slowdown).map(f64::from)), 1.0,
        Gauge "trackside_gpu_temperature_slowdown_celsius" [], "Where the GPU slows down.", gauge("DCGM_FI_DEV_SLOWDOWN_TEMP", 1.0);
    TemperatureShutdown: Start, Call(|gpu| gpu.temperature_threshold(TemperatureThreshold::Shutdown).map(f64::from)), 1.0,
        Gauge "trackside_gpu_temperature_shutdown_celsius" [], "Where the GPU switches off.", gauge("DCGM_FI_DEV_SHUTDOWN_TEMP", 1.0);
    ViolationPower: TenSeconds, Call(|gpu| violation(gpu, PerformancePolicy::Power)), NS, Counter "trackside_gpu_clock_limited_seconds_total" ["cause" = "power"],
        "Time in which clocks were held down.", counter("DCGM_FI_DEV_POWER_VIOLATION", 1e9);
    ViolationThermal: TenSeconds, Call(|gpu| violation(gpu, PerformancePolicy::Thermal)), NS, Counter "trackside_gpu_clock_limited_seconds_total" ["cause" = "thermal"],
        "Time in which clocks were held down.", counter("DCGM_FI_DEV_THERMAL_VIOLATION", 1e9);
    ViolationSyncBoost: TenSeconds, Call(|gpu| violation(gpu, PerformancePolicy::SyncBoost)), NS, Counter "trackside_gpu_clock_limited_seconds_total" ["cause" = "sync_boost"],
        "Time in which clocks were held down.", counter("DCGM_FI_DEV_SYNC_BOOST_VIOLATION", 1e9);
    ViolationBoard: TenSeconds, Call(|gpu| violation(gpu, PerformancePolicy::BoardLimit)), NS, Counter "trackside_gpu_clock_limited_seconds_total" ["cause" = "board_limit"],
        "Time in which clocks were held down.", counter("DCGM_FI_DEV_BOARD_LIMIT_VIOLATION", 1e9);
    ViolationLowUse: TenSeconds, Call(|gpu| violation(gpu, PerformancePolicy::LowUtilization)), NS, Counter "trackside_gpu_clock_limited_seconds_total" ["cause" = "low_use"],
        "Time in which clocks were held down.", counter("DCGM_FI_DEV_LOW_UTIL_VIOLATION", 1e9);
    ViolationReliability: TenSeconds, Call(|gpu| violation(gpu, PerformancePolicy::Reliability)), NS, Counter "trackside_gpu_clock_limited_seconds_total" ["cause" = "reliability"],
        "Time in which clocks were held down.", counter("DCGM_FI_DEV_RELIABILITY_VIOLATION", 1e9);
    ThrottleSoftware: TenSeconds, Field(251), NS, Counter "trackside_gpu_throttled_seconds_total" ["cause" = "software_thermal"],
        "Time of clock events that mean trouble.", None;
    ThrottleHardware: TenSeconds, Field(252), NS, Counter "trackside_gpu_throttled_seconds_total" ["cause" = "hardware_thermal"],
        "Time of clock events that mean trouble.", None;
    ThrottleBrake: TenSeconds, Field(253), NS, Counter "trackside_gpu_throttled_seconds_total" ["cause" = "power_brake"],
        "Time of clock events that mean trouble.", None;

    // --- errors of the memory
    EccMode: Start, Call(|gpu| Ok(flag(gpu.is_ecc_enabled()?.currently_enabled))), 1.0, Gauge "trackside_gpu_ecc_enabled" [],
        "Whether ECC is on.", gauge("DCGM_FI_DEV_ECC_CURRENT", 1.0);
    EccCorrected: TenSeconds, Call(|gpu| ecc(gpu, MemoryError::Corrected, EccCounter::Volatile)), 1.0,
        Counter "trackside_gpu_ecc_corrected_total" [], "Corrected errors since the driver was loaded.", counter("DCGM_FI_DEV_ECC_SBE_VOL_TOTAL", 1.0);
    EccUncorrected: TenSeconds, Call(|gpu| ecc(gpu, MemoryError::Uncorrected, EccCounter::Volatile)), 1.0,
        Counter "trackside_gpu_ecc_uncorrected_total" [], "Uncorrected errors since the driver was loaded.", counter("DCGM_FI_DEV_ECC_DBE_VOL_TOTAL", 1.0);
    EccCorrectedLife: TenSeconds, Call(|gpu| ecc(gpu, MemoryError::Corrected, EccCounter::Aggregate)), 1.0,
        Counter "trackside_gpu_ecc_corrected_lifetime_total" [], "Corrected errors in the board's life.", counter("DCGM_FI_DEV_ECC_SBE_AGG_TOTAL", 1.0);
    EccUncorrectedLife: TenSeconds, Call(|gpu| ecc(gpu, MemoryError::Uncorrected, EccCounter::Aggregate)), 1.0,
        Counter "trackside_gpu_ecc_uncorrected_lifetime_total" [], "Uncorrected errors in the board's life.", counter("DCGM_FI_DEV_ECC_DBE_AGG_TOTAL", 1.0);
    SramThreshold: Minute, Call(|gpu| Ok(flag(gpu.sram_ecc()?.threshold_exceeded))), 1.0, Gauge "trackside_gpu_sram_ecc_threshold_exceeded" [],
        "Whether SRAM errors are so many that the board should be replaced.", gauge("DCGM_FI_DEV_THRESHOLD_SRM", 1.0);
    SramUncorrected: Minute, Call(|gpu| Ok(gpu.sram_ecc()?.aggregate_uncorrected as f64)), 1.0, Counter "trackside_gpu_sram_ecc_uncorrected_lifetime_total" [],
        "Uncorrected SRAM errors in the board's life.", None;
    RowsCorrectable: TenSeconds, Call(|gpu| Ok(gpu.remapped_rows()?.correctable.into())), 1.0, Counter "trackside_gpu_remapped_rows_total" ["cause" = "correctable"],
        "Rows of memory replaced by spares.", counter("DCGM_FI_DEV_CORRECTABLE_REMAPPED_ROWS", 1.0);
    RowsUncorrectable: TenSeconds, Call(|gpu| Ok(gpu.remapped_rows()?.uncorrectable.into())), 1.0, Counter "trackside_gpu_remapped_rows_total" ["cause" = "uncorrectable"],
        "Rows of memory replaced by spares.", counter("DCGM_FI_DEV_UNCORRECTABLE_REMAPPED_ROWS", 1.0);
    RowRemapPending: TenSeconds, Call(|gpu| Ok(flag(gpu.remapped_rows()?.pending))), 1.0, Gauge "trackside_gpu_row_remap_pending" [],
        "Whether a remap waits for a reset.", gauge("DCGM_FI_DEV_ROW_REMAP_PENDING", 1.0);
    RowRemapFailure: TenSeconds, Call(|gpu| Ok(flag(gpu.remapped_rows()?.failure))), 1.0, Gauge "trackside_gpu_row_remap_failure" [],
        "Whether a remap failed.", gauge("DCGM_FI_DEV_ROW_REMAP_FAILURE", 1.0);
    BanksWithoutSpare: Minute, Call(|gpu| Ok(gpu.row_histogram()?.none.into())), 1.0, Gauge "trackside_gpu_banks_without_spare_rows" [],
        "Banks of memory with no spare row left.", None;
    RetiredSingle: Minute, Call(|gpu| gpu.retired_pages_count(false).map(f64::from)), 1.0, Counter "trackside_gpu_retired_pages_total" ["cause" = "single_bit"],
        "Pages of memory retired (before Ampere).", counter("DCGM_FI_DEV_RETIRED_SBE", 1.0);
    RetiredDouble: Minute, Call(|gpu| gpu.retired_pages_count(true).map(f64::from)), 1.0, Counter "trackside_gpu_retired_pages_total" ["cause" = "double_bit"],
        "Pages of memory retired (before Ampere).", counter("DCGM_FI_DEV_RETIRED_DBE", 1.0);
    RetiredPending: Minute, Call(|gpu| gpu.are_pages_pending_retired().map(flag)), 1.0, Gauge "trackside_gpu_retired_pages_pending" [],
        "Whether a retirement waits for a reset (before Ampere).", gauge("DCGM_FI_DEV_RETIRED_PENDING", 1.0);
    RepairChannel: Minute, Call(|gpu| Ok(flag(gpu.repairs_pending()?.0))), 1.0, Gauge "trackside_gpu_repair_pending" ["part" = "channel"],
        "Whether a repair waits for a reset.", None;
    RepairTpc: Minute, Call(|gpu| Ok(flag(gpu.repairs_pending()?.1))), 1.0, Gauge "trackside_gpu_repair_pending" ["part" = "tpc"],
        "Whether a repair waits for a reset.", None;
    RecoveryAction: TenSeconds, Field(230), 1.0, Gauge "trackside_gpu_recovery_action" [],
        "0 none, 1 reset, 2 reboot, 3 drain P2P, 4 drain and reset, 5 recover the IMEX domain.", gauge("DCGM_FI_DEV_GPU_RECOVERY_ACTION", 1.0);

    // --- PCIe
    PcieTx: Second, Field(197), 1.0, Counter "trackside_gpu_pcie_transmit_bytes_total" [], "Bytes sent over PCIe.", None;
    PcieRx: Second, Field(198), 1.0, Counter "trackside_gpu_pcie_receive_bytes_total" [], "Bytes received over PCIe.", None;
    PcieTxRate: Second, Gpm(GpmMetricId::PcieTxPerSec), MIB, Gauge "trackside_gpu_pcie_transmit_bytes_per_second" [],
        "Rate of bytes sent over PCIe.", gauge("DCGM_FI_PROF_PCIE_TX_BYTES", 1.0);
    PcieRxRate: Second, Gpm(GpmMetricId::PcieRxPerSec), MIB, Gauge "trackside_gpu_pcie_receive_bytes_per_second" [],
        "Rate of bytes received over PCIe.", gauge("DCGM_FI_PROF_PCIE_RX_BYTES", 1.0);
    PcieReplay: TenSeconds, Call(|gpu| gpu.pcie_replay_counter().map(f64::from)), 1.0, Counter "trackside_gpu_pcie_replays_total" [],
        "Packets sent again.", counter("DCGM_FI_DEV_PCIE_REPLAY_COUNTER", 1.0);
    PcieGeneration: TenSeconds, Call(|gpu| gpu.current_pcie_link_gen().map(f64::from)), 1.0, Gauge "trackside_gpu_pcie_link_generation" [],
        "Generation of the link now; falls when idle.", gauge("DCGM_FI_DEV_PCIE_LINK_GEN", 1.0);
    PcieWidth: TenSeconds, Call(|gpu| gpu.current_pcie_link_width().map(f64::from)), 1.0, Gauge "trackside_gpu_pcie_link_width" [],
        "Lanes of the link now.", gauge("DCGM_FI_DEV_PCIE_LINK_WIDTH", 1.0);
    PcieWidthMax: Start, Call(|gpu| gpu.max_pcie_link_width().map(f64::from)), 1.0, Gauge "trackside_gpu_pcie_link_width_max" [],
        "Lanes the link can have.", gauge("DCGM_FI_DEV_PCIE_MAX_LINK_WIDTH", 1.0);
    PcieGenerationMax: Start, Call(|gpu| gpu.max_pcie_link_gen().map(f64::from)), 1.0, Gauge "trackside_gpu_pcie_link_generation_max" [],
        "Generation the link can have.", gauge("DCGM_FI_DEV_PCIE_MAX_LINK_GEN", 1.0);
    PcieRecovery: TenSeconds, Field(169), 1.0, Counter "trackside_gpu_pcie_errors_total" ["kind" = "l0_to_recovery"], "Errors of the PCIe link.", None;
    PcieCorrectable: TenSeconds, Field(173), 1.0, Counter "trackside_gpu_pcie_errors_total" ["kind" = "correctable"], "Errors of the PCIe link.", None;
    PcieNakReceived: TenSeconds, Field(174), 1.0, Counter "trackside_gpu_pcie_errors_total" ["kind" = "nak_received"], "Errors of the PCIe link.", None;
    PcieReceiver: TenSeconds, Field(175), 1.0, Counter "trackside_gpu_pcie_errors_total" ["kind" = "receiver"], "Errors of the PCIe link.", None;
    PcieBadTlp: TenSeconds, Field(176), 1.0, Counter "trackside_gpu_pcie_errors_total" ["kind" = "bad_tlp"], "Errors of the PCIe link.", None;
    PcieNakSent: TenSeconds, Field(177), 1.0, Counter "trackside_gpu_pcie_errors_total" ["kind" = "nak_sent"], "Errors of the PCIe link.", None;
    PcieBadDllp: TenSeconds, Field(178), 1.0, Counter "trackside_gpu_pcie_errors_total" ["kind" = "bad_dllp"], "Errors of the PCIe link.", None;
    PcieNonFatal: TenSeconds, Field(179), 1.0, Counter "trackside_gpu_pcie_errors_total" ["kind" = "non_fatal"], "Errors of the PCIe link.", None;
    PcieFatal: TenSeconds, Field(180), 1.0, Counter "trackside_gpu_pcie_errors_total" ["kind" = "fatal"], "Errors of the PCIe link.", None;
    PcieUnsupported: TenSeconds, Field(181), 1.0, Counter "trackside_gpu_pcie_errors_total" ["kind" = "unsupported_request"], "Errors of the PCIe link.", None;
    PcieLcrc: TenSeconds, Field(182), 1.0, Counter "trackside_gpu_pcie_errors_total" ["kind" = "lcrc"], "Errors of the PCIe link.", None;
    PcieLane: TenSeconds, Field(183), 1.0, Counter "trackside_gpu_pcie_errors_total" ["kind" = "lane"], "Errors of the PCIe link.", None;

    // --- NVLink
    NvlinkTx: Second, Field(138), 1024.0, Counter "trackside_gpu_nvlink_transmit_bytes_total" [], "Payload sent over all NVLinks.", None;
    NvlinkRx: Second, Field(139), 1024.0, Counter "trackside_gpu_nvlink_receive_bytes_total" [], "Payload received over all NVLinks.", None;
    NvlinkTxRate: Second, Gpm(GpmMetricId::NvlinkTotalTxPerSec), MIB, Gauge "trackside_gpu_nvlink_transmit_bytes_per_second" [],
        "Rate of bytes sent over all NVLinks.", gauge("DCGM_FI_PROF_NVLINK_TX_BYTES", 1.0);
    NvlinkRxRate: Second, Gpm(GpmMetricId::NvlinkTotalRxPerSec), MIB, Gauge "trackside_gpu_nvlink_receive_bytes_per_second" [],
        "Rate of bytes received over all NVLinks.", gauge("DCGM_FI_PROF_NVLINK_RX_BYTES", 1.0);
    NvlinkRawTx: TenSeconds, Field(140), 1024.0, Counter "trackside_gpu_nvlink_raw_transmit_bytes_total" [], "Bytes sent over all NVLinks, protocol included.", None;
    NvlinkRawRx: TenSeconds, Field(141), 1024.0, Counter "trackside_gpu_nvlink_raw_receive_bytes_total" [], "Bytes received over all NVLinks, protocol included.", None;
    NvlinkEcc: TenSeconds, Field(160), 1.0, Counter "trackside_gpu_nvlink_errors_total" ["kind" = "ecc"], "Errors of all NVLinks.", None;
    NvlinkReplay: TenSeconds, Field(161), 1.0, Counter "trackside_gpu_nvlink_errors_total" ["kind" = "replay"], "Errors of all NVLinks.",
        counter("DCGM_FI_DEV_NVLINK_REPLAY_ERROR_COUNT_TOTAL", 1.0);
    NvlinkRecovery: TenSeconds, Field(162), 1.0, Counter "trackside_gpu_nvlink_errors_total" ["kind" = "recovery"], "Errors of all NVLinks.",
        counter("DCGM_FI_DEV_NVLINK_RECOVERY_ERROR_COUNT_TOTAL", 1.0);
    NvlinkCrc: TenSeconds, Field(163), 1.0, Counter "trackside_gpu_nvlink_errors_total" ["kind" = "crc"], "Errors of all NVLinks.",
        counter("DCGM_FI_DEV_NVLINK_CRC_FLIT_ERROR_COUNT_TOTAL", 1.0);
    NvlinkMalformed: TenSeconds, Field(206), 1.0, Counter "trackside_gpu_nvlink_errors_total" ["kind" = "malformed"], "Errors of all NVLinks.", None;
    NvlinkOverrun: TenSeconds, Field(207), 1.0, Counter "trackside_gpu_nvlink_errors_total" ["kind" = "overrun"], "Errors of all NVLinks.", None;
    NvlinkReceive: TenSeconds, Field(208), 1.0, Counter "trackside_gpu_nvlink_errors_total" ["kind" = "receive"], "Errors of all NVLinks.", None;
    NvlinkRemote: TenSeconds, Field(209), 1.0, Counter "trackside_gpu_nvlink_errors_total" ["kind" = "remote"], "Errors of all NVLinks.", None;
    NvlinkIntegrity: TenSeconds, Field(211), 1.0, Counter "trackside_gpu_nvlink_errors_total" ["kind" = "integrity"], "Errors of all NVLinks.", None;
    NvlinkDiscards: TenSeconds, Field(212), 1.0, Counter "trackside_gpu_nvlink_errors_total" ["kind" = "discard"], "Errors of all NVLinks.", None;
    NvlinkRecoveryFailed: TenSeconds, Field(214), 1.0, Counter "trackside_gpu_nvlink_errors_total" ["kind" = "recovery_failed"], "Errors of all NVLinks.", None;
    NvlinkSymbol: TenSeconds, Field(221), 1.0, Counter "trackside_gpu_nvlink_errors_total" ["kind" = "symbol"], "Errors of all NVLinks.", None;
    C2cLinks: Minute, Field(170), 1.0, Gauge "trackside_gpu_c2c_links" [], "Links to the CPU (Grace).", None;
    C2cBandwidth: Minute, Field(172), 1e6, Gauge "trackside_gpu_c2c_bandwidth_bytes_per_second" [], "Bandwidth of a link to the CPU (Grace).", None;
    FabricState: TenSeconds, Call(|gpu| Ok(gpu.fabric()?.state.into())), 1.0, Gauge "trackside_gpu_fabric_state" [],
        "0 not supported, 1 not started, 2 in progress, 3 completed.", gauge("DCGM_FI_DEV_FABRIC_MANAGER_STATUS", 1.0);
    FabricHealth: TenSeconds, Call(|gpu| gpu.fabric()?.health_summary.map(f64::from).ok_or(Error::NotSupported)), 1.0,
        Gauge "trackside_gpu_fabric_health" [], "0 not applicable, 1 healthy, 2 unhealthy, 3 limited capacity.", gauge("DCGM_FI_DEV_FABRIC_HEALTH_SUMMARY", 1.0);
    FabricHealthMask: TenSeconds, Call(|gpu| Ok(gpu.fabric()?.health_mask.into())), 1.0, Gauge "trackside_gpu_fabric_health_mask" [],
        "Health of the fabric as NVML's bits.", gauge("DCGM_FI_DEV_FABRIC_HEALTH_MASK", 1.0);

    // --- place
    NumaNode: Start, Call(|gpu| gpu.numa_node_id().map(f64::from)), 1.0, Gauge "trackside_gpu_numa_node" [], "NUMA node the GPU is near to.", None;
    Module: Start, Call(|gpu| gpu.module_id().map(f64::from)), 1.0, Gauge "trackside_gpu_module_id" [], "Place on the baseboard.", None;
    MigMode: Start, Call(|gpu| Ok(flag(gpu.mig_mode()?.current != 0))), 1.0, Gauge "trackside_gpu_mig_enabled" [], "Whether the GPU is cut into instances.", None;
}

fn violation(gpu: &Look<'_>, policy: PerformancePolicy) -> Result<f64, Error> {
    // Nanoseconds, whatever older headers say.
    Ok(gpu.violation_status(policy)?.violation_time as f64)
}

fn ecc(gpu: &Look<'_>, error: MemoryError, counter: EccCounter) -> Result<f64, Error> {
    gpu.total_ecc_errors(error, counter).map(|count| count as f64)
}

impl Signal {
    pub fn row(self) -> &'static Row {
        &TABLE[self as usize]
    }
}
