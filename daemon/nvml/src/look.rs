//! One look at a GPU: what several numbers come from is asked for once.

use std::cell::OnceCell;
use std::ops::Deref;

use nvml_wrapper::struct_wrappers::device::{BAR1MemoryInfo, MemoryInfo, Utilization};

use crate::{Error, Fabric, Gpu, RemappedRows, SramEcc};

/// A GPU whose structures of several numbers are read once, because each call takes a lock that the engine's own calls wait for. A call
/// that failed is made again. All else is the GPU's, by deref.
pub struct Look<'g> {
    gpu: &'g Gpu,
    utilization: OnceCell<Utilization>,
    memory: OnceCell<MemoryInfo>,
    bar1: OnceCell<BAR1MemoryInfo>,
    sram: OnceCell<SramEcc>,
    rows: OnceCell<RemappedRows>,
    repairs: OnceCell<(bool, bool)>,
    fabric: OnceCell<Fabric>,
}

impl<'g> Look<'g> {
    pub fn at(gpu: &'g Gpu) -> Self {
        Self {
            gpu,
            utilization: OnceCell::new(),
            memory: OnceCell::new(),
            bar1: OnceCell::new(),
            sram: OnceCell::new(),
            rows: OnceCell::new(),
            repairs: OnceCell::new(),
            fabric: OnceCell::new(),
        }
    }

    pub fn utilization_rates(&self) -> Result<&Utilization, Error> {
        once(&self.utilization, || self.gpu.utilization_rates())
    }

    pub fn memory_info(&self) -> Result<&MemoryInfo, Error> {
        once(&self.memory, || self.gpu.memory_info())
    }

    pub fn bar1_memory_info(&self) -> Result<&BAR1MemoryInfo, Error> {
        once(&self.bar1, || self.gpu.bar1_memory_info())
    }

    pub fn sram_ecc(&self) -> Result<&SramEcc, Error> {
        once(&self.sram, || self.gpu.sram_ecc())
    }

    pub fn remapped_rows(&self) -> Result<&RemappedRows, Error> {
        once(&self.rows, || self.gpu.remapped_rows())
    }

    pub fn repairs_pending(&self) -> Result<&(bool, bool), Error> {
        once(&self.repairs, || self.gpu.repairs_pending())
    }

    pub fn fabric(&self) -> Result<&Fabric, Error> {
        once(&self.fabric, || self.gpu.fabric())
    }
}

impl Deref for Look<'_> {
    type Target = Gpu;

    fn deref(&self) -> &Gpu {
        self.gpu
    }
}

fn once<T>(cell: &OnceCell<T>, read: impl FnOnce() -> Result<T, Error>) -> Result<&T, Error> {
    match cell.get() {
        Some(value) => Ok(value),
        None => {
            let value = read()?;
            Ok(cell.get_or_init(|| value))
        }
    }
}
