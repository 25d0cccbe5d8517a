//! A `libnvidia-ml.so` of plain data, for tests on machines without a GPU: behind the real loader and the real structures, with a machine's
//! values from a file and its faults from a script that may change at any moment.
//!
//! As a library for tests: [`Fake`] puts a copy of the shared object and a script into a folder.

mod calls;
mod place;
mod script;

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

pub use script::SCRIPT;

/// A copy of the library in a folder of its own, with its script.
pub struct Fake {
    library: PathBuf,
    script: PathBuf,
    value: Value,
}

impl Fake {
    /// Copies the library, built beside the running test, into `folder`, as the named machine without a fault.
    pub fn install(folder: &Path, machine: &str) -> io::Result<Self> {
        let library = folder.join("libnvidia-ml.so.1");
        fs::copy(built()?, &library)?;
        let mut fake = Self { library, script: folder.join(SCRIPT), value: json!({ "machine": machine }) };
        fake.patch(json!({}))?;
        Ok(fake)
    }

    /// The path for `nvml.library`.
    pub fn library(&self) -> &Path {
        &self.library
    }

    /// Lays a change over the script: the next call sees it.
    pub fn patch(&mut self, change: Value) -> io::Result<()> {
        script::merge(&mut self.value, &change);
        let draft = self.script.with_extension("new");
        fs::write(&draft, serde_json::to_vec_pretty(&self.value)?)?;
        fs::rename(draft, &self.script)
    }
}

/// The shared object, as Cargo leaves it beside the binaries that depend on this crate.
fn built() -> io::Result<PathBuf> {
    let program = std::env::current_exe()?;
    let folders = program.ancestors().skip(1).take(2).flat_map(|folder| [folder.to_path_buf(), folder.join("deps")]);
    let mut candidates = folders.map(|folder| folder.join("libnvml_fake.so"));
    candidates
        .find(|path| path.exists())
        .ok_or_else(|| io::Error::other("libnvml_fake.so is not beside the test; build nvml-fake"))
}
