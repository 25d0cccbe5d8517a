//! All of the engine's CPU unsafe: kernels, thread pool, mapped weights, the KV region. Implements [`engine::backend::Backend`].
//!
//! ```text
//!   CpuBackend ── takes over a Batch, runs the model, samples
//!     └ CpuDevice (engine::device) ── divides each operation into tasks
//!         ├ pool     threads that take tasks, spin briefly, then sleep
//!         ├ weights  model files, mapped; stored types are expanded inside the kernels
//!         ├ packed   quantised weights, rearranged once for kernels that multiply bytes
//!         ├ kv       one region of blocks, fixed for life
//!         └ kernel   the inner loops, once per instruction set
//! ```
//! What is unsafe stands behind functions that check sizes once per operation; the kernels trust them.

mod backend;
mod buffer;
mod device;
mod error;
mod kernel;
mod kv;
mod memory;
pub mod oracle;
mod packed;
mod pool;
mod sampling;
mod taken;
mod weights;

pub use backend::{CpuBackend, CpuDtype, CpuOptions, KvSize};
pub use error::CpuError;
pub use kernel::Isa;
pub use kv::KvDtype;
