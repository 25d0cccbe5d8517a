//! `trackside up`: scheduler, gateway and agent in this process, engines as its children, all meeting over loopback as in production.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use daemon::config::{OnStop, Slot, SlotKind};
use domain::{Fault, FaultKind};
use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use super::engine::Damaged;
use crate::args::UpArgs;
use crate::{admin, builtin, table};

/// How often the progress looks; short against the second within which a small model answers.
const LOOK_EVERY: Duration = Duration::from_millis(20);

pub fn run(args: UpArgs) -> Result<(), Fault> {
    // A damaged model is one clear line now, not a crash loop of engines later.
    let model = builtin::resolve(&args.model)?;
    engine_assets::open(&model).map_err(|error| Fault::from(Damaged(error)))?;
    super::runtime(super::proxy_workers())?.block_on(serve(args, model))
}

async fn serve(args: UpArgs, model: PathBuf) -> Result<(), Fault> {
    let asked = super::shutdown()?;
    let (end_gateway, end_node) = (CancellationToken::new(), CancellationToken::new());
    let scheduler = scheduler::run(scheduler_config(&args), end_gateway.clone()).await?;
    let folder = StateDir::of(&args)?;
    let mut config = node_config(&args, model, &folder, scheduler.bound.nodes);
    super::node::unpack_builtin(&mut config)?;
    let node = daemon::run(config, end_node.clone()).await?;
    let bound = scheduler.bound;

    let mut ending = tokio::spawn(asked);
    let up = tokio::select! {
        engines = ready(&args, bound.admin) => engines,
        _ = &mut ending => Ok(Vec::new()),
    };
    if let Ok(engines) = &up
        && !ending.is_finished()
    {
        let mut line = super::scheduler::bound(&bound);
        line["agent"] = json!(node.bound.admin);
        line["engines"] = engines
            .iter()
            .map(|engine| json!({ "engine": engine["engine"], "address": engine["address"], "pid": engine["pid"] }))
            .collect();
        if args.json {
            super::announce(&line);
        } else {
            super::show(&screen(&args, &line, engines, &folder));
        }
        let _ = ending.await;
        crate::log::tell("draining; Ctrl-C again ends at once");
    }
    // Both drain at once: the gateway finishes open answers, and engines end when they have given theirs.
    end_gateway.cancel();
    end_node.cancel();
    tokio::join!(scheduler.stopped(), node.ended());
    up.map(|_| ())
}

fn scheduler_config(args: &UpArgs) -> scheduler::Config {
    let mut config = scheduler::Config::default();
    let port = |port: u16| SocketAddr::new(args.host, if args.any_port { 0 } else { port });
    config.listen.gateway = port(args.port);
    config.listen.nodes = port(config.listen.nodes.port());
    config.listen.admin = port(config.listen.admin.port());
    config.debug_headers = args.debug_headers;
    config
}

fn node_config(args: &UpArgs, model: PathBuf, folder: &StateDir, nodes: SocketAddr) -> daemon::config::Config {
    let mut config = daemon::config::Config::new(&folder.path);
    config.listen.set_ip(args.host);
    if args.any_port {
        config.listen.set_port(0);
    }
    config.schedulers = vec![nodes.to_string()];
    config.on_stop = OnStop::Drain;
    config.slots = (0..args.engines).map(|index| slot(args, &model, index)).collect();
    config
}

fn slot(args: &UpArgs, files: &std::path::Path, index: u16) -> Slot {
    let mut slot = Slot::native(index, args.model.clone());
    slot.host = args.host;
    slot.model_files = Some(files.to_path_buf());
    let SlotKind::Native { args: flags, events_port, replay_port, .. } = &mut slot.kind else { return slot };
    // However this process ends, nobody would look after its engines.
    *flags = vec!["--end-with".to_owned(), std::process::id().to_string()];
    flags.extend(args.engine_flags.iter().cloned());
    // Several engines of one machine share its cores, unless told otherwise.
    if args.engines > 1 && !flags.iter().any(|flag| flag.starts_with("--threads")) {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        flags.extend(["--threads".to_owned(), (cores / usize::from(args.engines)).max(1).to_string()]);
    }
    if args.any_port {
        (*events_port, *replay_port, slot.port) = (0, 0, 0);
    }
    slot
}

