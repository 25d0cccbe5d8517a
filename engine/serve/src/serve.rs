//! The life of an engine's process: bind, load, warm up, serve, drain.

use std::future::Future;
use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use domain::{AssetsDigest, EngineState, Fault, FaultKind, Incarnation};
use engine::backend::DeviceError;
use engine::handle::Handle;
use engine::request::{FinishReason, FinishRules, NewRequest, Output, Sampling};
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use crate::adapters::Adapters;
use crate::config::Config;
use crate::edge::app::{App, Life, Ready};
use crate::edge::http;
use crate::edge::kv_events::{self, BoundEvents, EventQueue};
use crate::edge::responses::store::Store;
use crate::edge::tokens;
use crate::guide::Guides;
use crate::in_flight::{Changed, Ledger};
use crate::load::{self, Loaded};
use crate::metrics::{CacheFacts, Labels, Metrics};
use crate::watchdog;

/// How long connections may take to end once the engine has.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(2);
/// How long the engine's thread may take to end once nothing is left to do: a step or two.
const THREAD_TIMEOUT: Duration = Duration::from_secs(10);

/// What was bound. The command prints it as one JSON line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bound {
    pub http: SocketAddr,
    pub kv_events: BoundEvents,
    pub incarnation: Incarnation,
    pub model: String,
}

/// How far a start is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// Weights read, of all.
    Loading { done_bytes: u64, total_bytes: u64 },
    /// The model is there and makes its first token.
    Warming,
    /// Requests are served.
    Ready,
    /// Told to end; so many requests are open.
    Draining { requests: u32 },
}

/// A server whose addresses are bound and whose model is not loaded.
pub struct Server {
    config: Config,
    app: Arc<App>,
    listener: TcpListener,
    events: Option<EventQueue>,
    bound: Bound,
}

/// Checks the configuration and binds every address, so that what is taken is known before a model is loaded.
pub async fn bind(config: Config) -> Result<Server, Fault> {
    config.check()?;
    let (listener, http) = http::bind(config.listen).await?;
    let max_model_len = config.context_length();
    let engine = config.data_parallel_rank;
    let drafts_max = config.speculation.map_or(0, |speculation| speculation.tokens);
    let metrics = Arc::new(Metrics::new(&Labels {
        model_name: config.name(),
        engine,
        max_model_len,
        drafts_max,
        adapters_max: config.batch_adapters_max,
        residency: config.limits.residency_sample_ppm > 0,
        developer: config.dev_mode,
    }));
    let (events, bound_events) = match config.kv_events.clone() {
        Some(events) => {
            let (queue, bound) = kv_events::start(events, metrics.kv_events_dropped.clone()).await?;
            (Some(queue), bound)
        }
        None => (None, BoundEvents::default()),
    };
    let incarnation = Incarnation(rand::random());
    let changed = Changed::default();
    let app = Arc::new(App {
        names: config.names.iter().map(|name| Arc::from(name.as_str())).collect(),
        adapters: Adapters::default(),
        loader: config.runtime_adapters.then(|| config.loader()),
        tokenizer_info: config.answers.tokenizer_info.then(|| tokens::tokenizer_info(&config.assets.text, max_model_len)),
        root: config.assets.path.display().to_string(),
        created: SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs(),
        incarnation,
        assets_digest: AssetsDigest(config.assets.text.digest().0),
        max_model_len,
        generation: config.assets.generation.clone(),
        pooling: config.pooling.clone(),
        vector_size: config.assets.config.hidden_size,
        body_bytes_max: config.limits.body_bytes_max,
        http: config.http.clone(),
        kv_events: bound_events.clone(),
        kv_events_config: config.kv_events.clone(),
        answers: config.answers,
        reply: config.parsers.of(&config.assets.text),
        responses: Store::default(),
        fingerprint: fingerprint(config.assets.text.digest().0).into(),
        data_parallel_rank: engine,
        metrics,
        in_flight: Ledger::new(changed.clone()),
        open: Arc::default(),
        changed,
        workers: Semaphore::new(std::thread::available_parallelism().map_or(1, NonZeroUsize::get)),
        ending: CancellationToken::new(),
        life: Life::default(),
        dev_mode: config.dev_mode,
    });
    let bound = Bound { http, kv_events: bound_events, incarnation, model: config.name().to_owned() };
    Ok(Server { config, app, listener, events, bound })
}

/// `system_fingerprint`, in the form of vLLM's: program, version, and eight digits that change with the model's assets.
fn fingerprint(digest: impl AsRef<[u8]>) -> String {
    let digits: String = digest.as_ref().iter().take(4).map(|byte| format!("{byte:02x}")).collect();
    format!("trackside-{}-{digits}", env!("CARGO_PKG_VERSION"))
}

impl Server {
    pub fn bound(&self) -> &Bound {
        &self.bound
    }

