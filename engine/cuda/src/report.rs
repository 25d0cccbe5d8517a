//! What this machine has for CUDA, or why not: for a person, and for whoever chooses a backend.

use std::fmt;

use crate::{Compiler, Device, Driver, Error};

/// What [`inspect`] found. Each part is there or says why it is not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// The driver with its devices.
    pub driver: Result<Driver, Error>,
    /// The run-time compiler. A GPU cannot be used without, and it can be used without a GPU.
    pub compiler: Result<Compiler, Error>,
}

/// Looks for the driver, the devices and the compiler. Never panics; takes a second or so where there is a driver to start, and next to nothing elsewhere.
pub fn inspect() -> Report {
    Report { driver: Driver::find(), compiler: Compiler::find() }
}

impl Report {
    /// The devices; none where there is no driver.
    pub fn devices(&self) -> &[Device] {
        self.driver.as_ref().map_or(&[], |driver| &driver.devices)
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { driver, compiler } = self;
        match driver {
            Ok(Driver { version, devices }) => {
                write!(f, "CUDA driver {version}, {} GPU(s)", devices.len())?;
                devices.iter().try_for_each(|device| write!(f, "\n  {device}"))?;
            }
            Err(error) => write!(f, "no CUDA driver: {error}; {}", error.action())?,
        }
        match compiler {
            Ok(Compiler { version, archs }) => {
                let known: Vec<String> = archs.iter().map(|arch| format!("sm_{arch}")).collect();
                write!(f, "\nNVRTC {version} for {}", known.join(", "))
            }
            Err(error) => write!(f, "\nno NVRTC: {error}; {}", error.action()),
        }
    }
}
