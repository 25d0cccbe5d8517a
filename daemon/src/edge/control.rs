//! The two streams to each scheduler replica, each on a connection of its own: state never waits behind blocks, and one dead
//! scheduler never holds up another.

mod blocks;
mod state;

use std::sync::Arc;
use std::time::Duration;

use proto::limit::GRPC_MESSAGE_BYTES_MAX;
use proto::v1;
use proto::v1::node_report_client::NodeReportClient;
use rand::Rng;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tonic::transport::{Channel, Endpoint};

use crate::assets::Shelf;
use crate::node::{Counters, Node};
use crate::report::blocks::Blocks;
use crate::run::Orders;

/// First and longest delay before a connection is tried again; ± a fifth, so that a fleet does not come back as one.
const RETRY_FIRST: Duration = Duration::from_millis(100);
const RETRY_MAX: Duration = Duration::from_secs(5);
const CONNECT_WITHIN: Duration = Duration::from_secs(5);
/// A peer that answers no ping for so long is gone.
const PING_EVERY: Duration = Duration::from_secs(5);
const PING_WITHIN: Duration = Duration::from_secs(5);
/// Messages under way to one scheduler.
const OUTBOX: usize = 4;

/// What the streams tell of, and whom the commands go to.
#[derive(Clone)]
pub struct Control {
    pub node: Arc<Node>,
    pub blocks: Blocks,
    pub orders: Orders,
    pub assets: Arc<Shelf>,
}

/// Starts both streams to every scheduler; they end with `shutdown`, after a good-bye.
pub fn start(control: &Control, schedulers: &[String], shutdown: &CancellationToken) -> JoinSet<()> {
    let mut tasks = JoinSet::new();
    for scheduler in schedulers {
        let (state, blocks) = (control.clone(), control.clone());
        tasks.spawn(keep(scheduler.clone(), "state", control.node.clone(), shutdown.clone(), move |client, shutdown| {
            state::stream(state.clone(), client, shutdown)
        }));
        tasks.spawn(keep(scheduler.clone(), "blocks", control.node.clone(), shutdown.clone(), move |client, shutdown| {
            blocks::stream(blocks.clone(), client, shutdown)
        }));
    }
    tasks
}

/// Keeps one stream to one scheduler, for ever.
async fn keep<F, S>(scheduler: String, what: &'static str, node: Arc<Node>, shutdown: CancellationToken, stream: F)
where
    F: Fn(NodeReportClient<Channel>, CancellationToken) -> S,
    S: Future<Output = Result<(), String>>,
{
    let mut delay = RETRY_FIRST;
    let mut told = false;
    while !shutdown.is_cancelled() {
        let connected = tokio::select! {
            connected = connect(&scheduler) => connected,
            () = shutdown.cancelled() => return,
        };
        let why = match connected {
            Err(why) => why,
            Ok(client) => {
                tracing::info!(scheduler, stream = what, "connected");
                (delay, told) = (RETRY_FIRST, false);
                match stream(client, shutdown.clone()).await {
                    Ok(()) => "it ended the stream".into(),
                    Err(why) => why,
                }
            }
        };
        if shutdown.is_cancelled() {
            return;
        }
        Counters::add(&node.counters.stream_reconnects, 1);
        if !std::mem::replace(&mut told, true) {
            tracing::warn!(scheduler, stream = what, why, "not connected; tried again until it is");
        }
        let jittered = delay.mul_f64(rand::rng().random_range(0.8..=1.2));
        tokio::select! {
            () = tokio::time::sleep(jittered) => {}
            () = shutdown.cancelled() => return,
        }
        delay = (delay * 2).min(RETRY_MAX);
    }
}

async fn connect(scheduler: &str) -> Result<NodeReportClient<Channel>, String> {
    let endpoint = Endpoint::from_shared(format!("http://{scheduler}")).map_err(|error| error.to_string())?;
    let endpoint = endpoint
        .connect_timeout(CONNECT_WITHIN)
        .tcp_nodelay(true)
        .http2_keep_alive_interval(PING_EVERY)
        .keep_alive_timeout(PING_WITHIN)
        .keep_alive_while_idle(true);
    let channel = endpoint.connect().await.map_err(|error| {
        let cause = std::error::Error::source(&error).map(ToString::to_string);
        cause.unwrap_or_else(|| error.to_string())
    })?;
    Ok(NodeReportClient::new(channel)
        .max_decoding_message_size(GRPC_MESSAGE_BYTES_MAX)
        .max_encoding_message_size(GRPC_MESSAGE_BYTES_MAX))
}

fn hello(node: &Node, leaving: bool) -> v1::Hello {
    v1::Hello { leaving, ..v1::Hello::from(&node.identity) }
}
