//! What can go wrong with a GPU, with the evidence and what to do about it.

use cudarc::driver::DriverError;
use domain::fault::{Fault, FaultKind};

use crate::Arch;

/// An error of this crate. All that a person needs is in it; it can be shown again later.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A library cannot be loaded: this machine has none, or the loader does not find it.
    #[error("{library} is absent: {reason} ({} and {} other names tried)", tried.first().map_or("", String::as_str), tried.len().saturating_sub(1))]
    Absent {
        /// What it is, for a person.
        library: &'static str,
        /// The file names that the loader was asked for, in this order.
        tried: Vec<String>,
        /// What the loader said.
        reason: String,
    },
    /// A library is there and lacks a function.
    #[error("{library} lacks the function {function}: it is too old")]
    TooOld {
        /// What it is, for a person.
        library: &'static str,
        /// The function's name.
        function: &'static str,
    },
    /// The driver refused.
    #[error("the CUDA driver failed to {task}: {code} ({text})")]
    Driver {
        /// What was attempted.
        task: &'static str,
        /// Its error's name, such as `CUDA_ERROR_NO_DEVICE`.
        code: String,
        /// Its error's text.
        text: String,
    },
    /// There is no such device.
    #[error("there is no GPU {index}: this process sees {count}")]
    NoDevice {
        /// The index asked for.
        index: usize,
        /// The number of devices.
        count: usize,
    },
    /// The compiler does not know the architecture.
    #[error("NVRTC {version} makes no code for {arch}; it knows sm_{} to sm_{}", known.first().unwrap_or(&0), known.last().unwrap_or(&0))]
    UnknownArch {
        /// The architecture asked for.
        arch: Arch,
        /// The compiler's version.
        version: crate::Version,
        /// What it knows, as numbers, ascending.
        known: Vec<u32>,
    },
    /// A kernel's source is not right.
    #[error("the kernel {kernel} does not compile for {arch}:\n{log}")]
    Compile {
        /// Its name.
        kernel: String,
        /// The architecture.
        arch: Arch,
        /// What the compiler said.
        log: String,
    },
    /// The compiler failed for another reason than the source.
    #[error("NVRTC failed to {task}: {code}")]
    Compiler {
        /// What was attempted.
        task: &'static str,
        /// Its error's name.
        code: String,
    },
    /// A self-test's result is further from the host's than rounding explains.
    #[error("GPU {index} computes {kernel} wrong: {detail}")]
    Wrong {
        /// The device.
        index: usize,
        /// The kernel.
        kernel: &'static str,
        /// How far off, and what is allowed.
        detail: String,
    },
    /// A caller's arrays do not fit together.
    #[error("{what}")]
    Shape {
        /// Which, and their sizes.
        what: String,
    },
}

impl Error {
    pub(crate) fn driver(task: &'static str) -> impl Fn(DriverError) -> Self {
        move |error| Self::Driver {
            task,
            code: format!("{:?}", error.0),
            text: error.error_string().map_or_else(|_| "no text".into(), |text| text.to_string_lossy().into_owned()),
        }
    }

    /// What a person can do about it: an imperative sentence.
    pub fn action(&self) -> String {
        match self {
            Self::Absent { library, .. } => format!(
                "install {library} or put its folder on the loader's path (LD_LIBRARY_PATH; in a container, the NVIDIA runtime), or serve with --backend cpu"
            ),
            Self::TooOld { library, .. } => format!("install a newer {library}: one of CUDA 11.4 or later"),
            Self::Driver { .. } => {
                "look at `nvidia-smi` and the kernel's log for the GPU's state, or serve with --backend cpu".into()
            }
            Self::NoDevice { .. } => {
                "choose one that `trackside engine --devices` lists, and look at CUDA_VISIBLE_DEVICES".into()
            }
            Self::UnknownArch { .. } => "install the NVRTC of a CUDA release that knows this GPU".into(),
            Self::Compile { .. } | Self::Compiler { .. } => {
                "report this message with the versions that `trackside engine --devices` prints".into()
            }
            Self::Wrong { .. } => "take the GPU out of service and report this message, whichever of the two is at fault".into(),
            Self::Shape { .. } => "pass arrays of the sizes that the documentation states".into(),
        }
    }
}

impl From<Error> for Fault {
    fn from(error: Error) -> Self {
        let action = error.action();
        Self::new(FaultKind::Device, error.to_string(), action)
    }
}
