//! The rules: one row is one way in which a GPU is not well, what it asks for, and how it ends.

use std::time::Duration;

use domain::gpu::Verdict;

use crate::collect::nvml::table::Signal;
use crate::collect::nvml::{GpuSample, Stack};
use crate::xid::{BURST_GAP, Class, Incident, Severities};

/// Clock-event bits that mean trouble. A power cap is normal at full load, and idle is normal.
const HW_SLOWDOWN: u64 = 0x8;
const SW_THERMAL: u64 = 0x20;
const HW_THERMAL: u64 = 0x40;
const HW_POWER_BRAKE: u64 = 0x80;
/// Retired pages from which a board is to be replaced (before Ampere).
const RETIRED_MAX: f64 = 63.0;
/// A field of the ten-second tier is no older than this.
const FIELD_WITHIN: Duration = Duration::from_secs(12);
/// Of a rule that cannot say how much throughput is left.
const UNMEASURED: f64 = 0.5;
/// Least capacity of a GPU that still takes work.
const CAPACITY_MIN: f64 = 0.1;

/// How a finding ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Clear {
    /// When it has been untrue for so long; doubled each time it comes back within an hour.
    After(Duration),
    /// On evidence of repair alone: the GPU was reset, its recovery action was taken back, or an operator says so. A reboot voids all.
    Repair,
}

/// What the rules look at.
#[derive(Clone, Copy, Debug)]
pub struct View<'v> {
    pub gpu: &'v GpuSample,
    pub stack: &'v Stack,
    pub incident: Option<&'v Incident>,
    /// Counters when they were last judged.
    pub before: Counters,
    /// XIDs until here were dealt with: a repair or a release came after them.
    pub settled: Duration,
    /// When the agent began to look.
    pub began: Duration,
    pub now: Duration,
}

/// Counters whose growth is a finding.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Counters {
    pub ecc_uncorrected: Option<f64>,
    pub nvlink_recoveries: Option<f64>,
    pub nvlink_recoveries_failed: Option<f64>,
}

impl Counters {
    pub fn of(gpu: &GpuSample) -> Self {
        Self {
            ecc_uncorrected: gpu.get(Signal::EccUncorrected),
            nvlink_recoveries: gpu.get(Signal::NvlinkRecovery),
            nvlink_recoveries_failed: gpu.get(Signal::NvlinkRecoveryFailed),
        }
    }
}

/// What a rule found: a reason for a person, and the share of its throughput that the GPU still has.
#[derive(Clone, Debug, PartialEq)]
pub struct Finding {
    pub reason: String,
    pub capacity: f64,
}

fn found(reason: impl Into<String>) -> Option<Finding> {
    Some(Finding { reason: reason.into(), capacity: UNMEASURED })
}

pub struct Rule {
    pub name: &'static str,
    /// Verdict while it holds; [`Verdict::Ok`] is a note.
    pub level: Verdict,
    /// It must be true for so long first.
    pub raise: Duration,
    pub clear: Clear,
    pub check: fn(&View<'_>) -> Option<Finding>,
}

const fn rule(name: &'static str, level: Verdict, raise_s: u64, clear: Clear, check: fn(&View<'_>) -> Option<Finding>) -> Rule {
    Rule { name, level, raise: Duration::from_secs(raise_s), clear, check }
}

const fn after(seconds: u64) -> Clear {
    Clear::After(Duration::from_secs(seconds))
}

use Verdict::{Degraded, Draining, Ok as Note, Quarantined};

