//! What several replicas know of each other's requests, and how far they can go wrong together.

use std::sync::Arc;
use std::time::Instant;

use domain::node::NodeIdentity;
use domain::{DataAddress, EngineName, EngineState, InFlight, Incarnation, Load, NodeId, ReplicaId, Role};
use proptest::prelude::*;
use scheduler::choose::{Chooser, Question};
use scheduler::decide::Policy;
use scheduler::fleet::Fleet;
use scheduler::fleet::engine::{Facts, OpenStream, Report};
use scheduler::fleet::table::{Changes, Session};
use scheduler::score::Weights;
use scheduler::text::{Prompt, Texts};

const ENGINES: usize = 3;
const REPLICAS: usize = 2;

fn node() -> NodeId {
    "n".into()
}

/// A replica, and the streams it has open on each engine.
struct Replica {
    id: ReplicaId,
    chooser: Chooser,
    open: Vec<Vec<OpenStream>>,
}

impl Replica {
    fn new(number: usize, began: Instant) -> Self {
        let id = ReplicaId { name: format!("r{number}").into(), incarnation: Incarnation(number as u64) };
        let fleet = Arc::new(Fleet::new(id.clone()));
        let identity = NodeIdentity { node: node(), boot_id: String::new(), agent_version: String::new(), agent: Incarnation(1) };
        fleet.connect(identity, Session(1), began).unwrap();
        let weights = Weights { prefix: 0.0, kv: 0.0, queue: 1.0 };
        let policy = Policy { weights, ..Policy::default() };
        let chooser = Chooser { fleet, texts: Arc::new(Texts::default()), policy };
        Self { id, chooser, open: (0..ENGINES).map(|_| Vec::new()).collect() }
    }

    fn pick(&mut self) -> usize {
        let question = Question { model: None, prompt: Prompt::Unknown, cache_salt: None, tokens_max: None };
        let pick = self.chooser.choose(&question).unwrap();
        let engine = &pick.targets[0].engine;
        let at: usize = engine.id.name.as_str().parse().unwrap();
        self.open[at].push(engine.begin(0));
        at
    }
}

/// Requests open on each engine, whoever opened them.
fn truth(replicas: &[Replica]) -> Vec<usize> {
    (0..ENGINES).map(|at| replicas.iter().map(|replica| replica.open[at].len()).sum()).collect()
}

/// The node tells every replica what its engines count.
fn report(replicas: &[Replica], now: Instant) {
    let count = |at: usize| {
        let by_replica = replicas.iter().map(|replica| {
            let requests = replica.open[at].len() as u32;
            (replica.id.clone(), InFlight { requests, uncached_tokens: 0 })
        });
        Load { by_replica: by_replica.collect(), ..Load::default() }
    };
    let facts = |at: usize| Facts {
        incarnation: Incarnation(1),
        role: Role::Both,
        model: "m".into(),
        adapters: Vec::new(),
        assets: None,
        address: DataAddress(([127, 0, 0, 1], at as u16).into()),
        dp_rank: 0,
        context_length: 0,
        pid: 1,
        counts_in_flight: true,
    };
    let engine = |at: usize| {
        let report = Report {
            facts: facts(at),
            state: EngineState::Ready,
            reason: "".into(),
            load: count(at),
            restarts: 0,
            steps: 0,
            health: Default::default(),
        };
        (EngineName::new(at.to_string()), report)
    };
    for replica in replicas {
        let changes = Changes { engines: (0..ENGINES).map(engine).collect(), complete: true, ..Changes::default() };
        replica.chooser.fleet.report(&node(), Session(1), changes, now).unwrap();
    }
}

#[derive(Clone, Copy, Debug)]
enum Event {
    /// A request arrives at a replica.
    Arrive(usize),
    /// A replica's oldest request on an engine ends.
    End(usize, usize),
    Report,
}

proptest! {
    /// Replicas share nothing but the nodes' reports. Whatever one picks has at most as many requests more than the least loaded
    /// engine as the others opened and closed since the last report.
    #[test]
    fn replicas_cannot_herd_beyond_what_happens_within_one_report_delay(events in prop::collection::vec(prop_oneof![
        6 => (0..REPLICAS).prop_map(Event::Arrive),
        3 => (0..REPLICAS, 0..ENGINES).prop_map(|(replica, engine)| Event::End(replica, engine)),
        1 => Just(Event::Report),
    ], 1..200)) {
        let began = Instant::now();
        let mut replicas: Vec<Replica> = (0..REPLICAS).map(|number| Replica::new(number, began)).collect();
        report(&replicas, began);
        let mut unreported = [0usize; REPLICAS];
        for event in events {
            match event {
                Event::Arrive(at) => {
                    let before = truth(&replicas);
                    let others: usize = (0..REPLICAS).filter(|other| *other != at).map(|other| unreported[other]).sum();
                    let picked = replicas[at].pick();
                    let least = before.iter().min().expect("there are engines");
                    prop_assert!(before[picked] <= least + others, "picked {picked} of {before:?}, {others} unreported");
                    unreported[at] += 1;
                }
                Event::End(at, engine) => {
                    if !replicas[at].open[engine].is_empty() {
                        replicas[at].open[engine].remove(0);
                        unreported[at] += 1;
                    }
                }
                Event::Report => {
                    report(&replicas, began);
                    unreported = [0; REPLICAS];
                }
            }
        }
    }
}
