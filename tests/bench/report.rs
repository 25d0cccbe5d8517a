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
    steal_ticks: u64,
}

impl Machine {
    pub fn look() -> Self {
        let info = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let model = info.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
        Self {
            cpu: model.map_or("unknown", |(_, name)| name).to_owned(),
            cores: std::thread::available_parallelism().map_or(1, usize::from),
            steal_ticks: steal_ticks(),
        }
    }
}

fn steal_ticks() -> u64 {
    let stat = fs::read_to_string("/proc/stat").unwrap_or_default();
    stat.lines().next().and_then(|cpu| cpu.split_whitespace().nth(8)?.parse().ok()).unwrap_or(0)
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
            "cpu": machine.cpu, "cores": machine.cores, "steal_ticks": steal_ticks() - machine.steal_ticks,
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
        let stolen = steal_ticks() - machine.steal_ticks;
        text + &format!("  on {} × {}, steal {stolen} ticks\n", machine.cores, machine.cpu)
    }
}
