//! The table of kernels. A new one is a file in `kernels/`, a line here, and the function that launches it in a module of its name.

/// A kernel's CUDA C++ source and the function in it.
#[derive(Clone, Copy, Debug)]
pub struct Kernel<'a> {
    /// The name of its `extern "C"` function, and of its file without `.cu`.
    pub name: &'a str,
    /// It includes nothing: NVRTC brings no headers.
    pub source: &'a str,
}

/// All kernels. The lane `tests/nvrtc` compiles each for every architecture that is supported.
pub const KERNELS: &[Kernel] = &[RMS_NORM];

pub(crate) const RMS_NORM: Kernel = Kernel { name: "rms_norm", source: include_str!("kernels/rms_norm.cu") };
