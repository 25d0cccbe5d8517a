//! The adapters that clients can ask for by name, as vLLM's `--lora-modules` and `/v1/load_lora_adapter` give them.

use std::collections::HashMap;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc};
use std::time::Duration;

use domain::{AdapterKey, Fault, FaultKind};
use engine::handle::Handle;
use engine_assets::{Adapter, ModelAssets};

/// How long the engine may take to put an adapter into its place: a step, and the copy.
const LOAD_TIMEOUT: Duration = Duration::from_secs(60);

/// Names and where their weights come from. The engine's own limit bounds them.
#[derive(Default)]
pub(crate) struct Adapters {
    known: Mutex<Known>,
}

#[derive(Default)]
struct Known {
    keys: Vec<AdapterKey>,
    /// How often weights were loaded under a name and path: what was computed with earlier ones must not be taken for theirs.
    loads: HashMap<(String, String), u64>,
}

impl Adapters {
    /// Reads an adapter and waits until the engine has it. For a thread that may block.
    pub fn load(&self, handle: &Handle, base: &ModelAssets, rank_max: usize, name: &str, path: &Path) -> Result<(), Fault> {
        let fault =
            |what: String, action: &str| Fault::new(FaultKind::Model, format!("cannot load the adapter {name}: {what}"), action);
        let adapter = Adapter::open(path, base, rank_max).map_err(|error| fault(error.to_string(), "mend what is named"))?;
        let key = self.key_of(name, &path.display().to_string());
        let (told, answer) = mpsc::sync_channel(1);
        // Nobody is left to hear it only when the wait was over.
        let reply = move |result| drop(told.send(result));
        handle
            .load_adapter(key.clone(), Arc::new(adapter), reply)
            .map_err(|error| fault(error.to_string(), "try again later"))?;
        match answer.recv_timeout(LOAD_TIMEOUT) {
            Ok(Ok(())) => self.known().keys.push(key),
            Ok(Err(error)) => return Err(fault(error.to_string(), "unload another adapter, or raise --max-loras")),
            Err(_) => return Err(fault("the engine does not answer".to_owned(), "see its log")),
        }
        Ok(())
    }

    /// The key by which a request names it.
    pub fn key(&self, name: &str) -> Option<AdapterKey> {
        self.known().keys.iter().find(|key| &*key.name == name).cloned()
    }

    /// In the order in which they were loaded.
    pub fn keys(&self) -> Vec<AdapterKey> {
        self.known().keys.clone()
    }

    fn key_of(&self, name: &str, path: &str) -> AdapterKey {
        let mut known = self.known();
        let loads = known.loads.entry((name.to_owned(), path.to_owned())).or_default();
        *loads += 1;
        let path = if *loads == 1 { path.into() } else { format!("{path}#{loads}").into() };
        AdapterKey { name: name.into(), path }
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
