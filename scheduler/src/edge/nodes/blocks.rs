//! One Blocks stream.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use domain::block::BLOCK_TOKENS_MAX;
use domain::id::NAME_BYTES_MAX;
use domain::node::NodeIdentity;
use domain::{BlockKey, EngineId, EngineName, Incarnation, NodeId};
use prost::Message as _;
use proto::limit::KEYS_PER_MESSAGE_MAX;
use proto::v1::{self, block_event, blocks_command};
use tokio::sync::mpsc;
use tonic::{Status, Streaming};

use super::Nodes;
use crate::fleet::index::{PartitionKey, Tier};
use crate::fleet::log::{Event, Outcome, Update};

/// Bytes of snapshots under way to this replica from one node.
const CREDIT_BYTES: u64 = 4 << 20;
/// The two streams of a node race; this one waits so long for the other's hello.
const STATE_AWAITED: Duration = Duration::from_secs(10);
const STATE_ASKED_EVERY: Duration = Duration::from_millis(10);

type Commands = mpsc::Sender<Result<v1::BlocksCommand, Status>>;

/// Reads the stream until it ends or the scheduler stops. What it said stays: a lost stream costs no knowledge.
pub async fn serve(nodes: Arc<Nodes>, mut updates: Streaming<v1::BlocksUpdate>, commands: Commands) {
    let stream = nodes.fleet.next_stream();
    let mut reader: Option<Reader> = None;
    send(&commands, blocks_command::Kind::CreditBytes(CREDIT_BYTES)).await;
    loop {
        let message = tokio::select! {
            message = updates.message() => message,
            () = nodes.shutdown.cancelled() => return,
        };
        let update = match message {
            Ok(Some(update)) => update,
            Ok(None) => break,
            Err(status) => {
                tracing::info!(node = ?reader.map(|reader| reader.node), reason = status.message(), "block stream lost");
                return;
            }
        };
        let reader = match &mut reader {
            Some(reader) => reader,
            None => match Reader::new(&nodes, stream, &update).await {
                Ok(new) => reader.insert(new),
                Err(status) => {
                    nodes.metrics.messages_refused.inc();
                    tracing::warn!(%status, "refused a node's block stream");
                    let _ = commands.send(Err(status)).await;
                    return;
                }
            },
        };
        reader.take(update, &commands).await;
    }
    tracing::info!(node = ?reader.map(|reader| reader.node), "block stream closed");
}

async fn send(commands: &Commands, kind: blocks_command::Kind) {
    // An agent that is gone ends the stream by itself.
    let _ = commands.send(Ok(v1::BlocksCommand { kind: Some(kind) })).await;
}

struct Reader {
    nodes: Arc<Nodes>,
    node: NodeId,
    stream: u64,
    /// Engines whose snapshot is under way: its bytes are given back as credit.
    snapshots: HashSet<EngineName>,
}

impl Reader {
    async fn new(nodes: &Arc<Nodes>, stream: u64, first: &v1::BlocksUpdate) -> Result<Self, Status> {
        let hello =
            first.hello.clone().ok_or_else(|| Status::invalid_argument("the first message of a block stream has a hello"))?;
        let identity = NodeIdentity::try_from(hello).map_err(|invalid| Status::invalid_argument(invalid.to_string()))?;
        let node = identity.node;
        let began = Instant::now();
        let is_known = || nodes.fleet.knows(&node);
        while !is_known() {
            if began.elapsed() > STATE_AWAITED {
                return Err(Status::failed_precondition(format!("node {node} has no state stream here")));
            }
            tokio::time::sleep(STATE_ASKED_EVERY).await;
        }
        Ok(Self { nodes: nodes.clone(), node, stream, snapshots: HashSet::new() })
    }

