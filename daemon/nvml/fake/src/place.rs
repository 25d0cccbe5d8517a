//! Where this library lies: its script lies beside it, so that each test has a machine of its own in one process.

use std::ffi::CStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

/// Folder of the file that this code was loaded from.
pub fn folder() -> &'static Path {
    static FOLDER: OnceLock<PathBuf> = OnceLock::new();
    FOLDER.get_or_init(|| {
        let mut info = std::mem::MaybeUninit::<libc::Dl_info>::zeroed();
        // SAFETY: dladdr fills the structure it is given where it returns non-zero, and only reads the address; the name it gives is a
        // string of the loader that lives as long as the library.
        let path = unsafe {
            if libc::dladdr(folder as *const () as *const libc::c_void, info.as_mut_ptr()) == 0 {
                return PathBuf::new();
            }
            let name = info.assume_init().dli_fname;
            if name.is_null() {
                return PathBuf::new();
            }
            CStr::from_ptr(name)
        };
        let path = PathBuf::from(std::ffi::OsStr::from_bytes(path.to_bytes()));
        path.parent().map(Path::to_path_buf).unwrap_or_default()
    })
}
