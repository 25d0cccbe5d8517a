//! Why a CPU backend does not start.

use std::path::PathBuf;

use domain::{Fault, FaultKind};
use engine::model::ModelError;

use crate::kernel::Isa;

#[derive(Debug, thiserror::Error)]
pub enum CpuError {
    #[error("{}: cannot map the file: {source}", file.display())]
    Map { file: PathBuf, source: std::io::Error },
    #[error("{}: {source}", path.display())]
    Model { path: PathBuf, source: ModelError },
    #[error("this machine has no {0}")]
    Isa(Isa),
    #[error("cannot reserve {bytes} bytes for {blocks} KV blocks: {source}")]
    Kv { blocks: usize, bytes: usize, source: std::io::Error },
    #[error("cannot reserve {bytes} bytes for the repacked weights: {source}")]
    Weights { bytes: usize, source: std::io::Error },
    #[error("{blocks} KV blocks take {bytes} bytes; the machine, or a cgroup above this process, has {available} left")]
    KvTooLarge { blocks: usize, bytes: usize, available: u64 },
    #[error("{bytes} bytes hold no whole KV block; one is {block_bytes} bytes")]
    KvTooSmall { bytes: usize, block_bytes: usize },
    #[error("{name} is {value}, outside 1 ..= {max}")]
    Option { name: &'static str, value: usize, max: usize },
    #[error("cannot start a compute thread: {0}")]
    Thread(std::io::Error),
}

impl From<CpuError> for Fault {
    fn from(error: CpuError) -> Self {
        let (kind, action) = match &error {
            CpuError::Map { .. } => (FaultKind::Storage, "check that the file is there and readable"),
            CpuError::Model { .. } => (FaultKind::Model, "give a supported model, or fetch the file again if it is damaged"),
            CpuError::Isa(_) => (FaultKind::Device, "leave the choice of instruction set to the engine"),
            CpuError::Kv { .. } => (FaultKind::Device, "give the KV cache less memory"),
            CpuError::KvTooLarge { .. } => {
                (FaultKind::Config, "give the KV cache less memory (--kv-cache-mib, --num-kv-blocks), or the container more")
            }
            CpuError::Weights { .. } => {
                (FaultKind::Device, "free memory, take a smaller model, or leave the weights as they are with `--dtype float32`")
            }
            CpuError::KvTooSmall { .. } => (FaultKind::Config, "give the KV cache more memory"),
            CpuError::Option { .. } => (FaultKind::Config, "give a value in this range"),
            CpuError::Thread(_) => (FaultKind::Device, "raise the limit on threads, or give the engine fewer"),
        };
        Self::new(kind, error.to_string(), action)
    }
}
