//! Composes the scheduler: binds its three ports, starts what serves them, and ends them in order.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use domain::{Fault, FaultKind, Incarnation, ReplicaId};
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

use crate::choose::Chooser;
use crate::config::Config;
use crate::edge::admin::Admin;
use crate::edge::gateway::{Gateway, Settings};
use crate::edge::metrics::Metrics;
use crate::edge::nodes::Nodes;
use crate::edge::probe;
use crate::fleet::Fleet;
use crate::text::Texts;

const HOUSEKEEPING: Duration = Duration::from_millis(250);

/// The addresses as bound: port 0 in the configuration has become a real one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bound {
    /// OpenAI's API.
    pub gateway: SocketAddr,
    /// Node agents' streams, gRPC.
    pub nodes: SocketAddr,
    /// Metrics, health, explanations.
    pub admin: SocketAddr,
}

/// A scheduler that serves. Dropping it ends it at once, whatever is open.
pub struct Running {
    pub bound: Bound,
    tasks: JoinSet<()>,
}

impl Running {
    /// Waits until everything has ended: after the shutdown was asked for, when open requests are answered or the drain timeout is over.
    pub async fn stopped(mut self) {
        while self.tasks.join_next().await.is_some() {}
    }
}

/// Starts a scheduler. It serves when this returns, and ends after `shutdown` is cancelled.
pub async fn run(config: Config, shutdown: CancellationToken) -> Result<Running, Fault> {
    let (gateway_listener, gateway_address) = bind(config.listen.gateway, "listen.gateway").await?;
    let (nodes_listener, nodes_address) = bind(config.listen.nodes, "listen.nodes").await?;
    let (admin_listener, admin_address) = bind(config.listen.admin, "listen.admin").await?;

    let replica = ReplicaId { name: config.name.as_str().into(), incarnation: Incarnation(rand::random()) };
    let fleet = Arc::new(Fleet::new(replica.clone()));
    let texts = Arc::new(Texts::default());
    let chooser = Arc::new(Chooser { fleet: fleet.clone(), texts: texts.clone(), policy: config.policy });
    let metrics = Metrics::new(fleet.clone(), texts.clone());
    let metrics = Arc::new(metrics.map_err(|error| {
        Fault::new(FaultKind::Internal, "cannot register the scheduler's metrics", "report this as a defect").because(error)
    })?);
    let nodes = Arc::new(Nodes::new(fleet.clone(), texts.clone(), metrics.clone(), config.report_interval, shutdown.clone()));
    let settings = Settings {
        body_bytes_max: config.body_bytes_max,
        connect_timeout: config.connect_timeout,
        debug_headers: config.debug_headers,
        drain_timeout: config.drain_timeout,
    };
    let started_unix_s = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    let gateway = Arc::new(Gateway::new(chooser.clone(), metrics.clone(), settings, started_unix_s));
    let admin = Admin { chooser, nodes: nodes.clone(), metrics: metrics.clone(), body_bytes_max: config.body_bytes_max };

    let mut tasks = JoinSet::new();
    tasks.spawn(gateway.run(gateway_listener, shutdown.clone()));
    tasks.spawn(async move {
        if let Err(error) = nodes.run(nodes_listener).await {
            tracing::error!(%error, "the node streams' server failed");
        }
    });
    tasks.spawn({
        let shutdown = shutdown.clone();
        async move {
            if let Err(error) = admin.run(admin_listener, shutdown).await {
                tracing::error!(%error, "the admin server failed");
            }
        }
    });
    tasks.spawn(probe::run(fleet.clone(), metrics, shutdown.clone()));
    tasks.spawn(keep_house(fleet, texts, shutdown));
    let bound = Bound { gateway: gateway_address, nodes: nodes_address, admin: admin_address };
    tracing::info!(%replica, gateway = %bound.gateway, nodes = %bound.nodes, admin = %bound.admin, "scheduler serves");
    Ok(Running { bound, tasks })
}

/// Notices nodes that fell silent, and clears away what nobody looks up any more.
async fn keep_house(fleet: Arc<Fleet>, texts: Arc<Texts>, shutdown: CancellationToken) {
    let mut ticks = tokio::time::interval(HOUSEKEEPING);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = ticks.tick() => {}
            () = shutdown.cancelled() => return,
        }
        fleet.age(Instant::now());
        for (_, partition) in fleet.index.partitions() {
            while partition.sweep() {
                tokio::task::yield_now().await;
            }
        }
        let roster = fleet.roster();
        texts.keep(|digest| roster.engines().iter().any(|engine| engine.facts.assets == Some(*digest)));
    }
}

async fn bind(address: SocketAddr, key: &str) -> Result<(TcpListener, SocketAddr), Fault> {
    let bound = async {
        let listener = TcpListener::bind(address).await?;
        let bound = listener.local_addr()?;
        Ok::<_, std::io::Error>((listener, bound))
    };
    bound.await.map_err(|error| {
        let action = format!("free the port or set `{key}` to another one");
        Fault::new(FaultKind::Address, format!("cannot listen on {address}"), action).because(error)
    })
}
