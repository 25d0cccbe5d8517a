//! Finding CUDA's libraries. cudarc loads them by itself on first use and panics when one, or a function of it, is missing; so before its first use this
//! file tries the same names in the same order, asks for every function that this crate calls, and keeps what the loader said.

use std::ffi::{CStr, CString};
use std::sync::OnceLock;

use crate::Error;

/// A library and what is needed of it.
pub(crate) struct Library {
    name: &'static str,
    /// File names without `lib` and `.so`.
    stems: &'static [&'static str],
    functions: &'static [&'static CStr],
    found: OnceLock<Result<(), Error>>,
}

/// The driver: it comes with the kernel module, in its version.
pub(crate) static DRIVER: Library = Library {
    name: "the CUDA driver library (libcuda)",
    stems: &["cuda", "nvcuda"],
    functions: &[
        c"cuCtxGetCurrent",
        c"cuCtxSetCurrent",
        c"cuDeviceGet",
        c"cuDeviceGetAttribute",
        c"cuDeviceGetCount",
        c"cuDeviceGetName",
        c"cuDevicePrimaryCtxRelease_v2",
        c"cuDevicePrimaryCtxRetain",
        c"cuDeviceTotalMem_v2",
        c"cuDriverGetVersion",
        c"cuEventCreate",
        c"cuEventDestroy_v2",
        c"cuEventRecord",
        c"cuEventSynchronize",
        c"cuGetErrorName",
        c"cuGetErrorString",
        c"cuInit",
        c"cuLaunchKernel",
        c"cuMemAllocAsync",
        c"cuMemAlloc_v2",
        c"cuMemFreeAsync",
        c"cuMemFree_v2",
        c"cuMemcpyDtoHAsync_v2",
        c"cuMemcpyHtoDAsync_v2",
        c"cuMemsetD8Async",
        c"cuModuleGetFunction",
        c"cuModuleLoadData",
        c"cuModuleUnload",
        c"cuStreamSynchronize",
        c"cuStreamWaitEvent",
    ],
    found: OnceLock::new(),
};

/// The run-time compiler: part of the CUDA toolkit, and a package of its own.
pub(crate) static NVRTC: Library = Library {
    name: "CUDA's run-time compiler (libnvrtc)",
    stems: &["nvrtc"],
    functions: &[
        c"nvrtcCompileProgram",
        c"nvrtcCreateProgram",
        c"nvrtcDestroyProgram",
        c"nvrtcGetCUBIN",
        c"nvrtcGetCUBINSize",
        c"nvrtcGetNumSupportedArchs",
        c"nvrtcGetProgramLog",
        c"nvrtcGetProgramLogSize",
        c"nvrtcGetSupportedArchs",
        c"nvrtcVersion",
    ],
    found: OnceLock::new(),
};

impl Library {
    /// Whether cudarc may be asked to use it. The answer is found once: a library that is installed later needs a new process.
    pub(crate) fn find(&self) -> Result<(), Error> {
        self.found.get_or_init(|| self.look()).clone()
    }

    fn look(&self) -> Result<(), Error> {
        let tried: Vec<String> = self.stems.iter().flat_map(|stem| cudarc::get_lib_name_candidates(stem)).collect();
        let mut reason = None;
        for name in &tried {
            match open(name) {
                Ok(handle) => return self.ask(handle),
                // That a file is not there is said of nearly all names; a file that is there and cannot be loaded is worth telling.
                Err(said) if said.contains("No such file") => {}
                Err(said) => reason = reason.or(Some(said)),
            }
        }
        let reason = reason.unwrap_or_else(|| "the loader finds no file of its names".into());
        Err(Error::Absent { library: self.name, tried, reason })
    }

    fn ask(&self, handle: Handle) -> Result<(), Error> {
        for function in self.functions {
            // SAFETY: the handle is of a library that stays loaded, and both ends of the name are as C wants them.
            if unsafe { libc::dlsym(handle.0, function.as_ptr()) }.is_null() {
                let function = function.to_str().unwrap_or("of a name that is not text");
                return Err(Error::TooOld { library: self.name, function });
            }
        }
        Ok(())
    }
}

/// A loaded library. It is never unloaded: cudarc keeps addresses of its functions for good.
struct Handle(*mut libc::c_void);

fn open(name: &str) -> Result<Handle, String> {
    let name = CString::new(name).map_err(|error| error.to_string())?;
    // SAFETY: loading runs the library's initialisers, and it is NVIDIA's library that was asked for; `dlerror` belongs to this thread until its next call,
    // and its text is copied at once.
    unsafe {
        let handle = libc::dlopen(name.as_ptr(), libc::RTLD_LAZY | libc::RTLD_LOCAL);
        if !handle.is_null() {
            return Ok(Handle(handle));
        }
        let said = libc::dlerror();
        Err(if said.is_null() {
            "the loader does not say why".into()
        } else {
            CStr::from_ptr(said).to_string_lossy().into_owned()
        })
    }
}
