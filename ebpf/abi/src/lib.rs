//! What the two sides of a probe agree on: the records a kernel program writes, the counters it keeps, and the sizes of its maps.
//!
//! One module per probe, under the probe's name, which `ebpf/programs` (kernel side) and `ebpf/src/probe` (user side) share. Both sides compile this
//! crate, for different targets; so everything is `repr(C)`, has no padding left to the compiler, and needs nothing but `core`.
#![no_std]
#![forbid(unsafe_code)]

pub mod process_exit;
