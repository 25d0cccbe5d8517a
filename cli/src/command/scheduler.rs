//! `trackside scheduler`: the fleet table, the KV index, the decision and the gateway.

use std::net::SocketAddr;

use domain::Fault;
use scheduler::{Bound, Config};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use crate::args::SchedulerArgs;

pub fn run(args: SchedulerArgs) -> Result<(), Fault> {
    let mut config = args.config.as_deref().map_or_else(|| Ok(Config::default()), Config::load)?;
    if args.any_port {
        let listen = &mut config.listen;
        [&mut listen.gateway, &mut listen.nodes, &mut listen.admin]
            .into_iter()
            .for_each(|address: &mut SocketAddr| address.set_port(0));
    }
    super::runtime(super::proxy_workers())?.block_on(async {
        let shutdown = CancellationToken::new();
        let asked = super::shutdown()?;
        let running = scheduler::run(config, shutdown.clone()).await?;
        super::announce(&bound(&running.bound));
        tokio::spawn(async move {
            asked.await;
            shutdown.cancel();
        });
        running.stopped().await;
        Ok(())
    })
}

/// The scheduler's part of the line that says what was bound.
pub fn bound(bound: &Bound) -> Value {
    json!({ "gateway": bound.gateway, "nodes": bound.nodes, "admin": bound.admin, "pid": std::process::id() })
}
