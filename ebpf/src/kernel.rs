//! What this kernel, and this process's rights in it, can do for probes: facts, each with the reason where it is not so.

use std::fs;
use std::os::unix::fs::MetadataExt as _;

use aya::maps::MapType;
use aya::programs::ProgramType;
use rustix::thread::{CapabilitySet, capabilities};

use crate::Absent;
use crate::btf::Btf;

/// One thing asked: present, or why not.
pub type Fact = Result<(), Absent>;

/// Inode of the initial pid namespace: `PID_NS_INIT_INO` of the kernel's `include/uapi/linux/nsfs.h`.
const INITIAL_PID_NAMESPACE: u64 = 0xeffffffc;

/// What probes stand on. See [`kernel`].
#[derive(Clone, Debug)]
pub struct Kernel {
    /// `uname -r`, for the reader; nothing is decided by it.
    pub release: String,
    /// `CAP_BPF` (create maps, load programs) and `CAP_PERFMON` (read kernel memory, attach to tracepoints), or `CAP_SYS_ADMIN`.
    pub rights: Fact,
    /// This process names processes by the kernel's own numbers.
    pub host_pids: Fact,
    /// The kernel carries its type information.
    pub btf: Fact,
    /// Programs on raw tracepoints. Without `rights` it cannot be asked, and their reason stands here too.
    pub raw_tracepoints: Fact,
    /// Ring buffers between kernel and user space. Without `rights` as above.
    pub ring_buffers: Fact,
}

impl Kernel {
    /// The facts with their names, in the order in which a probe needs them.
    pub fn facts(&self) -> [(&'static str, &Fact); 5] {
        let Self { release: _, rights, host_pids, btf, raw_tracepoints, ring_buffers } = self;
        [
            ("rights", rights),
            ("host_pids", host_pids),
            ("btf", btf),
            ("raw_tracepoints", raw_tracepoints),
            ("ring_buffers", ring_buffers),
        ]
    }
}

/// Asks the kernel, by reading `/proc` and `/sys` and by loading trial programs of two instructions. It takes some milliseconds and attaches nothing;
/// ask once and keep the answer.
pub fn kernel() -> Kernel {
    let rights = rights();
    let with_rights = |fact: fn() -> Fact| rights.clone().and_then(|()| fact());
    Kernel {
        release: rustix::system::uname().release().to_string_lossy().into_owned(),
        host_pids: host_pids(),
        btf: Btf::of_kernel().map(drop),
        raw_tracepoints: with_rights(raw_tracepoints),
        ring_buffers: with_rights(ring_buffers),
        rights,
    }
}

/// Rights are a thread's, and so is this answer.
pub(crate) fn rights() -> Fact {
    const NEEDED: [(CapabilitySet, &str); 2] = [(CapabilitySet::BPF, "CAP_BPF"), (CapabilitySet::PERFMON, "CAP_PERFMON")];
    let effective = capabilities(None).map(|sets| sets.effective).unwrap_or(CapabilitySet::empty());
    if effective.contains(CapabilitySet::SYS_ADMIN) {
        return Ok(()); // It stands for both, as it did before they were split from it.
    }
    let missing: Vec<_> = NEEDED.iter().filter(|(right, _)| !effective.contains(*right)).map(|(_, name)| *name).collect();
    if missing.is_empty() { Ok(()) } else { Err(Absent::Rights { missing }) }
}

/// Keeps this thread's rights from the programs it starts, without giving them up itself. systemd grants them through the ambient set, which a started program
/// inherits: an engine has no business loading programs into the kernel. Threads started afterwards keep it so; call it before there are any.
pub fn keep_rights_from_children() -> std::io::Result<()> {
    rustix::thread::clear_ambient_capability_set().map_err(Into::into)
}

pub(crate) fn host_pids() -> Fact {
    match fs::metadata("/proc/self/ns/pid") {
        Ok(namespace) if namespace.ino() == INITIAL_PID_NAMESPACE => Ok(()),
        Ok(namespace) => Err(Absent::PidNamespace { namespace: format!("pid:[{}]", namespace.ino()) }),
        Err(error) => Err(Absent::PidNamespace { namespace: format!("/proc/self/ns/pid: {error}") }),
    }
}

fn raw_tracepoints() -> Fact {
    match aya::sys::is_program_supported(ProgramType::RawTracePoint) {
        Ok(true) => Ok(()),
        Ok(false) => Err(Absent::Unsupported { what: "programs on raw tracepoints" }),
        Err(error) => Err(Absent::refused("load a trial program", &error)),
    }
}

fn ring_buffers() -> Fact {
    match aya::sys::is_map_supported(MapType::RingBuf) {
        Ok(true) => Ok(()),
        Ok(false) => Err(Absent::Unsupported { what: "BPF ring buffers" }),
        Err(error) => Err(Absent::refused("create a trial map", &error)),
    }
}
