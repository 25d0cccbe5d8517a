//! The KV index against a naive replay of the same logs: gaps, restarts, reconnections and deaths included.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use domain::{BlockKey, Incarnation};
use proptest::prelude::*;
use scheduler::fleet::index::{Index, PartitionKey, Tier};
use scheduler::fleet::log::{Event, Log, Outcome, Phase, Update};

fn partition() -> PartitionKey {
    PartitionKey { base: "m".into(), block_tokens: 16 }
}

fn block_keys(keys: &[u64]) -> Vec<BlockKey> {
    keys.iter().map(|key| BlockKey(*key)).collect()
}

/// What an engine's log says, kept as a person would: a set of keys per tier.
#[derive(Clone, Debug, Default)]
struct Replay {
    held: BTreeMap<u8, BTreeSet<u64>>,
}

impl Replay {
    fn play(&mut self, step: &Step) {
        match step {
            Step::Store(keys, tier) => self.held.entry(*tier).or_default().extend(keys),
            Step::Remove(keys, tier) => {
                let held = self.held.entry(*tier).or_default();
                keys.iter().for_each(|key| _ = held.remove(key));
            }
            _ => self.held.clear(),
        }
    }

    fn holds(&self, key: u64) -> bool {
        self.held.values().any(|keys| keys.contains(&key))
    }

    fn prefix(&self, chain: &[u64]) -> u32 {
        chain.iter().take_while(|key| self.holds(**key)).count() as u32
    }

    fn blocks(&self) -> u64 {
        self.held.values().flatten().collect::<BTreeSet<_>>().len() as u64
    }
}

#[derive(Clone, Debug)]
enum Step {
    Store(Vec<u64>, u8),
    Remove(Vec<u64>, u8),
    Clear,
    /// A message is lost on the way.
    Gap,
    /// The whole list, anew.
    Snapshot,
    /// The agent connects again and sends the list.
    Reconnect,
    /// The engine dies; its next life begins with an empty list.
    Die,
    /// A message of the life before.
    Late(Vec<u64>),
}

fn tier(number: u8) -> Tier {
    [Tier::GPU, Tier::CPU, Tier::DISK][number as usize % 3]
}

/// An engine, its true content, and the sender's side of its log.
struct Sender {
    log: Arc<Log>,
    truth: Replay,
    /// Whether the index knows the truth, as far as the sender is aware.
    in_step: bool,
    stream: u64,
    sequence: u64,
    life: u64,
}

impl Sender {
    fn new() -> Self {
        Self { log: Arc::default(), truth: Replay::default(), in_step: false, stream: 1, sequence: 0, life: 1 }
    }

    fn message(&mut self, life: u64, snapshot: bool, events: Vec<Event>) -> Update {
        let sequence = self.sequence;
        self.sequence += 1;
        Update {
            stream: self.stream,
            sequence,
            incarnation: Incarnation(life),
            partition: partition(),
            snapshot_begin: snapshot,
            snapshot_end: snapshot,
            events,
        }
    }

    fn list(&mut self, index: &Index) {
        let stored = |(number, keys): (&u8, &BTreeSet<u64>)| Event::Stored {
            keys: block_keys(&keys.iter().copied().collect::<Vec<_>>()),
            tier: tier(*number),
        };
        let events = self.truth.held.iter().map(stored).collect();
        let update = self.message(self.life, true, events);
        assert_eq!(self.log.apply(index, update), Ok(Outcome::Applied { dropped: 0 }));
        self.in_step = true;
    }

    fn take(&mut self, index: &Index, step: &Step) {
        let event = match step {
            Step::Store(keys, number) => Event::Stored { keys: block_keys(keys), tier: tier(*number) },
            Step::Remove(keys, number) => Event::Removed { keys: block_keys(keys), tier: tier(*number) },
            Step::Clear => Event::Cleared,
            Step::Gap => {
                self.sequence += 1;
                self.in_step = false;
                return;
            }
            Step::Snapshot => return self.list(index),
            Step::Reconnect => {
                (self.stream, self.sequence) = (self.stream + 1, 0);
                return self.list(index);
            }
            Step::Die => {
                self.log.end(Incarnation(self.life));
                self.life += 1;
                self.truth = Replay::default();
                return self.list(index);
            }
            Step::Late(keys) => {
                if self.life > 1 {
                    // On the stream of before, or it would be the sender's own mistake.
                    let late = Update {
                        stream: self.stream,
                        ..self.message(self.life - 1, false, vec![Event::Stored { keys: block_keys(keys), tier: Tier::GPU }])
                    };
                    self.sequence -= 1;
                    assert_eq!(self.log.apply(index, late), Ok(Outcome::Ignored));
                }
                return;
            }
        };
        self.truth.play(step);
        let update = self.message(self.life, false, vec![event]);
        let expected = match (self.in_step, self.log.phase()) {
            (true, _) => Outcome::Applied { dropped: 0 },
            (false, Phase::Lost) => Outcome::Ignored,
            (false, _) => Outcome::Gap,
        };
        assert_eq!(self.log.apply(index, update), Ok(expected));
    }
}