    /// Loads the model, serves until `shutdown`, then drains. An error says why the engine could not serve, or no longer could.
    pub async fn run(
        self,
        shutdown: impl Future<Output = ()>,
        progress: impl Fn(Progress) + Send + Sync + 'static,
    ) -> Result<(), Fault> {
        let Self { config, app, listener, events, bound: _ } = self;
        app.enter(EngineState::Starting);
        let http = tokio::spawn(http::serve(Arc::clone(&app), listener, config.limits.connections_max));
        let progress: Arc<dyn Fn(Progress) + Send + Sync> = Arc::new(progress);
        let mut shutdown = std::pin::pin!(shutdown);
        let served = async {
            let loaded = tokio::select! {
                loaded = load(&app, config.clone(), events, Arc::clone(&progress)) => loaded?,
                // Nothing was promised to anybody yet.
                () = &mut shutdown => return Ok(()),
            };
            let mut ended = loaded.ended;
            tokio::select! {
                ended = &mut ended => return Err(died(ended)),
                stuck = watchdog::watch(&loaded.handle, config.step_timeout) => return Err(stuck),
                () = &mut shutdown => {}
            }
            drain(&app, config.drain_timeout, &progress).await;
            match tokio::time::timeout(THREAD_TIMEOUT, &mut ended).await {
                Ok(Ok(Ok(()))) => Ok(()),
                Ok(ended) => Err(died(ended)),
                Err(_) => {
                    let what = format!("the engine's thread did not end within {} s", THREAD_TIMEOUT.as_secs());
                    Err(Fault::new(FaultKind::Internal, what, "report this with the log"))
                }
            }
        }
        .await;
        app.enter(if served.is_ok() { EngineState::Stopped } else { EngineState::Crashed });
        app.ending.cancel();
        if tokio::time::timeout(CLOSE_TIMEOUT, http).await.is_err() {
            tracing::warn!("connections did not end in time");
        }
        served
    }
}

/// Brings the engine up to its first token and opens the door.
async fn load(
    app: &Arc<App>,
    config: Config,
    events: Option<EventQueue>,
    progress: Arc<dyn Fn(Progress) + Send + Sync>,
) -> Result<Loaded, Fault> {
    let shared = Arc::clone(app);
    let heard = Arc::clone(&progress);
    let (result, loaded) = oneshot::channel();
    let body = move || {
        let mut bytes = |done_bytes, total_bytes| {
            shared.loaded(done_bytes, total_bytes);
            heard(Progress::Loading { done_bytes, total_bytes });
        };
        // Nobody waits for a model any more that was told to end; the engine then ends with its last handle.
        drop(result.send(load::load(&config, &shared, events, &mut bytes)));
    };
    // A thread of its own and not the runtime's, which would not end before the model is loaded.
    load::thread("load", body)?;
    let unexpected = |_| Fault::new(FaultKind::Internal, "loading the model failed unexpectedly", "report this with the log");
    let loaded = loaded.await.map_err(unexpected)??;
    app.enter(EngineState::Warming);
    progress(Progress::Warming);
    warm_up(&loaded.handle).await?;
    let limits = loaded.handle.limits();
    app.metrics.describe(CacheFacts {
        block_tokens: limits.capacity.block_tokens,
        blocks: limits.capacity.kv_blocks,
        prefix_caching: limits.config.prefix_caching,
        dtype: loaded.kv_dtype,
    });
    let guides = Guides::start(loaded.text.clone(), limits.capacity.vocabulary, app.generation.eos.clone());
    app.open(Ready { handle: loaded.handle.clone(), text: loaded.text.clone(), guides });
    progress(Progress::Ready);
    Ok(loaded)
}

/// One token through everything: an engine that cannot do this must not say that it is healthy.
async fn warm_up(handle: &Handle) -> Result<(), Fault> {
    let fault = |what: String| Fault::new(FaultKind::Device, what, "see the log for what the device said");
    let (sender, mut outputs) = mpsc::unbounded_channel();
    let request = NewRequest {
        prompt: Arc::from([0]),
        extra: domain::ExtraKeys::default(),
        sampling: Sampling::GREEDY,
        extras: None,
        mask: None,
        finish: FinishRules { tokens_max: 1, ..FinishRules::default() },
        priority: 0,
        kv_transfer: None,
        remote_kv: false,
        arrived: Instant::now(),
        sink: Box::new(move |output| sender.send(output).is_ok()),
    };
    handle.submit(request).map_err(|reason| fault(format!("the engine refused its first request: {reason}")))?;
    while let Some(output) = outputs.recv().await {
        if let Output::Finished(finished) = output {
            return match finished.reason {
                FinishReason::Error(what) => Err(fault(format!("the engine's first token failed: {what}"))),
                _ => Ok(()),
            };
        }
    }
    Err(fault("the engine ended at its first request".into()))
}

/// Takes nothing new, waits for what is open, and aborts what is left after `timeout`.
async fn drain(app: &App, timeout: Duration, progress: &Arc<dyn Fn(Progress) + Send + Sync>) {
    app.enter(EngineState::Draining);
    let Some(handle) = app.handle() else { return };
    let mut changes = app.in_flight.watch();
    let quiet = async {
        loop {
            changes.mark_unchanged();
            let requests = app.in_flight.counts().requests();
            progress(Progress::Draining { requests });
            if requests == 0 || changes.changed().await.is_err() {
                return;
            }
        }
    };
    if tokio::time::timeout(timeout, quiet).await.is_err() {
        tracing::warn!(requests = app.in_flight.counts().requests(), "drain timed out; aborting what is open");
        if let Err(error) = handle.abort_all(FinishReason::Aborted) {
            tracing::warn!(%error, "cannot abort");
        }
    }
    handle.drain();
}

/// Why an engine's thread that should run has ended.
fn died(ended: Result<Result<(), DeviceError>, oneshot::error::RecvError>) -> Fault {
    match ended {
        Ok(Ok(())) => Fault::new(FaultKind::Internal, "the engine ended by itself", "report this with the log"),
        Ok(Err(error)) => {
            Fault::new(FaultKind::Device, "the device failed", "see the log, and check the device's health").because(error)
        }
        Err(_) => Fault::new(FaultKind::Internal, "the engine's thread panicked", "report this with the log"),
    }
}
