//! The engine on NVIDIA GPUs: all `unsafe` that talks to CUDA is in this crate.
//!
//! Nothing of CUDA is needed to build it, and nothing to start the program that contains it. The driver (`libcuda`) and the run-time compiler (NVRTC) are
//! looked for when first asked for; a machine without them gets an [`Error`] that names what was looked for, what the loader said and what to do, and
//! never a panic.
//!
//! * [`inspect`] says what is here: driver, devices, compiler. It prints as text for `trackside engine --devices`.
//! * [`compile`] turns a [`Kernel`] into machine code for an [`Arch`]. It needs NVRTC and no GPU, so a machine without one can check every kernel.
//! * [`rms_norm`] runs the first kernel, and [`selftest_rms_norm`] holds it against arithmetic on the host.
//!
//! It stands on three floors. `cudarc::*::sys` are the C functions, loaded on first use. `cudarc::*::result` makes their status codes `Result`s. On top are
//! owned handles, which free what they hold: cudarc's for contexts, streams and memory, and `nvrtc::Program` here, because cudarc's own gives PTX only. We
//! ask the compiler for machine code (CUBIN): PTX of a newer compiler is refused by an older driver, and translating it costs time at every start.
//!
//! ```no_run
//! let report = engine_cuda::inspect();
//! println!("{report}");
//! for device in report.devices() {
//!     let error = engine_cuda::selftest_rms_norm(device.index, 64, 4096, 1)?;
//!     println!("{}: rms_norm is right to {:.1e}", device.name, error.relative);
//! }
//! # Ok::<(), engine_cuda::Error>(())
//! ```

mod arch;
mod device;
mod error;
mod kernel;
mod library;
mod nvrtc;
mod report;
mod rms_norm;

pub use arch::Arch;
pub use device::{Device, Driver, Version};
pub use error::Error;
pub use kernel::{KERNELS, Kernel};
pub use nvrtc::{Compiler, compile};
pub use report::{Report, inspect};
pub use rms_norm::{MaxError, rms_norm, selftest_rms_norm};
