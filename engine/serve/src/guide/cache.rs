//! Compiled grammars by what they were compiled from, the least recently used forgotten first.

use std::collections::HashMap;

/// A bounded map.
#[derive(Debug)]
pub struct Cache<T> {
    entries: HashMap<Box<str>, Entry<T>>,
    bytes: usize,
    bytes_max: usize,
    /// Counts uses; the smallest is the oldest.
    clock: u64,
}

#[derive(Debug)]
struct Entry<T> {
    value: T,
    bytes: usize,
    used: u64,
}

impl<T: Clone> Cache<T> {
    pub fn new(bytes_max: usize) -> Self {
        Self { entries: HashMap::new(), bytes: 0, bytes_max, clock: 0 }
    }

    pub fn get(&mut self, key: &str) -> Option<T> {
        self.clock += 1;
        let entry = self.entries.get_mut(key)?;
        entry.used = self.clock;
        Some(entry.value.clone())
    }

    /// Keeps `value`, which takes `bytes`, its key included; what is larger than all that may be kept is not.
    pub fn put(&mut self, key: &str, value: T, bytes: usize) {
        if bytes > self.bytes_max {
            return;
        }
        self.clock += 1;
        let entry = Entry { value, bytes, used: self.clock };
        self.bytes += bytes;
        if let Some(before) = self.entries.insert(key.into(), entry) {
            self.bytes -= before.bytes;
        }
        while self.bytes > self.bytes_max {
            let oldest = self.entries.iter().min_by_key(|(_, entry)| entry.used).map(|(key, _)| key.clone());
            let Some(oldest) = oldest.and_then(|key| self.entries.remove(&key)) else { return };
            self.bytes -= oldest.bytes;
        }
    }

    #[cfg(test)]
    pub fn bytes(&self) -> usize {
        self.bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forgets_the_least_recently_used_when_full() {
        let mut cache = Cache::new(100);
        cache.put("a", 1, 40);
        cache.put("b", 2, 40);
        assert_eq!(cache.get("a"), Some(1));
        cache.put("c", 3, 40);
        assert_eq!((cache.get("a"), cache.get("b"), cache.get("c")), (Some(1), None, Some(3)));
        cache.put("c", 4, 10);
        assert_eq!((cache.get("c"), cache.bytes()), (Some(4), 50));
        cache.put("huge", 5, 101);
        assert_eq!((cache.get("huge"), cache.bytes()), (None, 50));
    }
}
