//! What all handlers share: who this engine is, where it stands in its life, and the door to it.

use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use domain::{AssetsDigest, EngineState, Incarnation, KvUse, Load};
use engine::handle::Handle;
use engine::observe::Stats;
use engine_assets::{Generation, PoolingConfig};
use engine_text::Text;
use engine_text::reply::ReplyFormat;
use proto::openai::ErrorBody;
use proto::state::Loading;
use serde_json::Value;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use super::answer::ApiError;
use super::kv_events::{BoundEvents, KvEventsConfig};
use super::open::OpenRequests;
use super::responses::store::Store;
use crate::adapters::{Adapters, Loader};
use crate::config::{AnswerOptions, HttpOptions};
use crate::guide::Guides;
use crate::in_flight::{Changed, Ledger};
use crate::metrics::Metrics;

/// One engine and its edge.
pub(crate) struct App {
    /// Names that clients may use; the first is the one that answers carry. Never empty.
    pub names: Vec<Arc<str>>,
    /// Names of adapters, which clients use as they use the model's.
    pub adapters: Adapters,
    /// `None`: adapters come and go at the start and the end alone.
    pub loader: Option<Loader>,
    /// Where the weights come from.
    pub root: String,
    /// Unix time in seconds.
    pub created: u64,
    pub incarnation: Incarnation,
    pub assets_digest: AssetsDigest,
    /// Longest sequence asked for, or the model's own.
    pub max_model_len: usize,
    pub generation: Generation,
    /// How the engine embeds; `None`: it generates.
    pub pooling: Option<PoolingConfig>,
    /// Values of its whole vectors.
    pub vector_size: usize,
    pub body_bytes_max: usize,
    pub http: HttpOptions,
    pub answers: AnswerOptions,
    /// How the model writes its thought and its tool calls.
    pub reply: ReplyFormat,
    /// What `/tokenizer_info` says, where it is served.
    pub tokenizer_info: Option<Value>,
    /// Answers of `/v1/responses` that are kept.
    pub responses: Store,
    /// Stands in answers; changes with the model and this program's version.
    pub fingerprint: Arc<str>,
    /// Which rank of a data-parallel deployment this engine is.
    pub data_parallel_rank: u32,
    pub kv_events: BoundEvents,
    /// As configured.
    pub kv_events_config: Option<KvEventsConfig>,
    pub metrics: Arc<Metrics>,
    pub in_flight: Arc<Ledger>,
    pub open: Arc<OpenRequests>,
    pub changed: Changed,
    /// Long requests that are prepared at once: as many as there are processors to do it.
    pub workers: Semaphore,
    /// Cancelled when connections are to end.
    pub ending: CancellationToken,
    pub life: Life,
    /// Whether the endpoints of vLLM's developer mode are served.
    pub dev_mode: bool,
}

/// Where the engine stands, and what is there once it serves.
#[derive(Default)]
pub(crate) struct Life {
    state: Mutex<EngineState>,
    ready: OnceLock<Ready>,
    loading: Mutex<Option<Loading>>,
}

impl Life {
    /// How far the weights are; `None` when they are not being read.
    pub fn loading(&self) -> Option<Loading> {
        *self.loading.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What serves.
pub(crate) struct Ready {
    pub handle: Handle,
    pub text: Text,
    pub guides: Arc<Guides>,
}

impl App {
    /// The served name that a request means; a request without one means the model.
    pub fn named(&self, model: Option<&str>) -> Result<Arc<str>, ApiError> {
        let Some(model) = model.filter(|model| !model.is_empty()) else { return Ok(Arc::clone(&self.names[0])) };
        let known = self.names.iter().find(|name| ***name == *model).cloned();
        let known = known.or_else(|| self.adapters.find(model).map(|known| known.key.name));
        known.ok_or_else(|| ErrorBody::unknown_model(model).into())
    }

    pub fn state(&self) -> EngineState {
        let state = *self.life.state.lock().unwrap_or_else(PoisonError::into_inner);
        match (state, self.handle()) {
            (EngineState::Ready | EngineState::Draining, Some(handle)) if !handle.is_alive() => EngineState::Crashed,
            (state, _) => state,
        }
    }

    /// So many bytes of the weights are there.
    pub fn loaded(&self, done_bytes: u64, total_bytes: u64) {
        *self.life.loading.lock().unwrap_or_else(PoisonError::into_inner) = Some(Loading { done_bytes, total_bytes });
        self.changed.tell();
    }

    /// Longest sequence that is served, prompt and output: the KV pool may hold less than was asked for.
    pub fn context_length(&self) -> usize {
        // A vector is no token, though it counts as one in the engine's limit.
        let vector = usize::from(self.pooling.is_some());
        self.handle().map_or(self.max_model_len, |handle| handle.limits().length_max - vector)
    }

    pub fn enter(&self, state: EngineState) {
        if state != EngineState::Starting {
            *self.life.loading.lock().unwrap_or_else(PoisonError::into_inner) = None;
        }
        *self.life.state.lock().unwrap_or_else(PoisonError::into_inner) = state;
        self.changed.tell();
    }

    /// Opens the door; from now on requests are served.
    pub fn open(&self, ready: Ready) {
        if self.life.ready.set(ready).is_err() {
            tracing::error!("an engine was opened twice; the first stays");
        }
        self.enter(EngineState::Ready);
    }

    pub fn handle(&self) -> Option<&Handle> {
        self.life.ready.get().map(|ready| &ready.handle)
    }

    /// What serves a new request, or why none is taken.
    pub fn ready(&self) -> Result<&Ready, ApiError> {
        match (self.state(), self.life.ready.get()) {
            (EngineState::Ready, Some(ready)) => Ok(ready),
            _ => {
                self.metrics.rejected_not_ready();
                Err(self.unavailable())
            }
        }
    }

    /// Whether the engine has answered and can still do so.
    pub fn is_alive(&self) -> bool {
        matches!(self.state(), EngineState::Ready | EngineState::Draining)
    }

    pub fn unavailable(&self) -> ApiError {
        ApiError::unavailable(match self.state() {
            EngineState::Absent | EngineState::Starting => "The engine loads its model.",
            EngineState::Warming => "The engine warms up.",
            EngineState::Draining => "The engine drains and takes no new requests.",
            _ => "The engine has ended.",
        })
    }

    /// How well the tokenizer remembers; `None`: there is none yet.
    pub fn recall(&self) -> Option<engine_text::Recall> {
        self.life.ready.get().map(|ready| ready.text.recall())
    }

    /// The engine's counters; `None` before it is there.
    pub fn stats(&self) -> Option<Stats> {
        self.handle().map(Handle::stats)
    }

    /// What this engine does at this moment.
    pub fn load(&self) -> Load {
        let stats = self.stats().unwrap_or_default();
        let counts = self.in_flight.counts();
        Load {
            waiting: u32::try_from(stats.waiting).unwrap_or(u32::MAX),
            running: u32::try_from(stats.running).unwrap_or(u32::MAX),
            by_replica: counts.by_replica,
            others: counts.others,
            kv: KvUse {
                used_blocks: stats.used_blocks as u64,
                total_blocks: stats.total_blocks as u64,
                block_tokens: stats.block_tokens as u32,
            },
            prefill_tok_s: stats.prefill_tok_s,
            decode_step_ms: stats.decode_step_ms,
        }
    }
}
