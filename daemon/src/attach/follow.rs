//! Follows the KV events of one life of an engine: a baseline, then each batch in order, gaps by replay or by the baseline again.

use std::sync::Arc;
use std::time::Duration;

use domain::{EngineName, Incarnation};
use tokio::time::{Instant, sleep, sleep_until, timeout};
use zeromq::{DealerSocket, Socket, SocketRecv, SocketSend, SubSocket, ZmqMessage};

use crate::attach::event::{Batch, Event, decode};
use crate::attach::rehash::{BLOCKS_MAX, Change, Rehash};
use crate::edge::engine::EngineClient;
use crate::node::{Counters, Node, Urgency};
use crate::report::blocks::{BlockLog, Partition};

/// Between two tries to reach the events.
const RETRY: Duration = Duration::from_secs(1);
/// Longest wait for the next message of a replay; vLLM looks at requests for replay only between batches.
const REPLAY_SILENCE: Duration = Duration::from_secs(2);
/// Batches of one replay; vLLM keeps 10,000.
const REPLAY_BATCHES_MAX: usize = 200_000;
/// A subscription takes a moment to reach the publisher: what was published meanwhile is asked for once after this time.
const SETTLE: Duration = Duration::from_millis(500);
/// Sequence that ends a replay.
const REPLAY_END: u64 = u64::MAX;

/// Whose events, and where.
#[derive(Clone, Debug, PartialEq)]
pub struct Follow {
    /// ZMQ endpoint of the publisher.
    pub endpoint: String,
    pub replay: Option<String>,
    pub model: String,
    pub incarnation: Incarnation,
    pub block_tokens: Option<u32>,
    pub adapters_loaded: bool,
    pub baseline: Baseline,
}

/// How the blocks that were stored before are learned.
#[derive(Clone, Debug, PartialEq)]
pub enum Baseline {
    /// The engine lists them.
    List(Box<EngineClient>),
    /// Only what its publisher still replays.
    Replay,
}

/// The blocks of an engine as listed, and the batch that the list already contains.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Listed {
    pub sequence: Option<u64>,
    pub events: Vec<Event>,
}

/// Follows until dropped.
pub async fn follow(source: Follow, node: Arc<Node>, blocks: Arc<BlockLog>) {
    let mut follower = Follower::new(source, node, blocks);
    loop {
        let why = follower.run().await;
        tracing::debug!(engine = %follower.blocks.engine, why, "KV events end; followed anew");
        sleep(RETRY).await;
    }
}

struct Follower {
    source: Follow,
    node: Arc<Node>,
    blocks: Arc<BlockLog>,
    rehash: Rehash,
    /// Sequence of the next batch; `None` before anything is known.
    expected: Option<u64>,
    begun: bool,
}

impl Follower {
    fn new(source: Follow, node: Arc<Node>, blocks: Arc<BlockLog>) -> Self {
        let block_tokens = source.block_tokens.map(|tokens| tokens as usize);
        let mut rehash = Rehash::new(source.model.as_str(), block_tokens, BLOCKS_MAX);
        rehash.set_adapters_loaded(source.adapters_loaded);
        Self { source, node, blocks, rehash, expected: None, begun: false }
    }

    fn name(&self) -> &EngineName {
        &self.blocks.engine
    }

    fn note(&self, note: &str) {
        self.node.update(self.name(), Urgency::Usual, |status| note.clone_into(&mut status.blocks_note));
    }

