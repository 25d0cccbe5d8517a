//! What `trackside engine` is told: addresses, names, limits, and what computes.

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use domain::id::NAME_BYTES_MAX;
use domain::{Fault, FaultKind};
use engine::config::Policy;
use engine::speculate::Speculation;
use engine_assets::{ModelAssets, PoolingConfig};
use engine_cpu::{CpuDtype, KvDtype};

use crate::adapters::Loader;
use crate::edge::cors::Cors;
use crate::edge::http::BODY_BYTES_MAX;
use crate::edge::kv_events::KvEventsConfig;
use crate::kv_disk::KvDiskConfig;

mod parsers;
mod pooler;
mod speculation;

pub use parsers::{Parser, Parsers};
pub use pooler::{Convert, Runner, pooling};
pub use speculation::speculation;

/// Everything that a server is made of.
#[derive(Clone, Debug)]
pub struct Config {
    /// Headers of the model, as `engine_assets::open` gives them.
    pub assets: Arc<ModelAssets>,
    /// Names under which clients ask for the model; the first stands in answers and metrics.
    pub names: Vec<String>,
    /// Where HTTP listens; port 0 takes any free one.
    pub listen: SocketAddr,
    pub backend: BackendChoice,
    pub limits: Limits,
    pub answers: AnswerOptions,
    /// How replies are read.
    pub parsers: Parsers,
    /// LoRA adapters loaded at the start: name and folder.
    pub adapters: Vec<(String, PathBuf)>,
    /// Most adapters loaded at once, most of them in one batch, and the largest rank of one.
    pub adapters_max: usize,
    pub batch_adapters_max: usize,
    pub adapter_rank_max: usize,
    /// Adapters are loaded and unloaded over HTTP; vLLM's `VLLM_ALLOW_RUNTIME_LORA_UPDATING`.
    pub runtime_adapters: bool,
    /// Those lie below this folder; `None`: anywhere.
    pub adapter_root: Option<PathBuf>,
    /// Speculative decoding; `None`: off.
    pub speculation: Option<Speculation>,
    /// How the engine embeds; `None`: it generates.
    pub pooling: Option<PoolingConfig>,
    /// `None`: no KV events are published.
    pub kv_events: Option<KvEventsConfig>,
    /// Where KV blocks go that leave host memory; `None`: nowhere.
    pub kv_disk: Option<KvDiskConfig>,
    /// Which rank of a data-parallel deployment this engine is: the `engine` label of its metrics and a field of its KV events.
    pub data_parallel_rank: u32,
    /// Who may ask, and by which paths.
    pub http: HttpOptions,
    /// Serve what vLLM serves in its developer mode: pause, sleep, reset, abort.
    pub dev_mode: bool,
    /// How long open requests may take after the server is told to end; then they are aborted.
    pub drain_timeout: Duration,
    /// How long an engine with work may make no step; then its process ends. vLLM's `VLLM_EXECUTE_MODEL_TIMEOUT_SECONDS`.
    pub step_timeout: Duration,
}

impl Config {
    /// Defaults for a model on the CPU under one name, on a free port of loopback, doing what it is made for.
    pub fn new(assets: Arc<ModelAssets>, name: impl Into<String>) -> Self {
        Self {
            pooling: assets.pools.then(|| assets.pooling.clone()),
            assets,
            names: vec![name.into()],
            listen: SocketAddr::from(([127, 0, 0, 1], 0)),
            backend: BackendChoice::Cpu { threads: None, dtype: CpuDtype::Auto },
            limits: Limits::default(),
            answers: AnswerOptions::default(),
            parsers: Parsers::default(),
            adapters: Vec::new(),
            adapters_max: 32,
            batch_adapters_max: 8,
            adapter_rank_max: 64,
            runtime_adapters: false,
            adapter_root: None,
            speculation: None,
            kv_events: None,
            kv_disk: None,
            data_parallel_rank: 0,
            http: HttpOptions::default(),
            dev_mode: false,
            drain_timeout: Duration::from_secs(30),
            step_timeout: Duration::from_secs(300),
        }
    }

