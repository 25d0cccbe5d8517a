//! The table of probes. A new probe is one file here, one in `ebpf/programs`, one in `ebpf/abi`, all of one name, and one line below.

pub(crate) mod process_exit;

/// What there is to know of a probe without loading it.
#[derive(Clone, Copy, Debug)]
pub struct Probe {
    /// The name that all its parts bear.
    pub name: &'static str,
    /// What it tells, for a person.
    pub tells: &'static str,
    /// The compiled kernel side, as committed.
    pub object: &'static [u8],
}

/// All probes.
pub const PROBES: &[Probe] = &[process_exit::PROBE];
