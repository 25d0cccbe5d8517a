//! What is in flight, counted once and where it is served: per scheduler replica that sent it, the rest as others (design §4.1).

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use domain::load::REPLICAS_MAX;
use domain::{InFlight, ReplicaId};
use tokio::sync::watch;

/// Tells those who watch the engine's state that it changed. Cheap where nobody watches.
#[derive(Clone)]
pub struct Changed(watch::Sender<()>);

impl Default for Changed {
    fn default() -> Self {
        Self(watch::Sender::new(()))
    }
}

impl Changed {
    pub fn tell(&self) {
        self.0.send_replace(());
    }

    pub fn watch(&self) -> watch::Receiver<()> {
        self.0.subscribe()
    }
}

/// Open requests by replica.
#[derive(Default)]
pub struct Ledger {
    counts: Mutex<Counts>,
    changed: Changed,
}

#[derive(Clone, Debug, Default, PartialEq)]
pub struct Counts {
    /// At most [`REPLICAS_MAX`]; replicas beyond are among the others.
    pub by_replica: Vec<(ReplicaId, InFlight)>,
    pub others: InFlight,
}

impl Counts {
    /// All open requests.
    pub fn requests(&self) -> u32 {
        self.by_replica.iter().fold(self.others.requests, |sum, (_, count)| sum.saturating_add(count.requests))
    }

    fn entry(&mut self, replica: Option<&ReplicaId>) -> &mut InFlight {
        let Some(replica) = replica else { return &mut self.others };
        match self.by_replica.iter().position(|(known, _)| known == replica) {
            Some(index) => &mut self.by_replica[index].1,
            None => &mut self.others,
        }
    }
}

impl Ledger {
    pub fn new(changed: Changed) -> Arc<Self> {
        Arc::new(Self { counts: Mutex::default(), changed })
    }

    /// Counts a request until the returned entry is dropped. `prompt_tokens` count as uncached until the engine says what its cache
    /// held, and no longer once they are computed: then they are nobody's work any more.
    pub fn open(self: &Arc<Self>, replica: Option<&ReplicaId>, prompt_tokens: u64) -> Entry {
        let mut counts = self.lock();
        let known = replica.filter(|replica| {
            let known = counts.by_replica.iter().any(|(known, _)| known == *replica);
            if !known && counts.by_replica.len() < REPLICAS_MAX {
                counts.by_replica.push(((*replica).clone(), InFlight::default()));
                return true;
            }
            known
        });
        let count = InFlight { requests: 1, uncached_tokens: prompt_tokens };
        counts.entry(known).add(count);
        drop(counts);
        self.changed.tell();
        Entry { ledger: Arc::clone(self), replica: known.cloned(), count }
    }

    pub fn counts(&self) -> Counts {
        self.lock().clone()
    }

    pub fn watch(&self) -> watch::Receiver<()> {
        self.changed.watch()
    }

    fn lock(&self) -> MutexGuard<'_, Counts> {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One open request.
pub struct Entry {
    ledger: Arc<Ledger>,
    /// `None`: among the others.
    replica: Option<ReplicaId>,
    count: InFlight,
}

impl Entry {
    /// So many prompt tokens need no computing any more: found in the cache, or computed.
    pub fn done(&mut self, tokens: u64) {
        let done = InFlight { requests: 0, uncached_tokens: tokens.min(self.count.uncached_tokens) };
        if done.uncached_tokens > 0 {
            self.count.remove(done);
            self.ledger.lock().entry(self.replica.as_ref()).remove(done);
            self.ledger.changed.tell();
        }
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        let mut counts = self.ledger.lock();
        counts.entry(self.replica.as_ref()).remove(self.count);
        counts.by_replica.retain(|(_, count)| count.requests > 0);
        drop(counts);
        self.ledger.changed.tell();
    }
}

#[cfg(test)]
mod tests {
    use domain::Incarnation;

    use super::*;

    fn replica(name: &str) -> ReplicaId {
        ReplicaId { name: name.into(), incarnation: Incarnation(1) }
    }

    #[test]
    fn requests_are_counted_where_they_came_from_until_they_end() {
        let ledger = Ledger::new(Changed::default());
        let (a, b) = (replica("a"), replica("b"));
        let mut first = ledger.open(Some(&a), 100);
        let second = ledger.open(Some(&a), 10);
        let third = ledger.open(Some(&b), 1);
        let direct = ledger.open(None, 5);
        first.done(60);
        first.done(60);
        let count = |requests, uncached_tokens| InFlight { requests, uncached_tokens };
        let expected = Counts { by_replica: vec![(a, count(2, 10)), (b.clone(), count(1, 1))], others: count(1, 5) };
        assert_eq!(ledger.counts(), expected);
        assert_eq!(expected.requests(), 4);
        drop((first, second, direct));
        assert_eq!(ledger.counts(), Counts { by_replica: vec![(b, count(1, 1))], others: count(0, 0) });
        drop(third);
        assert_eq!(ledger.counts(), Counts::default());
    }

    #[test]
    fn replicas_beyond_the_maximum_are_others() {
        let ledger = Ledger::new(Changed::default());
        let names: Vec<_> = (0..REPLICAS_MAX + 2).map(|i| replica(&i.to_string())).collect();
        let open: Vec<_> = names.iter().map(|name| ledger.open(Some(name), 1)).collect();
        let counts = ledger.counts();
        assert_eq!((counts.by_replica.len(), counts.others.requests), (REPLICAS_MAX, 2));
        // A place becomes free; who was counted among the others stays there until it ends.
        let mut open = open.into_iter();
        drop(open.next());
        let late = ledger.open(names.last(), 1);
        assert_eq!(ledger.counts().others.requests, 2);
        drop((open, late));
        assert_eq!(ledger.counts(), Counts::default());
    }
}
