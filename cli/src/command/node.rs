//! `trackside node`: the agent of one machine.

use std::path::Path;

use daemon::config::{Config, SlotKind};
use domain::Fault;
use serde_json::json;
use tokio_util::sync::CancellationToken;

use crate::args::{self, NodeArgs};
use crate::builtin;

/// Everything the agent does is waiting; its admin port has a thread of its own.
const WORKERS: usize = 1;

pub fn run(args: NodeArgs) -> Result<(), Fault> {
    let mut config = Config::read(&args.config)?;
    if let Some(state_dir) = args.state_dir {
        config.state_dir = state_dir;
    }
    if let Some(on_stop) = args.on_stop {
        config.on_stop = match on_stop {
            args::OnStop::Leave => daemon::config::OnStop::Leave,
            args::OnStop::Drain => daemon::config::OnStop::Drain,
        };
    }
    if args.any_port {
        config.listen.set_port(0);
    }
    unpack_builtin(&mut config)?;
    // While there is one thread: engines must not inherit the right to load programs into the kernel.
    if let Err(error) = ebpf::keep_rights_from_children() {
        tracing::warn!(%error, "the engines started by this agent inherit its capabilities");
    }
    super::runtime(WORKERS)?.block_on(async {
        let shutdown = CancellationToken::new();
        let asked = super::shutdown()?;
        let running = daemon::run(config, shutdown.clone()).await?;
        super::announce(&json!({ "node": running.bound.node, "admin": running.bound.admin, "pid": std::process::id() }));
        tokio::spawn(async move {
            asked.await;
            shutdown.cancel();
        });
        running.ended().await;
        Ok(())
    })
}

/// The agent hands tokenizers to schedulers: the built-in model's is in this binary, that of a model on the Hub is fetched with it.
pub fn unpack_builtin(config: &mut Config) -> Result<(), Fault> {
    for slot in &mut config.slots {
        let SlotKind::Native { model, .. } = &slot.kind else { continue };
        if model == builtin::NAME {
            slot.model_files = Some(builtin::resolve(builtin::NAME)?);
        } else if builtin::on_hub(model).is_some() && slot.model_files.as_deref() == Some(Path::new(model)) {
            // Without it the engine cannot start either, and says so itself; the other slots can.
            slot.model_files = builtin::resolve(model).inspect_err(|fault| tracing::error!("{}: {fault}", slot.name)).ok();
        }
    }
    Ok(())
}
