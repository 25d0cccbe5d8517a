//! The run-time compiler: CUDA C++ in, machine code for one architecture out.

use std::ffi::{CStr, CString, c_char};
use std::ptr;

use cudarc::nvrtc::result::{self, NvrtcError};
use cudarc::nvrtc::sys;

use crate::library::NVRTC;
use crate::{Arch, Error, Kernel, Version};

/// The compiler that was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Compiler {
    /// Of CUDA, whose part it is.
    pub version: Version,
    /// The architectures it makes code for, as [`Arch::number`] writes them, ascending.
    pub archs: Vec<u32>,
}

impl Compiler {
    /// Loads it and asks what it can do.
    pub(crate) fn find() -> Result<Self, Error> {
        NVRTC.find()?;
        let (mut major, mut minor, mut count) = (0, 0, 0);
        // SAFETY: the functions are there, and each writes the integers whose addresses it is given.
        unsafe {
            sys::nvrtcVersion(&mut major, &mut minor).result().map_err(failed("say its version"))?;
            sys::nvrtcGetNumSupportedArchs(&mut count).result().map_err(failed("count its architectures"))?;
        }
        let mut archs = vec![0; usize::try_from(count).unwrap_or(0)];
        // SAFETY: it writes as many integers as it said before.
        unsafe { sys::nvrtcGetSupportedArchs(archs.as_mut_ptr()) }.result().map_err(failed("list its architectures"))?;
        let mut archs: Vec<u32> = archs.into_iter().filter_map(|arch| u32::try_from(arch).ok()).collect();
        archs.sort_unstable();
        Ok(Self { version: Version { major: major.unsigned_abs(), minor: minor.unsigned_abs() }, archs })
    }
}

/// Compiles a kernel to machine code (a CUBIN, which is an ELF file) for one architecture. Takes some tens of milliseconds and needs no GPU.
pub fn compile(kernel: Kernel<'_>, arch: Arch) -> Result<Vec<u8>, Error> {
    let Compiler { version, archs } = Compiler::find()?;
    if !archs.contains(&arch.number()) {
        return Err(Error::UnknownArch { arch, version, known: archs });
    }
    let mut program = Program::new(kernel)?;
    match program.compile(arch) {
        Ok(()) => program.cubin(),
        Err(NvrtcError(sys::nvrtcResult::NVRTC_ERROR_COMPILATION)) => {
            Err(Error::Compile { kernel: kernel.name.into(), arch, log: program.log() })
        }
        Err(error) => Err(failed("compile")(error)),
    }
}

/// A program in the compiler; dropped, it is freed there. The compiler is there as long as the process, since [`NVRTC`] keeps it loaded.
struct Program {
    handle: sys::nvrtcProgram,
    /// The program may refer to its source and name for as long as it lives.
    _source: CString,
    _name: CString,
}

impl Program {
    fn new(kernel: Kernel<'_>) -> Result<Self, Error> {
        let text =
            |text: String| CString::new(text).map_err(|_| Error::Shape { what: format!("kernel {}: a NUL byte", kernel.name) });
        let (source, name) = (text(kernel.source.into())?, text(format!("{}.cu", kernel.name))?);
        let handle = result::create_program(&source, Some(&name)).map_err(failed("create a program"))?;
        Ok(Self { handle, _source: source, _name: name })
    }

    fn compile(&mut self, arch: Arch) -> Result<(), NvrtcError> {
        let options = [format!("--gpu-architecture={arch}"), "--std=c++17".into(), "--generate-line-info".into()];
        // SAFETY: the handle is a program's, and it is freed only when dropped.
        unsafe { result::compile_program(self.handle, &options) }
    }

    /// What the compiler said of the last compilation; empty if it cannot be had.
    fn log(&self) -> String {
        // SAFETY: as in `compile`.
        let log: Vec<c_char> = unsafe { result::get_program_log(self.handle) }.unwrap_or_default();
        if log.last() != Some(&0) {
            return String::new();
        }
        // SAFETY: it ends with NUL, and the vector outlives the borrow.
        let log = unsafe { CStr::from_ptr(log.as_ptr()) };
        log.to_string_lossy().trim_end().to_owned()
    }

    fn cubin(&self) -> Result<Vec<u8>, Error> {
        let mut bytes = 0;
        // SAFETY: the handle is a program's; it writes one size.
        unsafe { sys::nvrtcGetCUBINSize(self.handle, ptr::from_mut(&mut bytes)) }.result().map_err(failed("size its code"))?;
        let mut cubin = vec![0_u8; bytes];
        // SAFETY: it writes as many bytes as it said before.
        unsafe { sys::nvrtcGetCUBIN(self.handle, cubin.as_mut_ptr().cast()) }.result().map_err(failed("give its code"))?;
        Ok(cubin)
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        // SAFETY: created in `new`, freed here and nowhere else. It can only fail for a handle that is no program's.
        let _ = unsafe { result::destroy_program(self.handle) };
    }
}

fn failed(task: &'static str) -> impl Fn(NvrtcError) -> Error {
    move |error| Error::Compiler { task, code: format!("{:?}", error.0) }
}