    /// Longest sequence: as asked, else what the KV cache holds; never more than the model's own.
    pub(crate) fn context_length(&self) -> usize {
        let (limits, model) = (&self.limits, &self.assets.config);
        let held = match (self.backend, limits.kv_blocks) {
            (_, Some(blocks)) => blocks.saturating_mul(limits.block_tokens),
            (BackendChoice::Fake(_), None) => usize::MAX,
            (BackendChoice::Cpu { dtype, .. }, None) => {
                let kv_dtype = limits.kv_dtype.unwrap_or_else(|| KvDtype::suiting(&self.assets.tensors, dtype));
                let token_bytes = model.layers * 2 * model.kv_heads * model.head_dim * kv_dtype.bytes();
                limits.kv_bytes / token_bytes.max(1)
            }
        };
        // Two tokens are the least that is served; a cache that does not hold them is refused by the backend.
        limits.max_model_len.unwrap_or(held.max(2)).min(model.context_length)
    }

    /// What only a person can mend.
    pub(crate) fn check(&self) -> Result<(), Fault> {
        let usage = |what: String, action: &str| Err(Fault::new(FaultKind::Usage, what, action));
        if self.names.is_empty() {
            return usage("the model has no served name".into(), "give at least one");
        }
        for name in &self.names {
            if name.is_empty() || name.len() > NAME_BYTES_MAX {
                let shown: String = name.chars().take(40).collect();
                return usage(
                    format!("the served model name {shown:?} has {} bytes", name.len()),
                    &format!("choose one of 1 to {NAME_BYTES_MAX} bytes"),
                );
            }
        }
        self.parsers.check(&self.assets.text)?;
        if self.kv_disk.is_some() && self.limits.kv_offloading_bytes == 0 {
            return usage(
                "the KV cache has a disk and no host memory in front of it".into(),
                "give --kv-offloading-size as well: blocks reach the disk through it",
            );
        }
        let root = &self.http.root_path;
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"/-_.~".contains(&byte);
        let is_prefix = root.starts_with('/') && root.len() > 1 && !root.ends_with('/') && root.bytes().all(plain);
        if !root.is_empty() && !is_prefix {
            return usage(format!("the root path {root:?} is no prefix of paths"), "give one like /llm");
        }
        if self.pooling.is_some() && self.speculation.is_some() {
            return usage("the engine embeds and has nothing to draft".into(), "leave --speculative-config out");
        }
        if self.limits.connections_max == 0 || self.limits.body_bytes_max == 0 {
            return usage("connections_max or body_bytes_max is 0".into(), "give at least 1");
        }
        Ok(())
    }

    pub(crate) fn loader(&self) -> Loader {
        Loader { base: Arc::clone(&self.assets), rank_max: self.adapter_rank_max, root: self.adapter_root.clone() }
    }

    pub(crate) fn name(&self) -> &str {
        &self.names[0]
    }
}

/// Who may ask, and by which paths. The names are those of vLLM's flags.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct HttpOptions {
    /// `Authorization: Bearer` must hold one of these; empty: anybody may ask.
    pub api_keys: Vec<String>,
    pub cors: Cors,
    /// Every path is served below this prefix as well, for a proxy that does not take it off.
    pub root_path: String,
}

impl fmt::Debug for HttpOptions {
    /// Keys are nobody's business, least of all a log's.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { api_keys, cors, root_path } = self;
        let keys = api_keys.len();
        f.debug_struct("HttpOptions").field("api_keys", &keys).field("cors", cors).field("root_path", root_path).finish()
    }
}

/// What computes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum BackendChoice {
    /// `threads`: compute threads; `None` takes as many as the process may use.
    Cpu { threads: Option<usize>, dtype: CpuDtype },
    /// The real engine over tokens that cost nothing to compute, at a scripted speed.
    Fake(FakeSpeed),
}

/// How fast the fake backend pretends to be.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct FakeSpeed {
    /// Prompt tokens per second.
    pub prefill_tok_s: f64,
    /// Fixed duration of a step.
    pub step_ms: f64,
}

