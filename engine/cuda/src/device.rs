//! The driver and the GPUs it shows to this process.

use std::fmt;

use cudarc::driver::{result, sys};

use crate::library::DRIVER;
use crate::{Arch, Error};

/// A version of CUDA, such as 12.8.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version {
    /// Before the point.
    pub major: u32,
    /// After it.
    pub minor: u32,
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)
    }
}

/// The driver that was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Driver {
    /// The newest CUDA that it serves.
    pub version: Version,
    /// What it shows to this process, by index; `CUDA_VISIBLE_DEVICES` may hide some and change their order.
    pub devices: Vec<Device>,
}

/// A GPU.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Device {
    /// As the driver counts in this process.
    pub index: usize,
    /// The product's name.
    pub name: String,
    /// Its memory, all of it.
    pub memory_bytes: u64,
    /// What code for it is made for.
    pub arch: Arch,
}

impl Driver {
    /// Loads it, starts it, and lists the devices. Nothing is allocated on them.
    pub(crate) fn find() -> Result<Self, Error> {
        DRIVER.find()?;
        result::init().map_err(Error::driver("start"))?;
        let mut version = 0;
        // SAFETY: the function is there, and writes the integer whose address it is given.
        unsafe { sys::cuDriverGetVersion(&mut version) }.result().map_err(Error::driver("say its version"))?;
        let version = Version { major: version.unsigned_abs() / 1000, minor: version.unsigned_abs() % 1000 / 10 };
        let count = result::device::get_count().map_err(Error::driver("count the devices"))?;
        let devices = (0..count).map(Device::of).collect::<Result<_, _>>()?;
        Ok(Self { version, devices })
    }

    /// The device of this index.
    pub(crate) fn device(&self, index: usize) -> Result<&Device, Error> {
        self.devices.get(index).ok_or(Error::NoDevice { index, count: self.devices.len() })
    }
}

impl Device {
    fn of(ordinal: i32) -> Result<Self, Error> {
        use sys::CUdevice_attribute_enum::{
            CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR as MAJOR, CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR as MINOR,
        };
        let device = result::device::get(ordinal).map_err(Error::driver("find a device"))?;
        let name = result::device::get_name(device).map_err(Error::driver("name a device"))?;
        // SAFETY: the driver has just given the device, in each of the three.
        let (memory, major, minor) = unsafe {
            (
                result::device::total_mem(device).map_err(Error::driver("size a device's memory"))?,
                result::device::get_attribute(device, MAJOR).map_err(Error::driver("say a device's compute capability"))?,
                result::device::get_attribute(device, MINOR).map_err(Error::driver("say a device's compute capability"))?,
            )
        };
        Ok(Self {
            index: ordinal.unsigned_abs() as usize,
            name,
            memory_bytes: memory as u64,
            arch: Arch::new(major.unsigned_abs(), minor.unsigned_abs()),
        })
    }
}

impl fmt::Display for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let gib = self.memory_bytes as f64 / f64::from(1 << 30);
        write!(f, "GPU {}: {}, {gib:.1} GiB, {}", self.index, self.name, self.arch)
    }
}
