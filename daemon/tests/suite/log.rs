//! The block log against a naive set: whatever happens and however slowly a stream reads, it ends with what the engine holds.

use std::collections::BTreeMap;

use daemon::attach::event::Tier;
use daemon::attach::rehash::Change;
use daemon::report::blocks::{Blocks, Partition, Read, Reader};
use domain::{BlockKey, EngineName, Incarnation};
use proptest::prelude::*;

#[derive(Clone, Debug)]
enum Step {
    Apply(Change),
    /// A new life of the engine.
    Begin,
    /// One message is read, with this much room.
    Read {
        live_keys: usize,
        snapshot_keys: usize,
    },
    Resync,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let keys = || prop::collection::vec((0..12u64).prop_map(BlockKey), 1..5);
    let tier = || prop::sample::select(&Tier::ALL[..]);
    let step = prop_oneof![
        4 => (keys(), tier()).prop_map(|(keys, tier)| Step::Apply(Change::Stored { keys, tier })),
        3 => (keys(), tier()).prop_map(|(keys, tier)| Step::Apply(Change::Removed { keys, tier })),
        1 => Just(Step::Apply(Change::Cleared)),
        1 => Just(Step::Begin),
        4 => (1..6usize, 0..6usize).prop_map(|(live_keys, snapshot_keys)| Step::Read { live_keys, snapshot_keys }),
        1 => Just(Step::Resync),
    ];
    prop::collection::vec(step, 1..80)
}

/// Keys with how many of the engine's blocks have them.
type Held = BTreeMap<(u64, &'static str), u32>;

fn replay(held: &mut Held, change: &Change) {
    match change {
        Change::Stored { keys, tier } => keys.iter().for_each(|key| *held.entry((key.0, tier.as_str())).or_default() += 1),
        Change::Removed { keys, tier } => {
            for key in keys {
                let at = (key.0, tier.as_str());
                match held.get_mut(&at) {
                    Some(1) => drop(held.remove(&at)),
                    Some(count) => *count -= 1,
                    None => {}
                }
            }
        }
        Change::Cleared => held.clear(),
    }
}

/// What a scheduler knows that applies every message and trusts nothing else.
#[derive(Default)]
struct Scheduler {
    held: Held,
    sequence: u64,
    whole: bool,
}

impl Scheduler {
    fn take(&mut self, read: Read) -> Result<bool, TestCaseError> {
        let Read::Message(message) = read else { return Ok(false) };
        prop_assert_eq!(message.sequence, self.sequence, "no hole in the numbers");
        self.sequence += 1;
        if message.snapshot_begin {
            self.held.clear();
            self.whole = false;
        }
        self.whole |= message.snapshot_end;
        for change in &message.events {
            // On the wire a key is held or not; how many blocks have it is the agent's business.
            if let Change::Stored { keys, tier } = change {
                for key in keys {
                    prop_assert_eq!(self.held.insert((key.0, tier.as_str()), 1), None, "stored twice");
                }
            } else {
                replay(&mut self.held, change);
            }
        }
        Ok(true)
    }
}

proptest! {
    #[test]
    fn a_stream_ends_with_what_the_engine_holds(steps in steps(), log_keys_max in 1..20usize) {
        let name = EngineName::new("e");
        let blocks = Blocks::with_log_keys_max([name.clone()], log_keys_max);
        let log = blocks.get(&name).expect("a log");
        let partition = |life| Partition { incarnation: Incarnation(life), model: "m".into(), block_tokens: 4 };
        log.begin(partition(0));
        let (mut truth, mut reader, mut scheduler, mut life) = (Held::new(), Reader::default(), Scheduler::default(), 0);
        for step in steps {
            match step {
                Step::Apply(change) => {
                    replay(&mut truth, &change);
                    log.apply(vec![change]);
                }
                Step::Begin => {
                    life += 1;
                    truth.clear();
                    log.begin(partition(life));
                }
                Step::Read { live_keys, snapshot_keys } => {
                    scheduler.take(log.read(&mut reader, live_keys, snapshot_keys, &mut false))?;
                }
                Step::Resync => reader.resync(),
            }
        }
        prop_assert_eq!(log.read(&mut Reader::default(), 9, 0, &mut false), Read::NeedsCredit, "no snapshot without credit");
        while scheduler.take(log.read(&mut reader, 3, 3, &mut false))? {}
        prop_assert!(scheduler.whole);
        prop_assert_eq!(scheduler.held.keys().collect::<Vec<_>>(), truth.keys().collect::<Vec<_>>());
    }
}
