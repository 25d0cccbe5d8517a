//! A figure with its spread, and the machine it was seen on.

use std::fs;

use serde_json::{Value, json};

/// One benchmark's outcome.
pub struct Figure {
    pub name: &'static str,
    /// What is compared with the bar, in this unit.
    pub samples: Vec<f64>,
    pub unit: &'static str,
    pub bar: String,
    /// Further lines: what each side showed.
    pub beside: Vec<(String, f64)>,
    pub machine: Machine,
}

/// Read at the start; steal time is what passed since.
pub struct Machine {
    cpu: String,
    cores: usize,
    ticks: [u64; 2],
}

impl Machine {
    pub fn look() -> Self {
        let info = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let model = info.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
        Self {
            cpu: model.map_or("unknown", |(_, name)| name).to_owned(),
            cores: std::thread::available_parallelism().map_or(1, usize::from),
            ticks: ticks(),
        }
    }
}

/// (stolen by the hypervisor, all) of the machine so far.
fn ticks() -> [u64; 2] {
    let stat = fs::read_to_string("/proc/stat").unwrap_or_default();
    let fields = stat.lines().next().unwrap_or_default().split_whitespace().skip(1).take(8);
    let fields: Vec<u64> = fields.filter_map(|field| field.parse().ok()).collect();
    [fields.get(7).copied().unwrap_or(0), fields.iter().sum()]
}

impl Machine {
    /// Share of the machine's time since `look` that others had.
    fn steal(&self) -> f64 {
        let [stolen, all] = ticks();
        (stolen - self.ticks[0]) as f64 / (all - self.ticks[1]).max(1) as f64
    }
}

/// The value below which this share of the sorted samples lies.
pub fn quantile(samples: &[f64], share: f64) -> f64 {
    let mut sorted = samples.to_vec();
    sorted.sort_by(f64::total_cmp);
    match sorted.len() {
        0 => f64::NAN,
        count => sorted[((count - 1) as f64 * share).round() as usize],
    }
}

impl Figure {
    pub fn json(&self) -> Value {
        let Self { name, samples, unit, bar, beside, machine } = self;
        let quartiles: Vec<f64> = [0.25, 0.5, 0.75].iter().map(|share| quantile(samples, *share)).collect();
        json!({
            "name": name, "unit": unit, "bar": bar, "median": quartiles[1], "quartiles": quartiles, "samples": samples,
            "beside": beside.iter().cloned().collect::<std::collections::BTreeMap<_, _>>(),
            "cpu": machine.cpu, "cores": machine.cores, "steal": machine.steal(),
        })
    }

    pub fn text(&self) -> String {
        let Self { name, samples, unit, bar, beside, machine } = self;
        let [low, median, high] = [0.25, 0.5, 0.75].map(|share| quantile(samples, share));
        let mut text =
            format!("{name}: {median:.3} {unit} (quartiles {low:.3} … {high:.3}, n = {}; bar: {bar})\n", samples.len());
        for (what, value) in beside {
            text += &format!("  {what}: {value:.3}\n");
        }
        text + &format!("  on {} × {}, steal {:.1} %\n", machine.cores, machine.cpu, machine.steal() * 100.0)
    }
}