    /// Subscribes and follows; returns why it cannot go on.
    async fn run(&mut self) -> String {
        let mut subscriber = SubSocket::new();
        // The subscription comes before the baseline: a batch in between is seen twice, and never missed.
        match timeout(REPLAY_SILENCE, subscriber.connect(&self.source.endpoint)).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => return format!("cannot reach {}: {error}", self.source.endpoint),
            Err(_elapsed) => return format!("cannot reach {} within {} s", self.source.endpoint, REPLAY_SILENCE.as_secs()),
        }
        if let Err(error) = subscriber.subscribe("").await {
            return format!("cannot subscribe: {error}");
        }
        if let Err(why) = self.baseline().await {
            return why;
        }
        let mut settled = Some(Instant::now() + SETTLE);
        loop {
            let received = tokio::select! {
                received = subscriber.recv() => received,
                () = sleep_until(settled.unwrap_or_else(Instant::now)), if settled.is_some() => {
                    settled = None;
                    self.catch_up().await;
                    continue;
                }
            };
            match received {
                Err(error) => return format!("subscription ended: {error}"),
                Ok(message) => match frames(&message) {
                    Some((sequence, payload)) => {
                        if let Err(why) = self.batch(sequence, payload).await {
                            return why;
                        }
                    }
                    None => self.undecodable(1),
                },
            }
        }
    }

    async fn baseline(&mut self) -> Result<(), String> {
        self.restart();
        match self.source.baseline.clone() {
            Baseline::List(client) => {
                let listed = client.blocks().await.map_err(|why| format!("cannot list its blocks: {why}"))?;
                self.expected = Some(listed.sequence.map_or(0, |sequence| sequence + 1));
                self.apply(&listed.events);
                self.note("");
            }
            Baseline::Replay => {
                if self.replay_from(0).await.is_err() {
                    self.note("blocks stored before the agent came are not known: its publisher does not replay");
                } else {
                    self.note("");
                }
            }
        }
        Ok(())
    }

    /// Forgets everything and opens the partition anew, where its block size is known.
    fn restart(&mut self) {
        self.rehash.clear();
        self.expected = None;
        self.begun = false;
        self.open();
    }

    /// Tells the log which partition the keys belong to, once that is known.
    fn open(&mut self) {
        if self.begun {
            return;
        }
        if let Some(block_tokens) = self.rehash.block_tokens() {
            self.begun = true;
            self.blocks.begin(Partition {
                incarnation: self.source.incarnation,
                model: self.source.model.as_str().into(),
                block_tokens: block_tokens as u32,
            });
        }
    }

    /// What was published while the subscription was on its way.
    async fn catch_up(&mut self) {
        let Some(expected) = self.expected else { return };
        if self.source.replay.is_some()
            && let Err(why) = self.replay_from(expected).await
        {
            tracing::debug!(engine = %self.name(), why, "no replay");
        }
    }

    /// Takes one live batch; an error asks for a new baseline.
    async fn batch(&mut self, sequence: u64, payload: &[u8]) -> Result<(), String> {
        let Some(expected) = self.expected else {
            self.take(sequence, payload);
            return Ok(());
        };
        if sequence == 0 && expected > 1 {
            return Err("the engine counts its events from 0 again".into());
        }
        if sequence > expected
            && let Err(why) = self.replay_from(expected).await
        {
            let lost = sequence - expected;
            Counters::add(&self.node.counters.kv_batches_lost, lost);
            return Err(format!("{lost} batches from {expected} on are lost ({why})"));
        }
        match self.expected {
            Some(expected) if sequence < expected => {}
            Some(expected) if sequence > expected => {
                let lost = sequence - expected;
                Counters::add(&self.node.counters.kv_batches_lost, lost);
                return Err(format!("{lost} batches from {expected} on are not replayed any more"));
            }
            _ => self.take(sequence, payload),
        }
        Ok(())
    }

    fn take(&mut self, sequence: u64, payload: &[u8]) {
        self.expected = Some(sequence.saturating_add(1));
        match decode(payload) {
            Some(Batch { events, undecodable }) => {
                self.undecodable(undecodable);
                self.apply(&events);
            }
            None => self.undecodable(1),
        }
    }

    fn undecodable(&self, count: u64) {
        Counters::add(&self.node.counters.kv_events_undecodable, count);
    }

    fn apply(&mut self, events: &[Event]) {
        let mut changes: Vec<Change> = Vec::new();
        for event in events {
            self.rehash.apply(event, &mut changes);
        }
        self.open();
        Counters::add(&self.node.counters.kv_blocks_unindexed, self.rehash.take_unindexed());
        if !changes.is_empty() {
            self.blocks.apply(changes);
        }
    }

    /// Asks the publisher for everything from `start` on and applies what is new.
    async fn replay_from(&mut self, start: u64) -> Result<(), String> {
        let endpoint = self.source.replay.clone().ok_or("it has no replay endpoint")?;
        let mut dealer = DealerSocket::new();
        let within = |what: &'static str| move |_| format!("{what} took longer than {} s", REPLAY_SILENCE.as_secs());
        timeout(REPLAY_SILENCE, dealer.connect(&endpoint))
            .await
            .map_err(within("connecting"))?
            .map_err(|error| format!("{endpoint}: {error}"))?;
        let mut request = ZmqMessage::from(Vec::new());
        request.push_back(start.to_be_bytes().to_vec().into());
        dealer.send(request).await.map_err(|error| format!("{endpoint}: {error}"))?;
        for _ in 0..REPLAY_BATCHES_MAX {
            let message = timeout(REPLAY_SILENCE, dealer.recv())
                .await
                .map_err(within("a replayed batch"))?
                .map_err(|error| format!("{endpoint}: {error}"))?;
            let Some((sequence, payload)) = frames(&message) else {
                return Err(format!("{endpoint}: a reply of {} frames", message.len()));
            };
            if sequence == REPLAY_END {
                return Ok(());
            }
            match self.expected {
                Some(expected) if sequence < expected => {}
                Some(expected) if sequence > expected => return Err(format!("batches from {expected} on are gone")),
                _ => self.take(sequence, payload),
            }
        }
        Err(format!("{endpoint}: a replay without end"))
    }
}

/// The last two frames: sequence and payload; before them a topic, and an empty one in replies.
fn frames(message: &ZmqMessage) -> Option<(u64, &[u8])> {
    let count = message.len();
    let sequence = message.get(count.checked_sub(2)?)?;
    Some((u64::from_be_bytes(sequence.as_ref().try_into().ok()?), message.get(count - 1)?))
}