/// Shows each engine's way until all take work. An engine that ends on the way ends the command with its reason.
async fn ready(args: &UpArgs, admin: SocketAddr) -> Result<Vec<Value>, Fault> {
    let bars = MultiProgress::new();
    let style =
        ProgressStyle::with_template("{spinner} {prefix} {msg} ({elapsed})").unwrap_or_else(|_| ProgressStyle::default_spinner());
    let mut shown: Vec<ProgressBar> = Vec::new();
    loop {
        let fleet = admin::ask(&admin.to_string(), "/debug/fleet", None).await?;
        let nodes = fleet["nodes"].as_array().map(Vec::as_slice).unwrap_or_default();
        let engines: Vec<&Value> = nodes.iter().filter_map(|node| node["engines"].as_array()).flatten().collect();
        for (i, engine) in engines.iter().enumerate() {
            let word = |key: &str| engine[key].as_str().unwrap_or_default().to_owned();
            if shown.len() <= i {
                shown.push(bars.add(ProgressBar::new_spinner().with_style(style.clone()).with_prefix(word("engine"))));
                shown[i].enable_steady_tick(Duration::from_millis(100));
            }
            shown[i].set_message(format!("{} {}", word("state"), word("reason")));
            if matches!(engine["state"].as_str(), Some("crashed" | "backoff" | "quarantined" | "stopped")) {
                bars.clear().ok();
                let what = format!("{} of {} did not start: {}", word("engine"), args.model, word("reason"));
                return Err(Fault::new(FaultKind::Unreachable, what, "see its log, or start it alone with `trackside engine`"));
            }
        }
        let ready = engines.iter().filter(|engine| matches!(engine["state"].as_str(), Some("ready" | "degraded"))).count();
        let known = engines.iter().filter(|engine| engine["tokenizer"] == "ready").count();
        if ready == usize::from(args.engines) && known == ready {
            bars.clear().ok();
            return Ok(engines.into_iter().cloned().collect());
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// What runs where, and how to speak to it.
fn screen(args: &UpArgs, bound: &Value, engines: &[Value], folder: &StateDir) -> String {
    let word = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    let model = engines.first().map(|engine| word(&engine["model"])).unwrap_or_default();
    let mut rows = vec![
        vec!["gateway".into(), format!("http://{}/v1", word(&bound["gateway"])), format!("OpenAI API, model {model}")],
        vec!["scheduler".into(), format!("http://{}", word(&bound["admin"])), "/metrics /readyz /debug/fleet".into()],
        vec!["node agent".into(), format!("http://{}", word(&bound["agent"])), "/metrics /status".into()],
    ];
    for engine in engines {
        let what =
            format!("pid {}, {} KV blocks of {} tokens", engine["pid"], engine["kv_blocks_total"], engine["kv_block_tokens"]);
        rows.push(vec![word(&engine["engine"]), format!("http://{}/v1", word(&engine["address"])), what]);
    }
    let body = json!({ "model": model, "messages": [{ "role": "user", "content": "What is Trackside?" }], "temperature": 0, "stream": true });
    format!(
        "{}\ncurl -N http://{}/v1/chat/completions -H 'content-type: application/json' -d '{body}'\n\ntrackside status{}      logs in {}\nCtrl-C drains and ends.\n",
        table::render(&["WHAT", "WHERE", ""], &rows),
        word(&bound["gateway"]),
        if args.any_port { format!(" --scheduler {}", word(&bound["admin"])) } else { String::new() },
        folder.path.display(),
    )
}

/// Where records and logs of this run lie: as told, or a folder of its own that goes with it.
struct StateDir {
    path: PathBuf,
    own: bool,
}

impl StateDir {
    fn of(args: &UpArgs) -> Result<Self, Fault> {
        if let Some(path) = &args.state_dir {
            return Ok(Self { path: path.clone(), own: false });
        }
        let path = std::env::temp_dir().join(format!("trackside-up-{}", std::process::id()));
        std::fs::create_dir_all(&path).map_err(|error| {
            let what = format!("cannot make the folder {}", path.display());
            Fault::new(FaultKind::Storage, what, "name another one with --state-dir").because(error)
        })?;
        Ok(Self { path, own: true })
    }
}

impl Drop for StateDir {
    fn drop(&mut self) {
        if self.own {
            // It is below the temporary folder; what is left of it is the system's to clear.
            let _ = std::fs::remove_dir_all(&self.path);
        }
    }
}
