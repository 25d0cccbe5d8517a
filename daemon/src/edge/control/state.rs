//! The State stream: what the engines and the host do, as it changes; back come drains, the pace, and requests for a tokenizer.

use std::time::{Duration, Instant};

use domain::{AssetsDigest, EngineName};
use proto::convert::EngineReport;
use proto::v1::node_report_client::NodeReportClient;
use proto::v1::state_command::Kind as Command;
use proto::v1::state_update::Kind;
use proto::{limit, v1};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;
use tonic::transport::Channel;

use super::{Control, OUTBOX, hello};
use crate::node::{Counters, Delta, EngineStatus, Revision};
use crate::report::state::{Due, Pace};
use crate::run::Order;

/// Uploads under way to one scheduler at a time.
const UPLOADS_MAX: usize = 8;

/// Runs one stream until it breaks; `Ok` when the scheduler ended it in good order.
pub async fn stream(control: Control, mut client: NodeReportClient<Channel>, shutdown: CancellationToken) -> Result<(), String> {
    let (outbox, updates) = mpsc::channel(OUTBOX);
    let clock = Instant::now();
    let mut changes = control.node.changes();
    send(&outbox, Kind::Hello(hello(&control.node, false))).await?;
    let whole = control.node.delta(0);
    let snapshot = control.node.snapshot();
    let complete = v1::Changed {
        engines: snapshot.engines.iter().take(limit::ENGINES_MAX).map(wire).collect(),
        removed: Vec::new(),
        host: Some(snapshot.host.into()),
        complete: true,
        gpus: snapshot.gpus.iter().map(Into::into).collect(),
    };
    send(&outbox, Kind::Changed(complete)).await?;
    let mut pace = Pace::new(Revision { urgent: 0, ..whole.revision }, clock.elapsed());
    let mut commands =
        client.state(ReceiverStream::new(updates)).await.map_err(|status| status.message().to_owned())?.into_inner();
    let mut uploads: Vec<AbortOnDropHandle<()>> = Vec::new();
    loop {
        let current = *changes.borrow_and_update();
        let wait = match pace.due(current, clock.elapsed()) {
            Due::Changed { since } => {
                // The message is made when there is room for it: what changed while a slow scheduler was waited for goes in one.
                let permit = reserve(&outbox, &shutdown).await?;
                let delta = control.node.delta(since);
                let revision = delta.revision;
                if let Some(permit) = permit {
                    permit.send(update(Kind::Changed(changed(delta))));
                }
                pace.sent(Some(revision), clock.elapsed());
                continue;
            }
            Due::Heartbeat => {
                send(&outbox, Kind::Heartbeat(v1::Heartbeat {})).await?;
                pace.sent(None, clock.elapsed());
                continue;
            }
            Due::Wait { until } => until,
        };
        tokio::select! {
            command = commands.message() => match command {
                Err(status) => return Err(status.message().to_owned()),
                Ok(None) => return Ok(()),
                Ok(Some(v1::StateCommand { kind })) => match kind {
                    Some(Command::Interval(v1::Interval { interval_ms })) => {
                        pace.set_interval(Duration::from_millis(interval_ms.into()));
                    }
                    Some(Command::Drain(drain)) => obey(&control, drain),
                    Some(Command::WantAssets(wanted)) => {
                        uploads.retain(|upload| !upload.is_finished());
                        if uploads.len() < UPLOADS_MAX {
                            let task = tokio::spawn(upload(control.clone(), wanted.digest, outbox.clone()));
                            uploads.push(AbortOnDropHandle::new(task));
                        } else {
                            Counters::add(&control.node.counters.commands_refused, 1);
                        }
                    }
                    // A command of a newer scheduler.
                    None => Counters::add(&control.node.counters.commands_refused, 1),
                },
            },
            changed = changes.changed() => if changed.is_err() { return Ok(()) },
            () = tokio::time::sleep_until((clock + wait).into()) => {}
            () = shutdown.cancelled() => {
                // The last word: what changed, and that the engines go on without this agent.
                let delta = control.node.delta(0);
                let _gone = send(&outbox, Kind::Changed(changed(delta))).await;
                let _gone = send(&outbox, Kind::Hello(hello(&control.node, true))).await;
                drop(outbox);
                uploads.clear();
                // The stream is flushed when the other side has seen its end.
                let _flushed = tokio::time::timeout(Duration::from_millis(500), commands.message()).await;
                return Ok(());
            }
        }
    }
}

