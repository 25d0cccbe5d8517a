//! eBPF probes, user side: what this kernel can do, attaching a probe, draining what it saw.
//!
//! A probe is a small program that the kernel runs when something happens: a process ends, a task waits, a port goes down. Each probe has one name and
//! three parts under it:
//!
//! | part | where | what |
//! |---|---|---|
//! | kernel side | `ebpf/programs/src/<name>.rs` | the program; compiled by tools of its own, the object is committed beside it |
//! | agreement | `ebpf/abi/src/<name>.rs` | its records, counters and map sizes, compiled into both sides |
//! | user side | `src/probe/<name>.rs` | loads the object, feeds it, drains it |
//!
//! [`PROBES`] lists them all. Building this crate needs no BPF tool: the objects are embedded as committed, and `tests/ebpf/run.sh` proves that they are
//! what the sources give.
//!
//! **A probe never is required.** A kernel without type information, an agent without rights, a container with its own process numbers: the answer is
//! [`Absent`], which names what is missing and what to do, and the agent works without. [`kernel`] asks the same questions without attaching anything.
//! No kernel version is compared anywhere, because distributions backport: what matters is asked, or tried.
//!
//! **A probe never loses silently.** Every map and ring has a fixed size; what did not fit is counted, and the count is exported.
//!
//! ```no_run
//! use ebpf::{ExitStatus, ProcessExitProbe};
//!
//! let mut probe = ProcessExitProbe::attach(1024)?;
//! let engine = std::process::Command::new("sh").args(["-c", "exit 3"]).spawn().expect("sh starts");
//! let _ = probe.watch(engine.id()); // An error if it is gone already: then its parent knows how, by waiting.
//! // Wait until `probe.as_fd()` is readable (epoll, or tokio's AsyncFd), then drain until nothing is left.
//! let mut exits = Vec::new();
//! probe.drain(&mut exits);
//! for exit in &exits {
//!     assert_eq!((exit.pid, exit.status), (engine.id(), ExitStatus::Code(3)));
//! }
//! # Ok::<(), ebpf::Absent>(())
//! ```
#![deny(unsafe_code)]

mod absent;
mod btf;
mod kernel;
mod probe;

pub use absent::Absent;
pub use kernel::{Fact, Kernel, keep_rights_from_children, kernel};
pub use probe::process_exit::{Cost, ExitStatus, Limits, Losses, ProcessExit, ProcessExitProbe, WatchError};
pub use probe::{PROBES, Probe};
