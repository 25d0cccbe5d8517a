//! XIDs, NVIDIA's numbered GPU faults: the kernel's lines about them, what each means, and the incidents they add up to.
//!
//! They are heard from two sides, the kernel log and NVML's events, because each loses some: the log is overrun in a flood, NVML keeps one
//! pending XID of a GPU. [`ledger`] counts each once.

pub mod ledger;
pub mod line;
pub mod severity;

pub use self::ledger::{BURST_GAP, Incident, Ledger, Source};
pub use self::line::{Parsed, Sighting, parse};
pub use self::severity::{Class, Severities};
