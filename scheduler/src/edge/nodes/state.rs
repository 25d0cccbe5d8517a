//! One State stream.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Instant;

use domain::gpu::GpuReport;
use domain::id::NAME_BYTES_MAX;
use domain::node::NodeIdentity;
use domain::{AssetsDigest, EngineName, NodeId};
use proto::convert::EngineReport;
use proto::limit::{ENGINES_MAX, GPUS_MAX};
use proto::v1::{self, state_command, state_update};
use tonic::{Status, Streaming};

use super::assets::Assembly;
use super::{Commands, Nodes};
use crate::fleet::engine::{Facts, Report};
use crate::fleet::table::{Changes, ENGINES_PER_NODE_MAX, Session};

/// Of why an engine is in its state, so much is kept.
const REASON_CHARS_MAX: usize = 512;

const _: () = assert!(ENGINES_MAX == ENGINES_PER_NODE_MAX);

/// Reads the stream until it ends, is replaced, or the scheduler stops.
pub async fn serve(nodes: Arc<Nodes>, mut updates: Streaming<v1::StateUpdate>, commands: Commands) {
    let identity = match hello(&mut updates).await {
        Ok(identity) => identity,
        Err(status) => {
            nodes.metrics.messages_refused.inc();
            tracing::warn!(%status, "refused a node's state stream");
            // The agent may be gone already.
            let _ = commands.send(Err(status)).await;
            return;
        }
    };
    let node = identity.node.clone();
    let session = Session(nodes.fleet.next_stream());
    if let Err(refused) = nodes.fleet.connect(identity.clone(), session, Instant::now()) {
        tracing::warn!(%node, "{refused}");
        let _ = commands.send(Err(Status::resource_exhausted(refused.to_string()))).await;
        return;
    }
    tracing::info!(%node, agent = %identity.agent, version = %identity.agent_version, "node connected");
    nodes.connected().insert(node.clone(), (session, commands.clone()));
    let interval = v1::Interval { interval_ms: nodes.report_interval.as_millis().try_into().unwrap_or(u32::MAX) };
    send(&commands, state_command::Kind::Interval(interval));

    let mut stream = StateStream {
        nodes: nodes.clone(),
        node: node.clone(),
        session,
        commands,
        digests: HashSet::new(),
        asked: HashSet::new(),
        assembly: Assembly::default(),
        leaving: false,
    };
    let why = stream.read(&mut updates).await;
    let (leaving, replaced) = (stream.leaving, matches!(why, End::Replaced));
    nodes.fleet.disconnect(&node, session, leaving);
    stream.asked.iter().for_each(|digest| nodes.texts.release(digest));
    let mut connected = nodes.connected();
    if connected.get(&node).is_some_and(|(current, _)| *current == session) {
        connected.remove(&node);
    }
    drop(connected);
    if !leaving && !replaced {
        nodes.metrics.node_streams_lost.inc();
    }
    tracing::info!(%node, leaving, "node disconnected ({why}); its engines are routed on while their addresses answer");
}

async fn hello(updates: &mut Streaming<v1::StateUpdate>) -> Result<NodeIdentity, Status> {
    match updates.message().await? {
        Some(v1::StateUpdate { kind: Some(state_update::Kind::Hello(hello)) }) => {
            NodeIdentity::try_from(hello).map_err(|invalid| Status::invalid_argument(invalid.to_string()))
        }
        Some(_) => Err(Status::invalid_argument("the first message of a state stream is a hello")),
        None => Err(Status::cancelled("the stream ended before its hello")),
    }
}

fn send(commands: &Commands, kind: state_command::Kind) -> bool {
    commands.try_send(Ok(v1::StateCommand { kind: Some(kind) })).is_ok()
}

#[derive(Debug, thiserror::Error)]
enum End {
    #[error("the agent closed the stream")]
    Closed,
    #[error("{}", .0.message())]
    Lost(Status),
    #[error("a later stream took its place")]
    Replaced,
    #[error("the scheduler stops")]
    Shutdown,
}

struct StateStream {
    nodes: Arc<Nodes>,
    node: NodeId,
    session: Session,
    commands: Commands,
    /// Assets that the node's engines name.
    digests: HashSet<AssetsDigest>,
    /// Of these, the ones that this agent was asked for: it is not asked twice on one stream.
    asked: HashSet<AssetsDigest>,
    assembly: Assembly,
    leaving: bool,
}

