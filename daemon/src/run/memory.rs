//! Whether a GPU's memory came back after its engine ended. A process can be gone and its memory held by a driver that hangs: the next engine
//! would start, and fail for lack of memory, again and again.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use crate::collect::nvml::table::Signal;
use crate::collect::nvml::{GpuSample, Identity, Sensor, Snapshot, Stack};

/// Longest wait for the memory.
pub const RETURNED_WITHIN: Duration = Duration::from_secs(30);
/// What may be missing: contexts of others come and go.
const TOLERANCE_BYTES: f64 = (512_u64 << 20) as f64;

/// Memory in use on an engine's GPUs before it started, by UUID.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Before {
    used: BTreeMap<String, f64>,
}

impl Before {
    /// `gpus`: positions or UUIDs, as configured.
    pub fn note(snapshot: &Snapshot, gpus: &[String]) -> Self {
        let of = |gpu: &&Arc<GpuSample>| gpus.iter().any(|name| gpu.identity.is(name));
        let used =
            snapshot.gpus.iter().filter(of).filter_map(|gpu| Some((gpu.identity.uuid.clone(), gpu.get(Signal::MemoryUsed)?)));
        Self { used: used.collect() }
    }

    /// Whether no other engine runs on one of `gpus`, so that the memory in use is this engine's. One that names none runs on all.
    pub fn is_alone<'s>(snapshot: &Snapshot, gpus: &[String], others: impl Iterator<Item = &'s [String]>) -> bool {
        let on = |gpus: &[String], gpu: &Identity| gpus.is_empty() || gpus.iter().any(|name| gpu.is(name));
        let own: Vec<&Identity> = snapshot.gpus.iter().map(|gpu| &gpu.identity).filter(|gpu| on(gpus, gpu)).collect();
        others.into_iter().all(|others| own.iter().all(|gpu| !on(others, gpu)))
    }

    /// What is still held beyond what was before; `None` when all is back. Facts older than `since` say nothing.
    pub fn held(&self, snapshot: &Snapshot, since: std::time::Instant) -> Option<String> {
        for gpu in &snapshot.gpus {
            let Some(before) = self.used.get(&gpu.identity.uuid) else { continue };
            if gpu.lost {
                continue;
            }
            if gpu.at <= since {
                return Some(format!("GPU {} has not been read since", gpu.identity.index));
            }
            let Some(used) = gpu.get(Signal::MemoryUsed) else { continue };
            if used - before > TOLERANCE_BYTES {
                let mib = (used - before) / 1_048_576.0;
                return Some(format!("{mib:.0} MiB of GPU {} are still held", gpu.identity.index));
            }
        }
        None
    }

    /// Waits until all is back. The error is for a person.
    pub async fn returned(self, sensor: Arc<Sensor>) -> Result<(), String> {
        if self.used.is_empty() || sensor.stack() != Stack::Answers {
            return Ok(());
        }
        let (since, mut snapshots) = (std::time::Instant::now(), sensor.subscribe());
        let wait = async {
            loop {
                let held = self.held(&snapshots.borrow_and_update(), since);
                if held.is_none() || snapshots.changed().await.is_err() {
                    return;
                }
            }
        };
        if tokio::time::timeout(RETURNED_WITHIN, wait).await.is_ok() || sensor.stack() != Stack::Answers {
            return Ok(());
        }
        let held = self.held(&sensor.snapshot(), since).unwrap_or_default();
        let waited = RETURNED_WITHIN.as_secs();
        Err(format!(
            "{held} {waited} s after its engine ended: find who holds it (nvidia-smi), or reset the GPU, then release the engine"
        ))
    }
}
