//! The adapters that clients can ask for by name, as vLLM's `--lora-modules` and `/v1/load_lora_adapter` give them.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc};
use std::time::Duration;

use domain::AdapterKey;
use engine::handle::{AdapterError, Busy, Handle};
use engine_assets::{Adapter, AssetsError, ModelAssets};

/// How long the engine may take to put an adapter into its place: a step, and the copy.
const LOAD_TIMEOUT: Duration = Duration::from_secs(60);

/// Names and where their weights come from. The engine's own limit bounds them.
#[derive(Default)]
pub(crate) struct Adapters {
    known: Mutex<Names>,
    /// One adapter comes or goes at a time.
    changing: tokio::sync::Mutex<()>,
}

#[derive(Default)]
struct Names {
    loaded: Vec<Known>,
    /// Unloaded or replaced, as long as sequences have them.
    left: Vec<Known>,
}

impl Names {
    fn find(&self, name: &str) -> Option<&Known> {
        self.loaded.iter().find(|known| &*known.key.name == name)
    }

    fn remove(&mut self, name: &str) {
        let gone = self.loaded.extract_if(.., |known| &*known.key.name == name);
        self.left.extend(gone);
        self.left.retain(|known| Arc::strong_count(&known.uses) > 1);
    }
}

/// What loads adapters while the engine serves.
#[derive(Clone, Debug)]
pub(crate) struct Loader {
    /// The model that they are checked against.
    pub base: Arc<ModelAssets>,
    pub rank_max: usize,
    /// Adapters must lie below this folder; `None`: anywhere.
    pub root: Option<PathBuf>,
}

/// A loaded adapter.
#[derive(Clone)]
pub(crate) struct Known {
    pub key: AdapterKey,
    /// Where it was loaded from.
    pub path: Arc<str>,
    uses: Arc<Uses>,
}

/// Sequences that have an adapter.
#[derive(Default)]
struct Uses {
    waiting: AtomicU32,
    running: AtomicU32,
}

/// One sequence that has an adapter, until it is dropped.
pub(crate) struct Use {
    uses: Arc<Uses>,
    running: bool,
}

/// Names of adapters by what their sequences do; a name may be in both.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct InUse {
    pub waiting: Vec<Arc<str>>,
    pub running: Vec<Arc<str>>,
}

/// Why an adapter was not loaded.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LoadError {
    #[error("{0}")]
    Unreadable(#[from] AssetsError),
    #[error("{0}")]
    Refused(#[from] AdapterError),
    #[error("{0}")]
    Busy(#[from] Busy),
    #[error("the engine does not answer")]
    Silent,
}

impl Loader {
    /// The folder that a client means, if it may be loaded.
    pub fn folder(&self, path: &str) -> Option<PathBuf> {
        let Some(root) = &self.root else { return Some(path.into()) };
        // Links count as what they lead to.
        let (root, folder) = (root.canonicalize().ok()?, root.join(path).canonicalize().ok()?);
        folder.starts_with(&root).then_some(folder)
    }
}

impl Adapters {
    /// Held while an adapter comes or goes.
    pub async fn change(&self) -> tokio::sync::MutexGuard<'_, ()> {
        self.changing.lock().await
    }

    /// Reads an adapter from `folder` and waits until the engine has it; `path` is what its folder is called. One that has the name is
    /// replaced. For a thread that may block, and holds the [change](Self::change).
    pub fn load(&self, handle: &Handle, loader: &Loader, name: &str, path: &str, folder: &Path) -> Result<(), LoadError> {
        let adapter = Adapter::open(folder, &loader.base, loader.rank_max)?;
        // Blocks are known by the key: what was computed with other weights is never taken for theirs, wherever it was kept.
        let digest: String = adapter.digest().iter().take(8).map(|byte| format!("{byte:02x}")).collect();
        let key = AdapterKey { name: name.into(), path: format!("{path}#{digest}").into() };
        if self.find(name).is_some_and(|known| known.key == key) {
            return Ok(());
        }
        let (told, answer) = mpsc::sync_channel(1);
        // Nobody is left to hear it only when the wait was over.
        handle.load_adapter(key.clone(), Arc::new(adapter), true, move |result| drop(told.send(result)))?;
        answer.recv_timeout(LOAD_TIMEOUT).map_err(|_| LoadError::Silent)??;
        let mut names = self.names();
        names.remove(name);
        names.loaded.push(Known { key, path: path.into(), uses: Arc::default() });
        Ok(())
    }

    /// No new request finds it; those that have it go on.
    pub fn unload(&self, handle: &Handle, name: &str) -> Result<bool, Busy> {
        let Some(known) = self.find(name) else { return Ok(false) };
        handle.unload_adapter(Arc::clone(&known.key.name), drop)?;
        self.names().remove(name);
        Ok(true)
    }

    pub fn find(&self, name: &str) -> Option<Known> {
        self.names().find(name).cloned()
    }

    /// In the order in which they were loaded.
    pub fn all(&self) -> Vec<Known> {
        self.names().loaded.clone()
    }

    /// Counts one more sequence that waits with the adapter of this key.
    pub fn begin(&self, key: &AdapterKey) -> Option<Use> {
        let uses = Arc::clone(&self.names().find(&key.name).filter(|known| known.key == *key)?.uses);
        uses.waiting.fetch_add(1, Ordering::Relaxed);
        Some(Use { uses, running: false })
    }

    pub fn in_use(&self) -> InUse {
        let mut in_use = InUse::default();
        let names = self.names();
        for Known { key, uses, .. } in names.loaded.iter().chain(&names.left) {
            for (list, count) in [(&mut in_use.waiting, &uses.waiting), (&mut in_use.running, &uses.running)] {
                // One that was replaced has the name of the one that replaced it.
                if count.load(Ordering::Relaxed) > 0 && !list.contains(&key.name) {
                    list.push(Arc::clone(&key.name));
                }
            }
        }
        in_use
    }

    fn names(&self) -> MutexGuard<'_, Names> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Use {
    /// The sequence runs from now on.
    pub fn run(&mut self) {
        if !std::mem::replace(&mut self.running, true) {
            self.uses.running.fetch_add(1, Ordering::Relaxed);
            self.uses.waiting.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

impl Drop for Use {
    fn drop(&mut self) {
        let count = if self.running { &self.uses.running } else { &self.uses.waiting };
        count.fetch_sub(1, Ordering::Relaxed);
    }
}
