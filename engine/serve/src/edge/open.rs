//! Which requests are open under which ids, for those who abort by id. A client chooses its id, so one may stand for several requests.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use engine::request::RequestId;

/// Kinds of answers, before the request's own id.
const PREFIXES: [&str; 6] = ["chatcmpl-", "cmpl-", "generate-tokens-", "resp_", "embd-", "pool-"];

/// The request's own id in the id of its answer.
pub fn name_of(id: &str) -> &str {
    PREFIXES.iter().find_map(|prefix| id.strip_prefix(prefix)).unwrap_or(id)
}

/// Sequences that the engine holds, by their request's own id.
#[derive(Default)]
pub struct OpenRequests(Mutex<HashMap<Arc<str>, Vec<RequestId>>>);

/// One of them, until it is dropped.
pub struct Open {
    requests: Arc<OpenRequests>,
    name: Arc<str>,
    id: RequestId,
}

impl OpenRequests {
    pub fn open(self: &Arc<Self>, name: &Arc<str>, id: RequestId) -> Open {
        self.lock().entry(Arc::clone(name)).or_default().push(id);
        Open { requests: Arc::clone(self), name: Arc::clone(name), id }
    }

    /// The sequences of the requests of this id, as their clients or their answers write it.
    pub fn find(&self, id: &str) -> Vec<RequestId> {
        let open = self.lock();
        open.get(name_of(id)).or_else(|| open.get(id)).cloned().unwrap_or_default()
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Arc<str>, Vec<RequestId>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        let mut open = self.requests.lock();
        if let Some(ids) = open.get_mut(&self.name) {
            ids.retain(|id| *id != self.id);
            if ids.is_empty() {
                open.remove(&self.name);
            }
        }
    }
}