/// All rules.
pub const RULES: &[Rule] = &[
    rule("gpu_lost", Quarantined, 0, after(60), gpu_lost),
    rule("reset_required", Quarantined, 0, after(60), reset_required),
    // The driver's own word, which ends when it takes it back.
    rule("recovery_reset", Quarantined, 0, after(0), |view| recovery(view, &[1, 2, 4])),
    rule("recovery_drain", Draining, 0, after(0), |view| recovery(view, &[3, 5])),
    rule("xid_repair", Quarantined, 0, Clear::Repair, |view| xid(view, Class::needs_repair, "")),
    rule("xid_drain", Draining, 0, Clear::Repair, |view| xid(view, |class| class == Class::Drain, "")),
    rule("xid_link", Degraded, 0, after(600), |view| xid(view, |class| class == Class::Link, "")),
    rule("xid_unexpected", Degraded, 0, after(600), |view| {
        xid(
            view,
            |class| class == Class::Unexpected,
            "not in the table of XIDs; ask NVIDIA's catalogue, and set it in `health.xid`",
        )
    }),
    rule("xid_warning", Note, 0, after(600), |view| xid(view, |class| class == Class::Warn, "")),
    rule("stack_unresponsive", Draining, 0, after(10), stack_unresponsive),
    rule("row_remap_failure", Quarantined, 0, after(60), |view| {
        set(view, Signal::RowRemapFailure, "a row of memory could not be remapped: replace the board")
    }),
    rule("row_remap_pending", Note, 0, after(60), |view| {
        set(view, Signal::RowRemapPending, "a row remap waits for a reset: drain and reset the GPU when convenient")
    }),
    rule("retired_pages", Degraded, 0, after(60), retired_pages),
    rule("ecc_uncorrected", Degraded, 0, after(600), |view| {
        grew(view.before.ecc_uncorrected, view.gpu.get(Signal::EccUncorrected), "new uncorrected memory errors")
    }),
    rule("sram_threshold", Note, 0, after(60), |view| {
        set(view, Signal::SramThreshold, "SRAM errors exceed their threshold: plan to replace the board")
    }),
    rule("throttled", Degraded, 3, after(30), throttled),
    rule("pcie_narrow", Degraded, 20, after(60), pcie_narrow),
    rule("nvlink_down", Degraded, 0, after(60), nvlink_down),
    rule("nvlink_recovery", Degraded, 0, after(600), |view| {
        grew(view.before.nvlink_recoveries, view.gpu.get(Signal::NvlinkRecovery), "an NVLink went down and was recovered")
    }),
    rule("nvlink_recovery_failed", Draining, 0, after(600), |view| {
        let now = view.gpu.get(Signal::NvlinkRecoveryFailed);
        grew(view.before.nvlink_recoveries_failed, now, "an NVLink went down and could not be recovered")
    }),
    rule("fabric_not_ready", Draining, 5, after(10), fabric_not_ready),
    rule("fabric_unhealthy", Draining, 5, after(60), |view| {
        (view.gpu.get(Signal::FabricHealth) == Some(2.0))
            .then(|| found("the NVLink fabric calls this GPU unhealthy: see the fabric manager's log"))
            .flatten()
    }),
    rule("fabric_limited", Degraded, 5, after(60), |view| {
        (view.gpu.get(Signal::FabricHealth) == Some(3.0))
            .then(|| found("the NVLink fabric runs with limited capacity: see the fabric manager's log"))
            .flatten()
    }),
];

fn gpu_lost(view: &View<'_>) -> Option<Finding> {
    if !view.gpu.lost {
        return None;
    }
    found("fallen off the bus: reboot or power-cycle the node")
}

fn reset_required(view: &View<'_>) -> Option<Finding> {
    if !view.gpu.reset_required {
        return None;
    }
    found("the driver says that the GPU must be reset: drain it, then nvidia-smi --gpu-reset")
}

fn recovery(view: &View<'_>, actions: &[u32]) -> Option<Finding> {
    // The line is there at once, the field within ten seconds: until then the line is the present, and where there is no field, always.
    let field = view.gpu.get(Signal::RecoveryAction).map(|action| action as u32);
    let told = view.incident.filter(|incident| incident.recovery_at > view.settled);
    let told = told.filter(|incident| field.is_none() || view.now.saturating_sub(incident.recovery_at) < FIELD_WITHIN);
    let action = told.and_then(|incident| incident.recovery).or(field)?;
    if !actions.contains(&action) {
        return None;
    }
    found(match action {
        1 => "recovery action: reset the GPU (nvidia-smi --gpu-reset)",
        2 => "recovery action: reboot the node",
        3 => "recovery action: drain peer-to-peer traffic",
        4 => "recovery action: drain and reset the GPU",
        _ => "recovery action: recover the IMEX domain",
    })
}

