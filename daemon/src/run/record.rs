//! What the agent writes down of its engines, so that the next agent finds them again: one small JSON file each under the state folder.
//!
//! A record is written before the process starts (without a pid) and again when its pid is known. Whichever moment the agent dies
//! in, the next one finds the process by pid or by the mark in its environment, and never starts a second one beside it.

use std::fs::{self, File, TryLockError};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use domain::{Fault, FaultKind};
use serde::{Deserialize, Serialize};

/// Longest record that is read back.
const RECORD_BYTES_MAX: u64 = 64 << 10;

/// One engine's life as written down.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// Mark in the environment of the engine and its descendants.
    pub life: String,
    /// The kernel's boot id: after a reboot a pid says nothing.
    pub boot_id: String,
    /// Absent between the decision to start and the start.
    pub pid: Option<u32>,
    pub start_ticks: Option<u64>,
    pub cgroup: Option<PathBuf>,
    /// A drain asked for by a scheduler or an operator.
    #[serde(default)]
    pub drain: bool,
    #[serde(default)]
    pub restarts: u32,
    /// Why it was given up: a person has to look before it starts again.
    #[serde(default)]
    pub given_up: Option<String>,
    /// Data address as bound; absent until it is known.
    #[serde(default)]
    pub address: Option<std::net::SocketAddr>,
}

/// The folder of records. One agent holds it; its clones share the hold.
#[derive(Clone, Debug)]
pub struct Records {
    folder: PathBuf,
    _held: Arc<File>,
}

impl Records {
    /// Makes the folder and holds it: a second agent over the same engines would double them.
    pub fn open(state_dir: &Path) -> Result<Self, Fault> {
        let folder = state_dir.join("engines");
        fs::create_dir_all(&folder).map_err(|error| {
            let what = format!("cannot make the state folder {}", folder.display());
            Fault::new(FaultKind::Storage, what, "give a writable folder with --state-dir").because(error)
        })?;
        let lock = state_dir.join("agent.lock");
        let cannot_lock = |error: io::Error| {
            let what = format!("cannot lock {}", lock.display());
            Fault::new(FaultKind::Storage, what, "give a folder on a file system with locks").because(error)
        };
        let held = File::create(&lock).map_err(cannot_lock)?;
        match held.try_lock() {
            Ok(()) => Ok(Self { folder, _held: Arc::new(held) }),
            Err(TryLockError::WouldBlock) => {
                let what = format!("another node agent uses the state folder {}", state_dir.display());
                Err(Fault::new(FaultKind::Storage, what, "end it, or give this one a --state-dir of its own"))
            }
            Err(TryLockError::Error(error)) => Err(cannot_lock(error)),
        }
    }

    fn path(&self, engine: &str) -> PathBuf {
        self.folder.join(format!("{engine}.json"))
    }

    /// Replaces the record, durably: after a crash either the old one is there or the new one.
    pub fn save(&self, engine: &str, record: &Record) -> Result<(), Fault> {
        let path = self.path(engine);
        let write = || -> io::Result<()> {
            let bytes = serde_json::to_vec(record)?;
            let draft = self.folder.join(format!(".{engine}.new"));
            let mut file = File::create(&draft)?;
            file.write_all(&bytes)?;
            file.sync_all()?;
            fs::rename(&draft, &path)?;
            File::open(&self.folder)?.sync_all()
        };
        write().map_err(|error| {
            let what = format!("cannot record engine {engine} in {}", path.display());
            let action = "free space or repair the folder: until then a restarted agent may not find this engine again";
            Fault::new(FaultKind::Storage, what, action).because(error)
        })
    }

    /// `None` where there is none; a record that cannot be read is an error, because an engine may run unseen behind it.
    pub fn load(&self, engine: &str) -> Result<Option<Record>, Fault> {
        let path = self.path(engine);
        let read = || -> io::Result<Option<Record>> {
            match fs::metadata(&path) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
                Err(error) => return Err(error),
                Ok(found) if found.len() > RECORD_BYTES_MAX => return Err(io::Error::other("is too long")),
                Ok(_) => {}
            }
            Ok(Some(serde_json::from_slice(&fs::read(&path)?)?))
        };
        read().map_err(|error| {
            let what = format!("cannot read the record {}", path.display());
            let action = format!("end what may still run of engine {engine}, then remove the file");
            Fault::new(FaultKind::Storage, what, action).because(error)
        })
    }

    pub fn remove(&self, engine: &str) {
        if let Err(error) = fs::remove_file(self.path(engine))
            && error.kind() != io::ErrorKind::NotFound
        {
            tracing::warn!(engine, %error, "record stays");
        }
    }

    /// Engines with a record, whether configured or not.
    pub fn engines(&self) -> Vec<String> {
        let entries = fs::read_dir(&self.folder).into_iter().flatten().flatten();
        let names = entries.filter_map(|entry| Some(entry.file_name().to_str()?.strip_suffix(".json")?.to_owned()));
        names.filter(|name| !name.starts_with('.')).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record() -> Record {
        Record {
            life: "00ff".into(),
            boot_id: "b".into(),
            pid: Some(7),
            start_ticks: Some(99),
            cgroup: None,
            drain: true,
            restarts: 2,
            given_up: None,
            address: None,
        }
    }

    #[test]
    fn a_record_is_found_again_and_a_broken_one_is_not_taken_for_none() {
        let dir = tempfile::tempdir().unwrap();
        let records = Records::open(dir.path()).unwrap();
        assert_eq!(records.load("engine-0").unwrap(), None);
        records.save("engine-0", &record()).unwrap();
        assert_eq!(records.load("engine-0").unwrap(), Some(record()));
        assert_eq!(records.engines(), ["engine-0"]);
        fs::write(dir.path().join("engines/engine-0.json"), b"{\"life\":").unwrap();
        let fault = records.load("engine-0").unwrap_err();
        assert_eq!(fault.kind, FaultKind::Storage);
        assert!(fault.to_string().contains("engine-0.json"), "{fault}");
    }

    #[test]
    fn what_cannot_be_written_is_a_fault_that_names_the_engine() {
        let dir = tempfile::tempdir().unwrap();
        let records = Records::open(dir.path()).unwrap();
        fs::remove_dir_all(dir.path().join("engines")).unwrap();
        let fault = records.save("engine-3", &record()).unwrap_err();
        assert!(fault.to_string().contains("cannot record engine engine-3"), "{fault}");
    }
}
