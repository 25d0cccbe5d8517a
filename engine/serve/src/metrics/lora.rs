//! Which adapters requests wait for and run with.

use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use prometheus::GaugeVec;

use super::Maker;
use crate::adapters::InUse;

/// `vllm:lora_requests_info`: one series, whose value is the time of the reading, as routers take the newest.
pub struct Lora {
    family: GaugeVec,
    /// Most adapters of one batch.
    adapters_max: String,
}

impl Lora {
    pub fn new(make: &Maker<'_>, adapters_max: usize) -> Self {
        let opts =
            make.bare("lora_requests_info", "Adapters of waiting and running requests; the value is the time of the reading.");
        let family = make.held(GaugeVec::new(opts, &["max_lora", "waiting_lora_adapters", "running_lora_adapters"]));
        Self { family, adapters_max: adapters_max.to_string() }
    }

    pub fn read(&self, in_use: &InUse) {
        let joined = |names: &[Arc<str>]| names.iter().map(|name| &**name).collect::<Vec<_>>().join(",");
        self.family.reset();
        let labels = [&self.adapters_max, &joined(&in_use.waiting), &joined(&in_use.running)];
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        self.family.with_label_values(&labels).set(now.as_secs_f64());
    }
}