    async fn take(&mut self, update: v1::BlocksUpdate, commands: &Commands) {
        if update.engine.is_empty() {
            // A hello on its own.
            return;
        }
        let bytes = update.encoded_len() as u64;
        let name = EngineName::new(&update.engine);
        let (begin, end) = (update.snapshot_begin, update.snapshot_end);
        let is_snapshot = begin || self.snapshots.contains(&name);
        let outcome = self.apply(&name, update);
        match outcome {
            Ok(Outcome::Applied { dropped }) => self.nodes.metrics.blocks_dropped.inc_by(dropped as u64),
            Ok(Outcome::Ignored) => self.nodes.metrics.log_ignored.inc(),
            Ok(Outcome::Gap) => {
                self.nodes.metrics.log_gaps.inc();
                tracing::info!(node = %self.node, engine = %name, "block log has a gap; asked for its list again");
                send(commands, blocks_command::Kind::ResyncEngine(name.to_string())).await;
            }
            Err(why) => {
                self.nodes.metrics.messages_refused.inc();
                tracing::warn!(node = %self.node, engine = %name, "left out a block message: {why}");
            }
        }
        if begin && self.snapshots.len() < crate::fleet::table::ENGINES_PER_NODE_MAX {
            self.snapshots.insert(name.clone());
        }
        if end {
            self.snapshots.remove(&name);
            self.nodes.notice_learned();
        }
        if is_snapshot {
            send(commands, blocks_command::Kind::CreditBytes(bytes)).await;
        }
    }

    fn apply(&self, name: &EngineName, update: v1::BlocksUpdate) -> Result<Outcome, String> {
        let update = read(self.stream, update)?;
        let id = EngineId { node: self.node.clone(), name: name.clone() };
        let log = self.nodes.fleet.log(&id).ok_or("the node has too many engines, or is gone")?;
        log.apply(&self.nodes.fleet.index, update).map_err(|error| error.to_string())
    }
}

/// A wire message in the scheduler's own terms.
fn read(stream: u64, update: v1::BlocksUpdate) -> Result<Update, String> {
    let v1::BlocksUpdate { hello: _, engine, incarnation, sequence, model, block_tokens, snapshot_begin, snapshot_end, events } =
        update;
    for (what, text) in [("engine", &engine), ("model", &model)] {
        if text.is_empty() || text.len() > NAME_BYTES_MAX {
            return Err(format!("{what}: a name has 1 to {NAME_BYTES_MAX} bytes, this one {}", text.len()));
        }
    }
    let block_tokens = block_tokens as usize;
    if !(1..=BLOCK_TOKENS_MAX).contains(&block_tokens) {
        return Err(format!("block_tokens: a block has 1 to {BLOCK_TOKENS_MAX} tokens, this one {block_tokens}"));
    }
    let mut keys_left = KEYS_PER_MESSAGE_MAX;
    let events: Result<Vec<Event>, String> =
        events.into_iter().filter_map(|event| event.kind).map(|kind| read_event(kind, &mut keys_left)).collect();
    Ok(Update {
        stream,
        sequence,
        incarnation: Incarnation(incarnation),
        partition: PartitionKey { base: model.into(), block_tokens },
        snapshot_begin,
        snapshot_end,
        events: events?,
    })
}

fn read_event(kind: block_event::Kind, keys_left: &mut usize) -> Result<Event, String> {
    let mut keys = |keys: Vec<u64>| {
        *keys_left = keys_left
            .checked_sub(keys.len())
            .ok_or_else(|| format!("events: one message has at most {KEYS_PER_MESSAGE_MAX} keys"))?;
        Ok::<_, String>(keys.into_iter().map(BlockKey).collect())
    };
    Ok(match kind {
        block_event::Kind::Stored(v1::Stored { keys: stored, tier }) => {
            Event::Stored { keys: keys(stored)?, tier: Tier::named(&tier) }
        }
        block_event::Kind::Removed(v1::Removed { keys: removed, tier }) => {
            Event::Removed { keys: keys(removed)?, tier: Tier::named(&tier) }
        }
        block_event::Kind::Cleared(v1::Cleared {}) => Event::Cleared,
    })
}