fn update(kind: Kind) -> v1::StateUpdate {
    v1::StateUpdate { kind: Some(kind) }
}

async fn send(outbox: &mpsc::Sender<v1::StateUpdate>, kind: Kind) -> Result<(), String> {
    outbox.send(update(kind)).await.map_err(|_| "the stream is gone".to_owned())
}

/// Room for one message; `None` when the agent ends meanwhile.
async fn reserve<'a>(
    outbox: &'a mpsc::Sender<v1::StateUpdate>,
    shutdown: &CancellationToken,
) -> Result<Option<mpsc::Permit<'a, v1::StateUpdate>>, String> {
    tokio::select! {
        permit = outbox.reserve() => permit.map(Some).map_err(|_| "the stream is gone".to_owned()),
        () = shutdown.cancelled() => Ok(None),
    }
}

fn changed(delta: Delta) -> v1::Changed {
    v1::Changed {
        engines: delta.engines.iter().take(limit::ENGINES_MAX).map(wire).collect(),
        removed: Vec::new(),
        host: delta.host.map(Into::into),
        complete: false,
        gpus: delta.gpus.iter().flatten().map(Into::into).collect(),
    }
}

fn wire(status: &EngineStatus) -> v1::Engine {
    let report = EngineReport {
        name: status.name.clone(),
        incarnation: status.incarnation,
        role: status.role,
        model: status.model.clone(),
        adapters: status.adapters.clone(),
        assets: status.assets,
        address: status.address,
        dp_rank: status.dp_rank,
        state: status.state,
        reason: status.reason.clone(),
        context_length: status.context_length,
        load: status.load.clone(),
        restarts: status.restarts,
        pid: status.pid,
        steps: status.steps,
        counts_in_flight: status.counts_in_flight,
        health: Some(status.health.clone()),
    };
    (&report).into()
}

fn obey(control: &Control, drain: v1::Drain) {
    let v1::Drain { engine, on } = drain;
    tracing::info!(engine, on, "a scheduler asks for a drain");
    if let Err(refused) = control.orders.send(&EngineName::new(&engine), Order::Drain(on)) {
        Counters::add(&control.node.counters.commands_refused, 1);
        tracing::warn!(engine, ?refused, "drain not obeyed");
    }
}

/// Sends a model's tokenizer and template, or why they cannot be had.
async fn upload(control: Control, digest: Vec<u8>, outbox: mpsc::Sender<v1::StateUpdate>) {
    let found = match <[u8; 32]>::try_from(digest.as_slice()) {
        Ok(bytes) => control.assets.find(AssetsDigest(bytes)).await,
        Err(_) => Err("a digest has 32 bytes".to_owned()),
    };
    let chunk = |offset: usize, total: usize, data, error| {
        Kind::Assets(v1::AssetsChunk { digest: digest.clone(), total_bytes: total as u64, offset: offset as u64, data, error })
    };
    match found {
        Err(why) => {
            tracing::warn!(why, "a scheduler asks for assets that are not here");
            let _gone = send(&outbox, chunk(0, 0, Default::default(), why)).await;
        }
        Ok(bytes) => {
            let mut offset = 0;
            while offset < bytes.len() {
                let end = (offset + limit::ASSETS_CHUNK_BYTES).min(bytes.len());
                let part = chunk(offset, bytes.len(), bytes.slice(offset..end), String::new());
                if send(&outbox, part).await.is_err() {
                    return;
                }
                offset = end;
            }
        }
    }
}
