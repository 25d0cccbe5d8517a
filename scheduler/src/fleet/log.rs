//! One engine's block log: what of it was heard, whether it is whole, and where in the index it is written.
//!
//! ```text
//! Unheard ──begin──▶ Receiving ──end──▶ Whole ──▶ (deltas)
//!    ▲                   │ gap            │ gap, other incarnation
//!    │                   ▼                ▼
//!  died ◀──────────── Lost (a new snapshot was asked for; all else is ignored until it begins)
//! ```

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use arc_swap::ArcSwapOption;
use domain::{BlockKey, Incarnation};

use super::index::{Index, Match, Partition, PartitionKey, Seat, Tier, TooManyPartitions};

/// Ended lives that a log remembers, so that a late message of one is not taken for a new one.
const ENDED_MAX: usize = 8;

/// One message of a Blocks stream.
#[derive(Clone, Debug)]
pub struct Update {
    /// Which stream it came on; a later stream has a higher number.
    pub stream: u64,
    /// Counts this engine's messages on that stream from 0.
    pub sequence: u64,
    pub incarnation: Incarnation,
    pub partition: PartitionKey,
    pub snapshot_begin: bool,
    pub snapshot_end: bool,
    pub events: Vec<Event>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    Stored { keys: Vec<BlockKey>, tier: Tier },
    Removed { keys: Vec<BlockKey>, tier: Tier },
    Cleared,
}

/// What became of an update.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    Applied {
        /// Blocks the index had no room for.
        dropped: usize,
    },
    /// It does not follow what was heard: the engine's blocks are forgotten and its snapshot must be sent again.
    Gap,
    /// It belongs to an earlier life of the engine or an earlier stream, or to a log that waits for its snapshot.
    Ignored,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Phase {
    #[default]
    Unheard,
    Receiving,
    Whole,
    Lost,
}

impl Phase {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Unheard => "unheard",
            Self::Receiving => "receiving",
            Self::Whole => "whole",
            Self::Lost => "lost",
        }
    }
}

/// Where an engine's blocks are written.
#[derive(Clone)]
pub struct Place {
    pub key: PartitionKey,
    pub partition: Arc<Partition>,
    pub seat: Seat,
}

impl Place {
    /// This engine's entry among the matches of its partition.
    pub fn blocks_among(&self, matches: &[Match]) -> u32 {
        matches.binary_search_by_key(&self.seat, |found| found.seat).map_or(0, |at| matches[at].blocks)
    }
}

#[derive(Default)]
struct State {
    stream: u64,
    next_sequence: u64,
    incarnation: Option<Incarnation>,
    ended: [Option<Incarnation>; ENDED_MAX],
    phase: Phase,
}

/// One engine's log. It outlives restarts of the engine and reconnections of its node.
#[derive(Default)]
pub struct Log {
    state: Mutex<State>,
    /// Beside the state, so that no request waits while a snapshot is written. Changed only under the state's lock.
    place: ArcSwapOption<Place>,
}

impl Log {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn apply(&self, index: &Index, update: Update) -> Result<Outcome, TooManyPartitions> {
        let mut state = self.state();
        if update.stream < state.stream || state.ended.contains(&Some(update.incarnation)) {
            return Ok(Outcome::Ignored);
        }
        let follows = if update.stream > state.stream {
            state.stream = update.stream;
            // What the last stream said stands until this one begins its snapshot: a lost stream costs no knowledge.
            false
        } else {
            update.sequence == state.next_sequence
                && state.incarnation == Some(update.incarnation)
                && self.place.load().as_ref().is_none_or(|place| place.key == update.partition)
        };
        state.next_sequence = update.sequence.wrapping_add(1);
        if update.snapshot_begin {
            self.forget();
            state.incarnation = Some(update.incarnation);
            let partition = index.partition(&update.partition)?;
            let seat = partition.occupy();
            self.place.store(Some(Arc::new(Place { key: update.partition, partition, seat })));
            state.phase = Phase::Receiving;
        } else if state.phase == Phase::Lost && state.incarnation == Some(update.incarnation) {
            return Ok(Outcome::Ignored);
        } else if !follows || self.place.load().is_none() {
            self.forget();
            state.incarnation = Some(update.incarnation);
            state.phase = Phase::Lost;
            return Ok(Outcome::Gap);
        }
        let dropped = self.play(&update.events);
        if update.snapshot_end && state.phase == Phase::Receiving {
            state.phase = Phase::Whole;
        }
        Ok(Outcome::Applied { dropped })
    }

    /// The engine's process is gone: nothing it held is found from here on, and nothing more of that life is believed.
    pub fn end(&self, incarnation: Incarnation) {
        let mut state = self.state();
        if !state.ended.contains(&Some(incarnation)) {
            state.ended.rotate_right(1);
            state.ended[0] = Some(incarnation);
        }
        if state.incarnation == Some(incarnation) {
            self.forget();
            state.incarnation = None;
            state.phase = Phase::Unheard;
        }
    }

    /// The node says that a life goes on which it had called ended. What was heard meanwhile is lost: the next message is a gap.
    pub fn revive(&self, incarnation: Incarnation) {
        let mut state = self.state();
        for ended in state.ended.iter_mut().filter(|ended| **ended == Some(incarnation)) {
            *ended = None;
        }
    }

    /// The engine is no longer part of the fleet.
    pub fn close(&self) {
        let mut state = self.state();
        self.forget();
        state.incarnation = None;
        state.phase = Phase::Unheard;
    }

    /// Where to look for this engine's blocks; `None` while nothing is known.
    pub fn place(&self) -> Option<Arc<Place>> {
        self.place.load_full()
    }

    pub fn phase(&self) -> Phase {
        self.state().phase
    }

    /// Blocks the index holds of this engine.
    pub fn blocks(&self) -> u64 {
        self.place.load().as_ref().map_or(0, |place| place.partition.held(place.seat))
    }

    fn forget(&self) {
        if let Some(place) = self.place.swap(None) {
            place.partition.vacate(place.seat);
        }
    }

    fn play(&self, events: &[Event]) -> usize {
        let Some(mut place) = self.place.load_full() else { return 0 };
        let mut dropped = 0;
        for event in events {
            match event {
                Event::Stored { keys, tier } => dropped += place.partition.store(place.seat, keys, *tier),
                Event::Removed { keys, tier } => place.partition.remove(place.seat, keys, *tier),
                Event::Cleared => {
                    let fresh = place.partition.occupy();
                    place.partition.vacate(place.seat);
                    place = Arc::new(Place { seat: fresh, ..Place::clone(&place) });
                    self.place.store(Some(place.clone()));
                }
            }
        }
        dropped
    }
}
