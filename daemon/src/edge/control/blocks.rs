//! The Blocks stream: each engine's log from where this stream stands, snapshots under the scheduler's credit.

use std::collections::BTreeMap;
use std::time::Duration;

use domain::EngineName;
use prost::Message as _;
use proto::limit::KEYS_PER_MESSAGE_MAX;
use proto::v1;
use proto::v1::blocks_command::Kind as Command;
use proto::v1::node_report_client::NodeReportClient;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::transport::Channel;

use super::{Control, OUTBOX, hello};
use crate::attach::rehash::Change;
use crate::node::Counters;
use crate::report::blocks::{Message, Read, Reader};

/// Changes wait at most this long for others to travel with.
const BATCH: Duration = Duration::from_millis(5);
/// Bytes of a snapshot message besides its keys, generously.
const OVERHEAD_BYTES: u64 = 4096;

/// Runs one stream until it breaks; `Ok` when the scheduler ended it in good order.
pub async fn stream(control: Control, mut client: NodeReportClient<Channel>, shutdown: CancellationToken) -> Result<(), String> {
    let (outbox, updates) = mpsc::channel(OUTBOX);
    let gone = |_| "the stream is gone".to_owned();
    let first = v1::BlocksUpdate { hello: Some(hello(&control.node, false)), ..Default::default() };
    outbox.send(first).await.map_err(gone)?;
    let mut commands =
        client.blocks(ReceiverStream::new(updates)).await.map_err(|status| status.message().to_owned())?.into_inner();
    let mut changes = control.blocks.changes();
    let mut readers: BTreeMap<EngineName, Reader> = BTreeMap::new();
    let mut credit: u64 = 0;
    loop {
        changes.borrow_and_update();
        for log in control.blocks.logs() {
            let reader = readers.entry(log.engine.clone()).or_default();
            loop {
                let permit = tokio::select! {
                    permit = outbox.reserve() => permit.map_err(|_| "the stream is gone".to_owned())?,
                    () = shutdown.cancelled() => return Ok(()),
                };
                let mut overran = false;
                let message = match log.read(reader, KEYS_PER_MESSAGE_MAX, snapshot_keys(credit), &mut overran) {
                    Read::Message(message) => message,
                    Read::UpToDate | Read::NeedsCredit => break,
                };
                if overran {
                    Counters::add(&control.node.counters.blocks_resyncs, 1);
                }
                let snapshot = message.snapshot_begin || message.snapshot_end || reader.in_snapshot();
                let update = wire(log.engine.as_str(), message);
                if snapshot {
                    credit = credit.saturating_sub(update.encoded_len() as u64);
                }
                permit.send(update);
            }
        }
        tokio::select! {
            command = commands.message() => match command {
                Err(status) => return Err(status.message().to_owned()),
                Ok(None) => return Ok(()),
                Ok(Some(v1::BlocksCommand { kind })) => match kind {
                    Some(Command::CreditBytes(bytes)) => credit = credit.saturating_add(bytes),
                    Some(Command::ResyncEngine(engine)) => match readers.get_mut(&EngineName::new(&engine)) {
                        Some(reader) => reader.resync(),
                        None => Counters::add(&control.node.counters.commands_refused, 1),
                    },
                    None => Counters::add(&control.node.counters.commands_refused, 1),
                },
            },
            changed = changes.changed() => {
                if changed.is_err() {
                    return Ok(());
                }
                tokio::time::sleep(BATCH).await;
            }
            () = shutdown.cancelled() => return Ok(()),
        }
    }
}

/// Keys of a snapshot that the credit pays for.
fn snapshot_keys(credit: u64) -> usize {
    let keys = usize::try_from(credit.saturating_sub(OVERHEAD_BYTES) / 8).unwrap_or(usize::MAX);
    keys.min(KEYS_PER_MESSAGE_MAX)
}

fn wire(engine: &str, message: Message) -> v1::BlocksUpdate {
    let Message { partition, sequence, snapshot_begin, snapshot_end, events } = message;
    v1::BlocksUpdate {
        hello: None,
        engine: engine.to_owned(),
        incarnation: partition.incarnation.0,
        sequence,
        model: partition.model.to_string(),
        block_tokens: partition.block_tokens,
        snapshot_begin,
        snapshot_end,
        events: events.into_iter().map(event).collect(),
    }
}

fn event(change: Change) -> v1::BlockEvent {
    use v1::block_event::Kind;
    let keys = |keys: Vec<domain::BlockKey>| keys.into_iter().map(|key| key.0).collect();
    let kind = match change {
        Change::Stored { keys: stored, tier } => Kind::Stored(v1::Stored { keys: keys(stored), tier: tier.as_str().into() }),
        Change::Removed { keys: removed, tier } => Kind::Removed(v1::Removed { keys: keys(removed), tier: tier.as_str().into() }),
        Change::Cleared => Kind::Cleared(v1::Cleared {}),
    };
    v1::BlockEvent { kind: Some(kind) }
}
