//! Responses that clients may come back to: by id, and as the beginning of the next. Bounded; the oldest go first.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

use serde_json::Value;

/// Most responses, and most bytes of all their conversations.
const RESPONSES_MAX: usize = 1024;
const BYTES_MAX: usize = 64 << 20;

/// A response that has ended.
pub struct Stored {
    pub id: String,
    /// The conversation up to and with it.
    pub messages: Vec<Value>,
    /// The answer's body.
    pub body: Value,
}

#[derive(Default)]
pub struct Store(Mutex<Kept>);

#[derive(Default)]
struct Kept {
    /// The newest at the end, with the bytes that each takes.
    responses: VecDeque<(Arc<Stored>, usize)>,
    bytes: usize,
}

impl Store {
    pub fn put(&self, stored: Stored) {
        let bytes =
            stored.messages.iter().map(|message| message.to_string().len()).sum::<usize>() + stored.body.to_string().len();
        if bytes > BYTES_MAX {
            return;
        }
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        kept.bytes += bytes;
        kept.responses.push_back((Arc::new(stored), bytes));
        while kept.responses.len() > RESPONSES_MAX || kept.bytes > BYTES_MAX {
            let Some((_, bytes)) = kept.responses.pop_front() else { break };
            kept.bytes -= bytes;
        }
    }

    pub fn get(&self, id: &str) -> Option<Arc<Stored>> {
        let kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        kept.responses.iter().rev().map(|(stored, _)| stored).find(|stored| stored.id == id).cloned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_go_first() {
        let store = Store::default();
        let put = |id: usize, bytes: usize| {
            store.put(Stored { id: id.to_string(), messages: Vec::new(), body: Value::from("x".repeat(bytes)) });
        };
        (0..RESPONSES_MAX + 1).for_each(|id| put(id, 1));
        assert!(store.get("0").is_none() && store.get("1").is_some() && store.get(&RESPONSES_MAX.to_string()).is_some());
        put(5000, BYTES_MAX - 2);
        assert!(store.get("1").is_none() && store.get("5000").is_some(), "bytes are bounded as well");
        put(5001, BYTES_MAX);
        assert!(store.get("5001").is_none() && store.get("5000").is_some(), "what would fill all alone is not kept");
    }
}
