//! From model headers to an engine on its thread.

use std::time::{Duration, Instant};

use domain::{Fault, FaultKind};
use engine::backend::fake::{Fake, RealTime, Speed};
use engine::backend::{Backend, Capacity, DeviceError, Reserved};
use engine::handle::Handle;
use engine::step::{Engine, Ports};
use engine_assets::{ModelAssets, Pooling};
use engine_cpu::{CpuBackend, CpuDtype, CpuError, CpuOptions, KvDtype, KvSize};
use engine_text::Text;
use tokio::sync::oneshot;

use crate::adapters::LoadError;
use crate::config::{BackendChoice, Config, FakeSpeed};
use crate::edge::app::App;
use crate::edge::kv_events::EventQueue;
use crate::kv_disk;
use crate::metrics::Recorder;

/// KV blocks of a fake engine that was not told: enough for a fleet's worth of prompts, and a few MB of digests.
const FAKE_BLOCKS: usize = 16_384;

/// An engine that runs.
pub struct Loaded {
    pub handle: Handle,
    pub text: Text,
    /// What keys and values are stored as, if there are any.
    pub kv_dtype: Option<KvDtype>,
    /// The result of the engine's thread; closed without one if it panicked.
    pub ended: oneshot::Receiver<Result<(), DeviceError>>,
}

/// Loads tokenizer and weights and starts the engine's thread. `progress` hears `(done, total)` bytes. Blocks for as long as that takes.
pub fn load(config: &Config, app: &App, events: Option<EventQueue>, progress: &mut dyn FnMut(u64, u64)) -> Result<Loaded, Fault> {
    let text = Text::new(&config.assets.text).map_err(|error| {
        let what = format!("{}: {error}", config.assets.path.display());
        Fault::new(FaultKind::Model, what, "fetch the model again, or use one whose tokenizer is supported")
    })?;
    let (backend, kv_dtype): (Box<dyn Backend>, _) = match config.backend {
        BackendChoice::Cpu { threads, dtype } => {
            let cpu = cpu(config, threads, dtype, progress)?;
            let kv_dtype = Some(cpu.kv_dtype());
            (Box::new(cpu), kv_dtype)
        }
        BackendChoice::Fake(speed) => (Box::new(fake(config, speed)?), None),
    };
    let mut ports = Ports::new(Instant::now);
    ports.observer = Some(Box::new(Recorder::new(app.metrics.clone(), app.changed.clone())));
    ports.kv_events = events.map(|events| Box::new(events) as Box<dyn engine::kv::event::KvSink>);
    let capacity = backend.capacity();
    let mut limits = engine::config::Config::for_device(&capacity);
    limits.logprobs_max = config.answers.logprobs_max.map_or(capacity.vocabulary, |max| max as usize);
    limits.pooling = config.pooling.as_ref().map(|pooling| pooling.pooling);
    limits.prefix_caching = config.limits.prefix_caching && limits.pooling.is_none_or(Pooling::allows_cached);
    limits.residency_sample_ppm = config.limits.residency_sample_ppm;
    limits.speculation = config.speculation;
    (limits.adapters_max, limits.batch_adapters_max) = (config.adapters_max, config.batch_adapters_max);
    // Without a limit of its own, a request may ask for the whole vocabulary.
    limits.logprobs_max = config.answers.logprobs_max.map_or(capacity.vocabulary, |max| max as usize);
    (limits.policy, limits.step_time) = (config.limits.policy, config.limits.step_time);
    limits.waiting_max = config.limits.waiting_max.unwrap_or(limits.waiting_max);
    limits.waiting_tokens_max = config.limits.waiting_tokens_max.unwrap_or(limits.waiting_tokens_max);
    let (length, own) = (limits.length_max(&capacity), config.assets.config.context_length);
    if length < own {
        tracing::info!(
            "sequences of up to {length} tokens are served; the model's own limit is {own} (--max-model-len, --kv-cache-mib)"
        );
    }
    tiers(config, &*backend, &mut limits, &mut ports)?;
    let Reserved { weights, kv, activations } = backend.reserved();
    let host = limits.host_blocks * backend.kv_block_bytes();
    let [weights, kv, activations, host] = [weights, kv, activations, host].map(|bytes| bytes >> 20);
    tracing::info!(
        "memory reserved for life, in MiB: KV cache {kv}, repacked weights {weights}, activations and logits {activations}, KV blocks on the host {host}"
    );
    let (engine, handle) = Engine::new(backend, limits, ports)
        .map_err(|error| Fault::new(FaultKind::Config, format!("the engine's limits do not fit: {error}"), "change them"))?;
    let (result, ended) = oneshot::channel();
    // Nobody is left to hear the result only when the process ends.
    let body = move || drop(result.send(engine.run()));
    thread("engine", body)?;
    for (name, path) in &config.adapters {
        if config.names.contains(name) {
            let what = format!("the adapter {name} has the name of the model");
            return Err(Fault::new(FaultKind::Usage, what, "give it another one"));
        }
        let fault =
            |what: String, action: &str| Fault::new(FaultKind::Model, format!("cannot load the adapter {name}: {what}"), action);
        if app.adapters.find(name).is_some() {
            return Err(fault(format!("an adapter named {name} is loaded already"), "give each a name of its own"));
        }
        let loaded = app.adapters.load(&handle, &config.loader(), name, &path.display().to_string(), path);
        loaded.map_err(|error| match error {
            LoadError::Unreadable(error) => fault(error.to_string(), "mend what is named"),
            LoadError::Refused(error) => fault(error.to_string(), "load fewer, or raise --max-cpu-loras"),
            error @ (LoadError::Busy(_) | LoadError::Silent) => fault(error.to_string(), "see the log"),
        })?;
    }
    Ok(Loaded { handle, text, kv_dtype, ended })
}

