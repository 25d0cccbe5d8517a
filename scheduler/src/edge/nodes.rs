//! The node streams: what agents report, and what this replica asks of them.
//!
//! Each stream is one task. A message that cannot be meant is counted, logged with the node's name and left out; it costs no other
//! engine or node anything.

mod assets;
mod blocks;
mod state;

use std::collections::HashMap;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use domain::{EngineId, NodeId};
use futures_util::Stream;
use proto::limit::GRPC_MESSAGE_BYTES_MAX;
use proto::v1;
use proto::v1::node_report_server::{NodeReport, NodeReportServer};
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream};
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status, Streaming};

use super::metrics::Metrics;
use crate::fleet::table::Session;
use crate::fleet::{Fleet, Learned};
use crate::text::Texts;

/// Commands that wait for one agent.
const COMMANDS_MAX: usize = 64;
/// A connection whose peer is gone without a word is noticed after these two together.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(5);
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(5);

type Commands = mpsc::Sender<Result<v1::StateCommand, Status>>;

pub struct Nodes {
    pub fleet: Arc<Fleet>,
    pub texts: Arc<Texts>,
    pub metrics: Arc<Metrics>,
    /// The least time between two updates that this replica wants.
    pub report_interval: Duration,
    pub shutdown: CancellationToken,
    connected: Mutex<HashMap<NodeId, (Session, Commands)>>,
    /// Nodes of which all is known, if that is true of every connected one.
    told: Mutex<Option<usize>>,
    learned_once: AtomicBool,
}

/// A command that did not reach its agent.
#[derive(Debug, thiserror::Error)]
pub enum NotSent {
    #[error("no engine {0} is known")]
    Unknown(EngineId),
    #[error("node {0} is not connected")]
    NotConnected(NodeId),
    #[error("node {0} has too many commands waiting")]
    Busy(NodeId),
}

impl Nodes {
    pub fn new(
        fleet: Arc<Fleet>,
        texts: Arc<Texts>,
        metrics: Arc<Metrics>,
        report_interval: Duration,
        shutdown: CancellationToken,
    ) -> Self {
        Self {
            fleet,
            texts,
            metrics,
            report_interval,
            shutdown,
            connected: Mutex::default(),
            told: Mutex::default(),
            learned_once: AtomicBool::new(false),
        }
    }

    fn connected(&self) -> MutexGuard<'_, HashMap<NodeId, (Session, Commands)>> {
        self.connected.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Asks an engine's agent to drain it, or to end the drain.
    pub fn drain(&self, id: &EngineId, on: bool) -> Result<(), NotSent> {
        if !self.fleet.roster().engines().iter().any(|engine| engine.id == *id) {
            return Err(NotSent::Unknown(id.clone()));
        }
        let command = v1::state_command::Kind::Drain(v1::Drain { engine: id.name.to_string(), on });
        let connected = self.connected();
        let (_, commands) = connected.get(&id.node).ok_or_else(|| NotSent::NotConnected(id.node.clone()))?;
        let sent = commands.try_send(Ok(v1::StateCommand { kind: Some(command) }));
        sent.map_err(|_| NotSent::Busy(id.node.clone()))
    }

    /// Notices when all that is connected is known, and says so in the log.
    fn notice_learned(&self) {
        let learned = self.fleet.learned(Instant::now());
        let now = learned.is_all().then_some(learned.learned);
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        if now != *told && now.is_some() {
            let Learned { learned: nodes, engines, blocks, .. } = learned;
            tracing::info!("fleet and index learned: {nodes} nodes, {engines} engines, {blocks} blocks");
            self.learned_once.store(true, Ordering::Relaxed);
        }
        *told = now;
    }

    /// Whether the fleet was known completely at some moment: from then on this replica is ready, because it fails open.
    pub fn has_learned(&self) -> bool {
        self.notice_learned();
        self.learned_once.load(Ordering::Relaxed)
    }

    /// Serves until the shutdown.
    pub async fn run(self: Arc<Self>, listener: TcpListener) -> Result<(), tonic::transport::Error> {
        let shutdown = self.shutdown.clone();
        let service = NodeReportServer::new(Service(self))
            .max_decoding_message_size(GRPC_MESSAGE_BYTES_MAX)
            .max_encoding_message_size(GRPC_MESSAGE_BYTES_MAX);
        tonic::transport::Server::builder()
            .tcp_nodelay(true)
            .http2_keepalive_interval(Some(KEEPALIVE_INTERVAL))
            .http2_keepalive_timeout(Some(KEEPALIVE_TIMEOUT))
            .add_service(service)
            .serve_with_incoming_shutdown(TcpListenerStream::new(listener), shutdown.cancelled_owned())
            .await
    }
}

struct Service(Arc<Nodes>);

type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

#[tonic::async_trait]
impl NodeReport for Service {
    type StateStream = Answers<v1::StateCommand>;
    type BlocksStream = Answers<v1::BlocksCommand>;

    async fn state(&self, request: Request<Streaming<v1::StateUpdate>>) -> Result<Response<Self::StateStream>, Status> {
        let (commands, answers) = mpsc::channel(COMMANDS_MAX);
        tokio::spawn(state::serve(self.0.clone(), request.into_inner(), commands));
        Ok(Response::new(Box::pin(ReceiverStream::new(answers))))
    }

    async fn blocks(&self, request: Request<Streaming<v1::BlocksUpdate>>) -> Result<Response<Self::BlocksStream>, Status> {
        let (commands, answers) = mpsc::channel(COMMANDS_MAX);
        tokio::spawn(blocks::serve(self.0.clone(), request.into_inner(), commands));
        Ok(Response::new(Box::pin(ReceiverStream::new(answers))))
    }
}