impl StateStream {
    async fn read(&mut self, updates: &mut Streaming<v1::StateUpdate>) -> End {
        loop {
            let message = tokio::select! {
                message = updates.message() => message,
                () = self.nodes.shutdown.cancelled() => return End::Shutdown,
            };
            let kind = match message {
                Ok(Some(message)) => message.kind,
                Ok(None) => return End::Closed,
                Err(status) => return End::Lost(status),
            };
            let complete = matches!(&kind, Some(state_update::Kind::Changed(changed)) if changed.complete);
            let taken = match kind {
                Some(state_update::Kind::Changed(changed)) => {
                    let changes = self.changes(changed);
                    self.nodes.fleet.report(&self.node, self.session, changes, Instant::now())
                }
                Some(state_update::Kind::Heartbeat(v1::Heartbeat {})) => {
                    self.nodes.fleet.heard(&self.node, self.session, Instant::now())
                }
                Some(state_update::Kind::Hello(hello)) => {
                    self.leaving = hello.leaving;
                    self.nodes.fleet.heard(&self.node, self.session, Instant::now())
                }
                Some(state_update::Kind::Assets(chunk)) => {
                    self.take_assets(chunk);
                    Ok(())
                }
                // A kind that a later agent knows.
                None => Ok(()),
            };
            match taken {
                Ok(()) => {}
                Err(crate::fleet::table::Refused::Replaced(_)) => return End::Replaced,
                Err(refused) => {
                    self.nodes.metrics.messages_refused.inc();
                    tracing::warn!(node = %self.node, "{refused}");
                }
            }
            self.ask_for_assets();
            if complete {
                self.nodes.notice_learned();
            }
        }
    }

    fn changes(&mut self, changed: v1::Changed) -> Changes {
        let v1::Changed { engines, removed, host, complete, gpus } = changed;
        let mut changes = Changes { host: host.map(Into::into), complete, ..Changes::default() };
        for wire in engines.into_iter().take(ENGINES_MAX + 1) {
            let name = wire.name.clone();
            let names = std::iter::once(&wire.model).chain(&wire.adapters);
            if names.map(String::len).any(|bytes| bytes > NAME_BYTES_MAX) {
                self.leave_out(&name, "a model's or adapter's name is too long");
                continue;
            }
            match EngineReport::try_from(wire) {
                Ok(report) => {
                    self.digests.extend(report.assets);
                    changes.engines.push(taken_apart(report));
                }
                Err(invalid) => self.leave_out(&name, invalid),
            }
        }
        if !gpus.is_empty() {
            let taken = gpus.into_iter().take(GPUS_MAX).map(GpuReport::try_from);
            match taken.collect() {
                Ok(gpus) => changes.gpus = Some(gpus),
                Err(invalid) => self.leave_out("", invalid),
            }
        }
        changes.removed = removed.iter().take(ENGINES_MAX).map(EngineName::new).collect();
        changes
    }

    fn leave_out(&self, engine: &str, why: impl std::fmt::Display) {
        self.nodes.metrics.messages_refused.inc();
        tracing::warn!(node = %self.node, engine, "left out an engine's report: {why}");
    }

    fn ask_for_assets(&mut self) {
        for digest in &self.digests {
            if !self.asked.contains(digest) && self.nodes.texts.claim(*digest, Instant::now()) {
                let want = v1::WantAssets { digest: digest.0.to_vec() };
                if !send(&self.commands, state_command::Kind::WantAssets(want)) {
                    self.nodes.texts.release(digest);
                    continue;
                }
                self.asked.insert(*digest);
                tracing::info!(node = %self.node, %digest, "asked for a tokenizer and chat template");
            }
        }
    }

    fn take_assets(&mut self, chunk: v1::AssetsChunk) {
        let asked = |digest: &AssetsDigest| self.asked.contains(digest) && self.nodes.texts.ready(digest).is_none();
        match self.assembly.add(chunk, asked) {
            Ok(None) => {}
            Ok(Some((digest, bytes))) => {
                let (nodes, node) = (self.nodes.clone(), self.node.clone());
                // A large vocabulary takes a second to build.
                tokio::task::spawn_blocking(move || super::assets::install(&nodes, &node, digest, &bytes));
            }
            Err(refused) => {
                self.nodes.metrics.assets_refused.inc();
                tracing::warn!(node = %self.node, "refused an upload of a tokenizer: {refused}");
                if let Some(digest) = refused.digest {
                    self.nodes.texts.fail(digest, &refused.to_string());
                }
            }
        }
    }
}

/// A wire report in the scheduler's own terms.
fn taken_apart(report: EngineReport) -> (EngineName, Report) {
    let EngineReport {
        name,
        incarnation,
        role,
        model,
        adapters,
        assets,
        address,
        dp_rank,
        state,
        reason,
        context_length,
        load,
        restarts,
        pid,
        steps,
        counts_in_flight,
        health,
    } = report;
    let facts = Facts {
        incarnation,
        role,
        model: model.into(),
        adapters: adapters.into_iter().map(Into::into).collect(),
        assets,
        address,
        dp_rank,
        context_length,
        pid,
        counts_in_flight,
    };
    let reason = reason.chars().take(REASON_CHARS_MAX).collect::<String>().into();
    (name, Report { facts, state, reason, load, restarts, steps, health: health.unwrap_or_default() })
}
