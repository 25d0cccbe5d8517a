//! GPUs as metrics: under own names, and under DCGM's where its dashboards expect them.

use std::collections::BTreeMap;

use super::table::TABLE;
use super::{Dcgm, GpuSample, Snapshot, Stack};
use crate::node::metric::Family;
use crate::xid::Ledger;

/// All families of all GPUs. `node` is the value of DCGM's host label.
pub fn families(snapshot: &Snapshot, stack: &Stack, ledger: &Ledger, node: &str, dcgm: Dcgm) -> Vec<Family> {
    let mut families: BTreeMap<&'static str, Family> = BTreeMap::new();
    let mut up = Family::gauge("trackside_gpu_stack", "1 for how the GPU stack does.");
    for state in ["unknown", "absent", "failed", "answers", "unresponsive"] {
        up.push([("state", state)], f64::from(u8::from(state == stack.as_str())));
    }
    let polls = Family::counter("trackside_nvml_polls_total", "Polls of all GPUs.").with([], snapshot.polls as f64);
    let poll = Family::gauge("trackside_nvml_poll_seconds", "Time the last poll took.").with([], snapshot.poll.as_secs_f64());
    let mut info = Family::gauge("trackside_gpu_info", "Facts of each GPU as labels; always 1.");
    let mut mig = Family::gauge("trackside_gpu_mig_info", "Instances that each GPU is cut into, as labels; always 1.");
    let mut lost = Family::gauge("trackside_gpu_lost", "1 where a GPU has fallen off the bus.");
    let mut gpm = Family::gauge("trackside_gpu_gpm_supported", "Whether the GPU has a performance monitor (Hopper and later).");
    let mut links = Family::gauge("trackside_gpu_nvlinks", "NVLinks that are up, and that were since the agent's start.");
    let mut memory = Family::gauge("trackside_gpu_process_memory_bytes", "Memory of the GPU held by each process.");
    for gpu in &snapshot.gpus {
        let id = &gpu.identity;
        let index = id.index.to_string();
        let own = [("gpu", index.as_str()), ("uuid", id.uuid.as_str())];
        let bus = id.pci_bus_id();
        let facts = [("model", id.model.as_str()), ("pci_bus_id", &bus), ("serial", &id.serial), ("vbios", &id.vbios)];
        info.push_all(own.iter().chain(&facts).chain(&[("driver", snapshot.driver_version.as_str())]).copied(), 1.0);
        for device in &id.mig {
            let instance = device.gpu_instance.to_string();
            let labels = [("mig_uuid", device.uuid.as_str()), ("profile", &device.profile), ("gpu_instance", &instance)];
            mig.push_all(own.iter().chain(&labels).copied(), 1.0);
        }
        lost.push(own, f64::from(u8::from(gpu.lost)));
        gpm.push(own, f64::from(u8::from(gpu.get(super::table::Signal::SmActive).is_some())));
        if gpu.links_seen > 0 {
            links.push_all(own.iter().chain(&[("state", "up")]).copied(), gpu.links_up.into());
            links.push_all(own.iter().chain(&[("state", "seen")]).copied(), gpu.links_seen.into());
        }
        for process in &gpu.processes {
            if let Some(bytes) = process.used_bytes {
                memory.push_all(own.iter().chain(&[("pid", process.pid.to_string().as_str())]).copied(), bytes as f64);
            }
        }
        for row in TABLE {
            let Some(value) = gpu.get(row.signal) else { continue };
            let family = families.entry(row.name).or_insert_with(|| Family::new(row.name, row.kind, row.help));
            family.push_all(own.iter().chain(row.labels).copied(), value);
            if let (Some(alias), Some(labels)) = (row.dcgm, dcgm_labels(gpu, &index, &bus, node, dcgm)) {
                let family = families.entry(alias.name).or_insert_with(|| Family::new(alias.name, alias.kind, row.help));
                // 87 % is 87, not 87.00000000000001: the value was a whole number in this unit before.
                family.push_all(labels, (value * alias.scale * 1e6).round() / 1e6);
            }
        }
        if let (Some(code), Some(labels)) = (ledger.last(id.pci), dcgm_labels(gpu, &index, &bus, node, dcgm)) {
            let name = "DCGM_FI_DEV_XID_ERRORS";
            let family = families.entry(name).or_insert_with(|| Family::gauge(name, "The last XID."));
            family.push_all(labels, code.into());
        }
    }
    let mut all: Vec<Family> = families.into_values().collect();
    all.extend([up, polls, poll, info, mig, lost, gpm, links, memory]);
    all
}

/// XIDs, with the GPU's place on the bus: they are told of GPUs that NVML does not know, too.
pub fn xids(snapshot: &Snapshot, ledger: &Ledger) -> Vec<Family> {
    let mut total = Family::counter("trackside_gpu_xids_total", "XIDs of each GPU by code, each counted once.");
    for (gpu, code, count) in ledger.counts() {
        let known = snapshot.gpus.iter().find(|sample| sample.identity.pci == gpu);
        let index = known.map(|sample| sample.identity.index.to_string()).unwrap_or_default();
        let bus = format!("{:04x}:{:02x}:{:02x}", gpu.domain, gpu.bus, gpu.device);
        total.push([("gpu", &index), ("pci", &bus), ("xid", &code.to_string())], count as f64);
    }
    vec![
        total,
        Family::counter("trackside_gpu_xid_lines_unparsed_total", "Lines about an XID in a form that is not known.")
            .with([], ledger.unparsed as f64),
        Family::counter("trackside_gpu_xid_overflows_total", "XIDs not counted, because too many GPUs or codes were named.")
            .with([], ledger.overflowed as f64),
        Family::counter("trackside_gpu_xid_incidents_total", "Bursts of XIDs.").with([], ledger.incidents as f64),
    ]
}

fn dcgm_labels<'l>(
    gpu: &'l GpuSample,
    index: &'l str,
    bus: &'l str,
    node: &'l str,
    dcgm: Dcgm,
) -> Option<impl Iterator<Item = (&'static str, &'l str)> + use<'l>> {
    let host = match dcgm {
        Dcgm::Off => return None,
        Dcgm::Hostname => "hostname",
        Dcgm::CapitalHostname => "Hostname",
    };
    let id = &gpu.identity;
    let device = DEVICES.get(id.minor? as usize)?;
    let labels =
        [("gpu", index), ("UUID", &id.uuid), ("pci_bus_id", bus), ("device", device), ("modelName", &id.model), (host, node)];
    Some(labels.into_iter())
}

/// Device nodes by their minor number, as DCGM's label.
static DEVICES: [&str; 64] = {
    macro_rules! names { ($($number:literal)*) => { [$(concat!("nvidia", $number)),*] } }
    names!(0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20 21 22 23 24 25 26 27 28 29 30 31 32 33 34 35 36 37 38 39 40 41 42 43
        44 45 46 47 48 49 50 51 52 53 54 55 56 57 58 59 60 61 62 63)
};
