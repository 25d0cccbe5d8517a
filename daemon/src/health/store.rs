//! What health remembers over an agent's restart: findings of this boot, and how far the kernel log was read.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::hold::Memory;

/// Longest file that is read back.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// What is written down.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Stored {
    /// The kernel's boot id: after a reboot all of it is void.
    pub boot_id: String,
    /// Records of the kernel log before this sequence were taken in.
    pub kmsg_next: u64,
    /// By UUID.
    pub gpus: BTreeMap<String, Memory>,
}

/// The file.
#[derive(Clone, Debug)]
pub struct Store {
    path: PathBuf,
}

impl Store {
    pub fn new(state_dir: &Path) -> Self {
        Self { path: state_dir.join("health.json") }
    }

    /// What an earlier agent of this boot left. What cannot be read is told and forgotten: findings come back by themselves.
    pub fn load(&self, boot_id: &str) -> Stored {
        let read = || -> io::Result<Stored> {
            if fs::metadata(&self.path)?.len() > FILE_BYTES_MAX {
                return Err(io::Error::other("is too long"));
            }
            Ok(serde_json::from_slice(&fs::read(&self.path)?)?)
        };
        match read() {
            Ok(stored) if stored.boot_id == boot_id => stored,
            Ok(_) => Stored::default(),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Stored::default(),
            Err(error) => {
                tracing::error!(path = %self.path.display(), %error, "verdicts of the agent before are not known; quarantines may be lost");
                Stored::default()
            }
        }
    }

    /// Replaces the file: after a crash either the old one is there or the new one.
    pub fn save(&self, stored: &Stored) -> io::Result<()> {
        let draft = self.path.with_extension("new");
        let mut file = File::create(&draft)?;
        file.write_all(&serde_json::to_vec(stored)?)?;
        file.sync_all()?;
        fs::rename(&draft, &self.path)
    }
}