/// Maxima. The names are those of vLLM's flags where it has one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    pub max_num_seqs: usize,
    pub max_num_batched_tokens: usize,
    /// Longest sequence, prompt and output; `None`: the model's own.
    pub max_model_len: Option<usize>,
    /// Tokens per KV block; vLLM's `block_size`.
    pub block_tokens: usize,
    /// Number of KV blocks; `None`: as many as `kv_bytes` holds.
    pub kv_blocks: Option<usize>,
    pub kv_bytes: usize,
    /// What keys and values are stored as; `None`: what suits the weights. vLLM's `kv_cache_dtype`.
    pub kv_dtype: Option<KvDtype>,
    /// Host memory for KV blocks that leave the device; 0: none. vLLM's `kv_offloading_size`, in bytes.
    pub kv_offloading_bytes: usize,
    pub prefix_caching: bool,
    /// Of a million KV blocks, those whose stay is measured; 0: none. vLLM's `kv_cache_metrics_sample`.
    pub residency_sample_ppm: u32,
    pub policy: Policy,
    /// How long a step with decodes in it should take; `None`: a long prompt may take all that the other limits allow.
    pub step_time: Option<Duration>,
    /// Most requests that wait; `None`: the engine's default.
    pub waiting_max: Option<usize>,
    /// Most prompt tokens of all waiting requests; `None`: the engine's default.
    pub waiting_tokens_max: Option<usize>,
    /// Most bytes of one request body.
    pub body_bytes_max: usize,
    /// Most open HTTP connections.
    pub connections_max: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_num_seqs: 64,
            max_num_batched_tokens: 512,
            max_model_len: None,
            block_tokens: 16,
            kv_blocks: None,
            kv_bytes: 1 << 30,
            kv_dtype: None,
            kv_offloading_bytes: 0,
            prefix_caching: true,
            residency_sample_ppm: 0,
            policy: Policy::Fcfs,
            step_time: Some(engine::config::STEP_TIME),
            waiting_max: None,
            waiting_tokens_max: None,
            body_bytes_max: BODY_BYTES_MAX,
            connections_max: 4096,
        }
    }
}

/// What answers carry beyond what a request asks for. The names are those of vLLM's flags.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AnswerOptions {
    /// `usage.prompt_tokens_details` says how many prompt tokens the prefix cache held.
    pub prompt_tokens_details: bool,
    /// `metrics` says where the time of an answer went.
    pub per_request_metrics: bool,
    /// Every stream carries its usage, in each chunk and at its end.
    pub force_include_usage: bool,
    /// Tokens in log probabilities read `token_id:<id>` unless a request says otherwise.
    pub return_tokens_as_token_ids: bool,
    /// `/tokenizer_info` answers.
    pub tokenizer_info: bool,
    /// `/v1/responses` keeps its answers, for GET by id and `previous_response_id`.
    pub responses_store: bool,
    /// A grammar holds for the thought, too, and not for the answer alone. vLLM's `enable_in_reasoning`.
    pub structured_in_reasoning: bool,
    /// Most log probabilities of one position; `None`: as many as the vocabulary has.
    pub logprobs_max: Option<u32>,
}

impl Default for AnswerOptions {
    fn default() -> Self {
        Self {
            prompt_tokens_details: false,
            per_request_metrics: false,
            force_include_usage: false,
            return_tokens_as_token_ids: false,
            tokenizer_info: false,
            responses_store: false,
            structured_in_reasoning: false,
            logprobs_max: Some(20),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[test]
    fn the_context_is_what_the_cache_holds_in_its_own_numbers() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures/models/gguf-q8_0/model.gguf");
        let mut config = Config::new(Arc::new(engine_assets::open(&path).expect("the model is there")), "tiny");
        let model = &config.assets.config;
        let values = model.layers * 2 * model.kv_heads * model.head_dim;
        config.limits.kv_bytes = 32 * values * 4;
        let mut check = |kv_dtype, dtype, tokens| {
            (config.limits.kv_dtype, config.backend) = (kv_dtype, BackendChoice::Cpu { threads: None, dtype });
            assert_eq!(config.context_length(), tokens, "{kv_dtype:?} {dtype:?}");
        };
        check(Some(KvDtype::Float32), CpuDtype::Auto, 32);
        check(Some(KvDtype::Float16), CpuDtype::Auto, 64);
        // Of weights in blocks, half precision is what suits.
        check(None, CpuDtype::Auto, 64);
        check(None, CpuDtype::Float32, 32);
    }
}