fn xid(view: &View<'_>, wanted: fn(Class) -> bool, advice: &str) -> Option<Finding> {
    let incident = view.incident.filter(|incident| wanted(incident.class) && incident.last > view.settled)?;
    if incident.recovery == Some(0) {
        // The driver itself took its demand back.
        return None;
    }
    if incident.class < Class::Drain && view.now.saturating_sub(incident.last) >= BURST_GAP {
        // It is over, and nothing has to be repaired.
        return None;
    }
    let healthy = view.gpu.get(Signal::RecoveryAction) == Some(0.0) && !view.gpu.lost;
    if incident.last < view.began && healthy {
        // From before the agent's time, and the driver asks for nothing.
        return None;
    }
    let named = |code: u32| {
        let text = Severities::text(code);
        if text.is_empty() { format!("XID {code}") } else { format!("XID {code} ({text})") }
    };
    let mut reason = match incident.cause {
        Some(cause) if incident.inferred => format!("{}, named as the cause of others", named(cause)),
        Some(cause) => named(cause),
        None => named(incident.worst),
    };
    if incident.cause.is_some_and(|cause| cause != incident.worst) {
        reason = format!("{reason}, then {}", named(incident.worst));
    }
    let asks = match incident.class {
        Class::Reset => ": drain the GPU, then nvidia-smi --gpu-reset",
        Class::Reboot => ": reboot or power-cycle the node",
        Class::Service => ": check power and seating",
        _ if advice.is_empty() => "",
        _ => return found(format!("{reason}: {advice}")),
    };
    found(format!("{reason}{asks}"))
}

fn stack_unresponsive(view: &View<'_>) -> Option<Finding> {
    let Stack::Unresponsive { .. } = view.stack else { return None };
    found(
        "the GPU stack is unresponsive, a call of NVML does not return: look for stuck processes (ps, state D) and the kernel log",
    )
}

fn set(view: &View<'_>, signal: Signal, reason: &str) -> Option<Finding> {
    if view.gpu.get(signal) == Some(1.0) { found(reason) } else { None }
}

fn grew(before: Option<f64>, now: Option<f64>, reason: &str) -> Option<Finding> {
    if now? > before? { found(reason) } else { None }
}

fn retired_pages(view: &View<'_>) -> Option<Finding> {
    let pages = view.gpu.get(Signal::RetiredSingle).unwrap_or(0.0) + view.gpu.get(Signal::RetiredDouble).unwrap_or(0.0);
    if pages >= RETIRED_MAX { found(format!("{pages} retired pages: replace the board")) } else { None }
}

fn throttled(view: &View<'_>) -> Option<Finding> {
    let bits = view.gpu.get(Signal::ClockEvents)? as u64;
    let causes = [
        (HW_THERMAL, "heat (hardware)"),
        (SW_THERMAL, "heat (driver)"),
        (HW_POWER_BRAKE, "the power brake"),
        (HW_SLOWDOWN, "the hardware"),
    ];
    let (_, cause) = causes.into_iter().find(|(bit, _)| bits & bit != 0)?;
    let (now, max) = (view.gpu.get(Signal::SmClock), view.gpu.get(Signal::SmClockMax));
    let share = now.zip(max).map(|(now, max)| now / max).filter(|share| share.is_finite()).unwrap_or(UNMEASURED);
    let degrees = view.gpu.get(Signal::Temperature).map(|degrees| format!(" at {degrees} °C")).unwrap_or_default();
    let reason = format!("slowed down by {cause}{degrees}, clock at {:.0} %: check cooling and power", share * 100.0);
    Some(Finding { reason, capacity: share.clamp(CAPACITY_MIN, 1.0) })
}

fn pcie_narrow(view: &View<'_>) -> Option<Finding> {
    let (now, max) = (view.gpu.get(Signal::PcieWidth)?, view.gpu.get(Signal::PcieWidthMax)?);
    if now >= max || now <= 0.0 {
        return None;
    }
    // Decoding hardly uses the link: half of it lost is not half of the throughput.
    Some(Finding { reason: format!("PCIe link runs at x{now} of x{max}: reseat the board or its riser"), capacity: 0.8 })
}

fn nvlink_down(view: &View<'_>) -> Option<Finding> {
    // A link that was never up since the agent began may be meant to be down.
    let (up, seen) = (view.gpu.links_up, view.gpu.links_seen);
    if up >= seen {
        return None;
    }
    let capacity = (f64::from(up) / f64::from(seen)).max(CAPACITY_MIN);
    Some(Finding { reason: format!("{} of {seen} NVLinks went down: see the fabric manager's log", seen - up), capacity })
}

fn fabric_not_ready(view: &View<'_>) -> Option<Finding> {
    match view.gpu.get(Signal::FabricState)? as u32 {
        1 => found("the NVLink fabric is not started: is nvidia-fabricmanager running?"),
        2 => found("the NVLink fabric is still being set up"),
        _ => None,
    }
}