/// Host memory and disk for KV blocks that leave the device.
fn tiers(config: &Config, backend: &dyn Backend, limits: &mut engine::config::Config, ports: &mut Ports) -> Result<(), Fault> {
    let (bytes, block_bytes) = (config.limits.kv_offloading_bytes, backend.kv_block_bytes());
    if bytes == 0 {
        return Ok(());
    }
    if bytes < block_bytes || block_bytes == 0 {
        let what = format!("{bytes} bytes of host memory hold no KV block; one has {block_bytes}");
        return Err(Fault::new(FaultKind::Usage, what, "give a larger --kv-offloading-size, or none"));
    }
    limits.host_blocks = bytes / block_bytes;
    let Some(disk) = &config.kv_disk else { return Ok(()) };
    let identity = kv_disk::Identity {
        layout: match config.backend {
            // What weights are multiplied as is in the values too.
            BackendChoice::Cpu { dtype, .. } => format!("{} {dtype:?}", backend.kv_layout()),
            BackendChoice::Fake(_) => backend.kv_layout(),
        },
        model: kv_disk::weights_identity(&config.assets.path),
        hash_seed: &limits.hash_seed,
        block_tokens: backend.capacity().block_tokens,
        block_bytes,
    };
    let (disk, places) = kv_disk::KvDisk::open(disk, config.data_parallel_rank, &identity)?;
    limits.disk_blocks = places;
    ports.disk = Some(Box::new(disk));
    Ok(())
}

/// Starts a named thread.
pub fn thread(name: &str, body: impl FnOnce() + Send + 'static) -> Result<(), Fault> {
    let fault = |error| {
        Fault::new(FaultKind::Internal, format!("cannot start the thread {name:?}"), "raise the limit on threads").because(error)
    };
    std::thread::Builder::new().name(name.into()).spawn(body).map(drop).map_err(fault)
}

fn fake(config: &Config, speed: FakeSpeed) -> Result<Fake, Fault> {
    let FakeSpeed { prefill_tok_s, step_ms } = speed;
    let step = Duration::try_from_secs_f64(step_ms / 1e3).ok();
    let (Some(step), true) = (step, prefill_tok_s > 0.0) else {
        let what = format!("the fake backend cannot run {prefill_tok_s} tokens per second in steps of {step_ms} ms");
        return Err(Fault::new(FaultKind::Usage, what, "give a speed above 0 and a step of at least 0 ms"));
    };
    let (limits, model) = (&config.limits, &config.assets.config);
    let capacity = Capacity {
        vocabulary: model.vocab_size,
        context_length: config.context_length(),
        block_tokens: limits.block_tokens,
        kv_blocks: limits.kv_blocks.unwrap_or(FAKE_BLOCKS),
        slots: limits.max_num_seqs,
        batch_tokens: limits.max_num_batched_tokens,
        logit_rows: limits.max_num_seqs.saturating_add(limits.max_num_batched_tokens),
    };
    let speed = Speed { prefill_tok_s: prefill_tok_s.is_finite().then_some(prefill_tok_s), step, lag: 1 };
    let fake = Fake::new(capacity, speed, Box::new(RealTime));
    Ok(match &config.pooling {
        Some(pooling) => fake.pooling(pooling.pooling, model.hidden_size),
        None => fake,
    })
}

fn cpu(
    config: &Config,
    threads: Option<usize>,
    dtype: CpuDtype,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<CpuBackend, Fault> {
    let limits = &config.limits;
    let options = CpuOptions {
        threads,
        dtype,
        kv: limits.kv_blocks.map_or(KvSize::Bytes(limits.kv_bytes), KvSize::Blocks),
        kv_dtype: limits.kv_dtype,
        block_tokens: limits.block_tokens,
        slots: limits.max_num_seqs,
        batch_tokens: limits.max_num_batched_tokens,
        context_length: Some(config.context_length()),
        pooling: config.pooling.as_ref().map(|pooling| pooling.pooling),
        ..CpuOptions::default()
    };
    // Who embeds has no use for the head, and does not read it.
    let headless = config.pooling.is_some().then(|| ModelAssets::clone(&config.assets).without_head());
    let assets = headless.as_ref().unwrap_or(&config.assets);
    CpuBackend::load(assets, &options, progress).map_err(|error| {
        if matches!(error, CpuError::KvTooLarge { .. } | CpuError::KvTooSmall { .. } | CpuError::Kv { .. }) {
            return Fault::from(error);
        }
        let what = format!("cannot load {}", config.assets.path.display());
        Fault::new(FaultKind::Model, what, "mend what is named, or fetch the model again").because(error)
    })
}