fn steps() -> impl Strategy<Value = Vec<(usize, Step)>> {
    let keys = || prop::collection::vec(0u64..24, 1..6);
    let step = prop_oneof![
        8 => (keys(), 0u8..3).prop_map(|(keys, tier)| Step::Store(keys, tier)),
        5 => (keys(), 0u8..3).prop_map(|(keys, tier)| Step::Remove(keys, tier)),
        1 => Just(Step::Clear),
        1 => Just(Step::Gap),
        2 => Just(Step::Snapshot),
        1 => Just(Step::Reconnect),
        1 => Just(Step::Die),
        1 => keys().prop_map(Step::Late),
    ];
    prop::collection::vec((0usize..4, step), 1..120)
}

proptest! {
    #[test]
    fn the_index_is_what_a_naive_replay_says(steps in steps(), chains in prop::collection::vec(prop::collection::vec(0u64..24, 1..10), 1..6)) {
        let index = Index::default();
        let mut engines: Vec<Sender> = (0..4).map(|_| Sender::new()).collect();
        engines.iter_mut().for_each(|engine| engine.list(&index));
        for (i, (at, step)) in steps.iter().enumerate() {
            engines[*at].take(&index, step);
            if i % 7 == 0 {
                for (_, partition) in index.partitions() {
                    partition.sweep();
                }
            }
            for chain in &chains {
                for engine in &engines {
                    let place = engine.log.place();
                    let found = place.as_ref().map_or(0, |place| {
                        place.blocks_among(&place.partition.lookup(block_keys(chain)))
                    });
                    // Between a gap's message and the list that mends it, nothing of the engine is believed.
                    let lost = engine.log.phase() == Phase::Lost;
                    let unaware = !engine.in_step && !lost;
                    if !unaware {
                        let expected = if lost { 0 } else { engine.truth.prefix(chain) };
                        prop_assert_eq!(found, expected, "{:?} after step {}", chain, i);
                        prop_assert_eq!(engine.log.blocks(), if lost { 0 } else { engine.truth.blocks() });
                    }
                }
            }
        }
        for engine in &mut engines {
            engine.list(&index);
        }
        let expected: u64 = engines.iter().map(|engine| engine.truth.blocks()).sum();
        let (_, partition) = index.partitions().pop().expect("all logs share one partition");
        while partition.sweep() {}
        prop_assert_eq!(partition.held_by_all(), expected);
    }
}

#[test]
fn a_block_has_as_many_holders_as_hold_it() {
    let index = Index::default();
    let partition = index.partition(&partition()).unwrap();
    let keys = block_keys(&[1, 2, 3]);
    let seats: Vec<_> = (0..300).map(|_| partition.occupy()).collect();
    for (i, seat) in seats.iter().enumerate() {
        partition.store(*seat, &keys[..1 + i % 3], Tier::GPU);
    }
    let matches = partition.lookup(keys.iter().copied());
    assert_eq!(matches.len(), 300);
    assert!(
        matches
            .iter()
            .zip(&seats)
            .enumerate()
            .all(|(i, (found, seat))| found.seat == *seat && found.blocks as usize == 1 + i % 3)
    );
    for seat in &seats[1..] {
        partition.vacate(*seat);
    }
    assert_eq!(partition.lookup(keys.iter().copied()).len(), 1);
    while partition.sweep() {}
    assert_eq!((partition.held_by_all(), partition.held(seats[0]), partition.held(seats[5])), (1, 1, 0));
    assert_eq!(partition.store(seats[5], &keys, Tier::GPU), 3, "a vacant seat takes nothing");
}

#[test]
fn models_and_block_sizes_do_not_mix_and_are_bounded() {
    let index = Index::default();
    let key = |model: &str, block_tokens| PartitionKey { base: model.into(), block_tokens };
    let a = index.partition(&key("a", 16)).unwrap();
    let seat = a.occupy();
    a.store(seat, &block_keys(&[1]), Tier::GPU);
    for other in [key("a", 32), key("b", 16)] {
        assert!(index.partition(&other).unwrap().lookup(block_keys(&[1])).is_empty());
    }
    let occupied: Vec<_> = (0..scheduler::fleet::index::PARTITIONS_MAX - 1)
        .map(|i| {
            let partition = index.partition(&key(&format!("m{i}"), 16)).unwrap();
            partition.occupy();
            partition
        })
        .collect();
    assert!(index.partition(&key("one too many", 16)).is_err());
    assert!(index.partition(&key("a", 16)).is_ok(), "what is there stays");
    drop(occupied);
    // Deserted partitions make room.
    a.vacate(seat);
    drop(a);
    assert!(index.partition(&key("now there is room", 16)).is_ok());
}
