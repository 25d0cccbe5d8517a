//! One file per subcommand: from what was written to what is run.

pub mod engine;
pub mod explain;
pub mod node;
pub mod scheduler;
pub mod status;
pub mod up;

use std::future::Future;
use std::io::Write;

use domain::{Fault, FaultKind};
use tokio::runtime::Runtime;
use tokio::signal::unix::{SignalKind, signal};

/// Workers for what proxies and talks to a fleet: half of the cores. The other half is for who is talked to, and on a small machine a
/// task that stays on its thread is answered sooner than one that wakes another.
fn proxy_workers() -> usize {
    (std::thread::available_parallelism().map_or(1, usize::from) / 2).clamp(1, 8)
}

/// A runtime of this many workers. Everything that serves is bound by I/O: what computes has threads of its own.
fn runtime(workers: usize) -> Result<Runtime, Fault> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(workers).enable_all().build();
    runtime.map_err(|error| {
        Fault::new(FaultKind::Internal, "cannot start threads", "raise the limit on processes (ulimit -u)").because(error)
    })
}

/// Resolves at the first SIGTERM or SIGINT; the second one ends the process at once.
fn shutdown() -> Result<impl Future<Output = ()> + Send + 'static, Fault> {
    let listen = |kind| {
        let heard = signal(kind);
        heard.map_err(|error| Fault::new(FaultKind::Internal, "cannot listen for signals", "report this").because(error))
    };
    let (mut terminate, mut interrupt) = (listen(SignalKind::terminate())?, listen(SignalKind::interrupt())?);
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        tokio::spawn(async move {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
            crate::log::tell("told twice, ending at once");
            std::process::exit(130);
        });
    })
}

/// Prints the line that says what was bound.
fn announce(line: &serde_json::Value) {
    show(&format!("{line}\n"));
}

/// Writes to stdout. Nobody reading it (`| head`) is no reason to fail.
fn show(text: &str) {
    let mut stdout = std::io::stdout().lock();
    let _ = stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush());
}
