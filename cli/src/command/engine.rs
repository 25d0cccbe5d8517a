//! `trackside engine`: one engine, usable alone.

use std::future::Future;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use domain::{Fault, FaultKind};
use engine_serve::{
    AnswerOptions, BackendChoice, Config, Convert, Cors, CpuDtype, Encoding, FakeSpeed, HttpOptions, KvDiskConfig, KvDtype,
    KvEventsConfig, Limits, Parsers, Policy, Progress, Runner, endpoint_of_rank,
};
use rustix::process::{Pid, PidfdFlags};
use serde_json::json;
use tokio::io::{Interest, unix::AsyncFd};

mod chat;

use crate::args::{self, Backend, Dtype, EngineArgs, EventEncoding, KvCacheDtype, SchedulingPolicy};
use crate::builtin;

/// Below, a machine that others use would end engines that are well.
const STEP_TIMEOUT_MIN: Duration = Duration::from_secs(1);

/// KV cache without --kv-cache-mib: enough for chats with a small model, little enough for any machine.
const KV_CACHE_MIB: usize = 512;
pub fn run(args: EngineArgs) -> Result<(), Fault> {
    if args.devices || args.backend == Backend::Cuda {
        return devices(&args);
    }
    let path = builtin::resolve(&args.model)?;
    let mut assets = engine_assets::open(&path).map_err(|error| Fault::from(Damaged(error)))?;
    chat::apply(&args, &mut assets.text)?;
    for warning in &assets.warnings {
        tracing::warn!("{warning}");
    }
    let config = config(&args, Arc::new(assets))?;
    if let flags @ [_, ..] = &args.ignored.0[..] {
        tracing::info!("flags that change nothing here: --{}", flags.join(", --"));
    }
    if let Some(pooling) = &config.pooling {
        tracing::info!("the engine embeds: {pooling:?} (--runner, --convert, --pooler-config)");
    }
    super::runtime(1)?.block_on(async {
        let server = engine_serve::bind(config).await?;
        let bound = server.bound().clone();
        super::announce(&json!({
            "engine": bound.model,
            "address": bound.http,
            "incarnation": bound.incarnation.to_string(),
            "kv_events": bound.kv_events.endpoint,
            "kv_replay": bound.kv_events.replay_endpoint,
            "pid": std::process::id(),
        }));
        let name = bound.model;
        let said = move |progress| match progress {
            Progress::Loading { .. } => {}
            Progress::Warming => tracing::info!("{name} is loaded, making a first token"),
            Progress::Ready => tracing::info!("{name} is ready on http://{}", bound.http),
            Progress::Draining { requests } => tracing::info!("draining {requests} open requests"),
        };
        let asked = super::shutdown()?;
        match args.end_with {
            None => server.run(asked, said).await,
            Some(pid) => {
                let gone = end_of(pid)?;
                let either = async move {
                    tokio::select! {
                        () = asked => {}
                        () = gone => tracing::info!("process {pid} has ended, and with it this engine"),
                    }
                };
                server.run(either, said).await
            }
        }
    })
}

/// What assets have to say of a damaged or unsupported model, for a person.
pub struct Damaged(pub engine_assets::AssetsError);

impl From<Damaged> for Fault {
    fn from(Damaged(error): Damaged) -> Self {
        // Its line ends with what to do, as a fault's does.
        let line = error.to_string();
        let what = line.strip_suffix(&format!("; {}", error.action)).unwrap_or(&line);
        Fault::new(FaultKind::Model, what, error.action)
    }
}

fn config(args: &EngineArgs, assets: Arc<engine_assets::ModelAssets>) -> Result<Config, Fault> {
    let names = match args.served_model_name.as_slice() {
        [] => vec![name_of(&args.model)],
        names => names.to_vec(),
    };
    let pooling = engine_serve::pooling(&assets, runner(args.runner), convert(args.convert), args.pooler_config.as_deref())?;
    let mut config = Config { pooling, ..Config::new(assets, String::new()) };
    config.names = names;
    config.listen = SocketAddr::new(args.host, args.port);
    config.drain_timeout = seconds("--shutdown-timeout-s", args.shutdown_timeout_s)?;
    config.step_timeout = seconds("--step-timeout-s", args.step_timeout_s)?.max(STEP_TIMEOUT_MIN);
    config.backend = match args.backend {
        Backend::Fake => BackendChoice::Fake(FakeSpeed { prefill_tok_s: args.prefill_tok_s, step_ms: args.step_ms }),
        Backend::Cpu | Backend::Cuda => BackendChoice::Cpu { threads: args.threads, dtype: dtype(args.dtype) },
    };
    config.limits = Limits {
        max_num_seqs: args.max_num_seqs,
        max_num_batched_tokens: args.max_num_batched_tokens,
        max_model_len: args.max_model_len,
        block_tokens: args.block_size,
        kv_blocks: args.num_kv_blocks,
        kv_bytes: args.kv_cache_mib.unwrap_or(KV_CACHE_MIB) << 20,
        kv_dtype: match args.kv_cache_dtype {
            KvCacheDtype::Auto => None,
            KvCacheDtype::Float32 => Some(KvDtype::Float32),
            KvCacheDtype::Float16 => Some(KvDtype::Float16),
        },
        prefix_caching: !args.no_enable_prefix_caching,
        residency_sample_ppm: if args.kv_cache_metrics { parts_per_million(args.kv_cache_metrics_sample)? } else { 0 },
        policy: match args.scheduling_policy {
            SchedulingPolicy::Fcfs => Policy::Fcfs,
            SchedulingPolicy::Priority => Policy::Priority,
        },
        step_time: Some(seconds("--step-budget-ms", args.step_budget_ms / 1e3)?).filter(|time| !time.is_zero()),
        kv_offloading_bytes: gib("--kv-offloading-size", args.kv_offloading_size.unwrap_or(0.0))?,
        waiting_max: Some(args.max_num_queued_reqs),
        waiting_tokens_max: Some(args.max_num_queued_tokens),
        ..Limits::default()
    };
    config.adapters = args.lora_modules.clone();
    (config.batch_adapters_max, config.adapter_rank_max) = (args.max_loras, args.max_lora_rank);
    config.adapters_max = args.max_cpu_loras.unwrap_or(config.adapters_max).max(args.max_loras);
    (config.runtime_adapters, config.adapter_root) = (args.allow_runtime_lora_updating, args.lora_root.clone());
    config.answers = AnswerOptions {
        prompt_tokens_details: args.enable_prompt_tokens_details,
        per_request_metrics: args.enable_per_request_metrics,
        force_include_usage: args.enable_force_include_usage,
        return_tokens_as_token_ids: args.return_tokens_as_token_ids,
        tokenizer_info: args.enable_tokenizer_info_endpoint,
        responses_store: args.enable_responses_store,
        structured_in_reasoning: chat::structured_in_reasoning(args.structured_outputs_config.as_deref())?,
        logprobs_max: u32::try_from(args.max_logprobs).ok(),
    };
    config.parsers = Parsers::named(Some(&args.tool_call_parser), Some(&args.reasoning_parser), args.enable_auto_tool_choice)?;
    config.dev_mode = args.dev_mode;
    config.http = HttpOptions {
        api_keys: args.api_key.clone(),
        cors: Cors {
            origins: args.allowed_origins.0.clone(),
            methods: args.allowed_methods.0.clone(),
            headers: args.allowed_headers.0.clone(),
            credentials: args.allow_credentials,
        },
        root_path: args.root_path.trim_end_matches('/').to_owned(),
    };
    config.data_parallel_rank = args.data_parallel_rank;
    config.kv_disk = args
        .kv_disk_path
        .as_ref()
        .map(|path| KvDiskConfig { path: path.clone(), bytes: args.kv_disk_size_mib.saturating_mul(1 << 20) });
    config.speculation = args.speculative_config.as_deref().map(engine_serve::speculation).transpose()?;
    config.kv_events = (!args.no_kv_events).then(|| kv_events(args));
    Ok(config)
}

fn dtype(dtype: Dtype) -> CpuDtype {
    match dtype {
        Dtype::Auto => CpuDtype::Auto,
        Dtype::Float32 => CpuDtype::Float32,
    }
}

fn runner(runner: args::Runner) -> Runner {
    match runner {
        args::Runner::Auto => Runner::Auto,
        args::Runner::Generate => Runner::Generate,
        args::Runner::Pooling => Runner::Pooling,
    }
}

fn convert(convert: args::Convert) -> Convert {
    match convert {
        args::Convert::Auto => Convert::Auto,
        args::Convert::None => Convert::None,
        args::Convert::Embed => Convert::Embed,
    }
}

fn kv_events(args: &EngineArgs) -> KvEventsConfig {
    let rank = args.data_parallel_rank;
    let at = |port: u16| format!("tcp://{}", SocketAddr::new(args.host, port));
    let endpoint = args.kv_events_endpoint.clone().unwrap_or_else(|| at(args.kv_events_port));
    let mut events = KvEventsConfig::bind(endpoint_of_rank(&endpoint, rank));
    events.data_parallel_rank = rank;
    // As vLLM: an endpoint that was written out is bound where it says `*`, else connected to.
    events.connect = args.kv_events_endpoint.as_deref().is_some_and(|endpoint| !engine_serve::binds(endpoint));
    events.replay_endpoint = Some(endpoint_of_rank(&at(args.kv_replay_port), rank));
    events.topic = args.kv_events_topic.clone();
    events.encoding = match args.kv_events_encoding {
        EventEncoding::Map => Encoding::Map,
        EventEncoding::Array => Encoding::Array,
    };
    events
}

/// A Hub id without what stands behind its colon; the last part of a path without `.gguf`; `builtin` is called that.
pub fn name_of(model: &str) -> String {
    if let Some(id) = builtin::on_hub(model) {
        return id.name().to_owned();
    }
    let file = Path::new(model).file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_else(|| model.to_owned());
    file.strip_suffix(".gguf").map_or(file.clone(), str::to_owned)
}

fn parts_per_million(part: f64) -> Result<u32, Fault> {
    match part > 0.0 && part <= 1.0 {
        true => Ok(((part * 1e6) as u32).max(1)),
        false => {
            let what = format!("--kv-cache-metrics-sample {part} is no part");
            Err(Fault::new(FaultKind::Usage, what, "give one above 0, at most 1"))
        }
    }
}

fn gib(flag: &str, value: f64) -> Result<usize, Fault> {
    match value {
        0.0..=1048576.0 => Ok((value * f64::from(1 << 30)) as usize),
        _ => Err(Fault::new(FaultKind::Usage, format!("{flag} {value} is no size"), "give GiB, 0 or more")),
    }
}

fn seconds(flag: &str, value: f64) -> Result<Duration, Fault> {
    Duration::try_from_secs_f64(value).map_err(|error| {
        Fault::new(FaultKind::Usage, format!("{flag} {value} is no duration"), "give seconds, 0 or more").because(error)
    })
}

/// Resolves when the process has ended, at once if there is none.
#[expect(
    deprecated,
    reason = "what replaces with_interest is unsafe for descriptors that may change under it; an OwnedFd does not"
)]
fn end_of(pid: i32) -> Result<impl Future<Output = ()> + Send + 'static, Fault> {
    let no_watch = |error: std::io::Error| {
        Fault::new(FaultKind::Usage, format!("cannot watch process {pid}"), "give the id of a running process").because(error)
    };
    let id = Pid::from_raw(pid).ok_or_else(|| no_watch(std::io::ErrorKind::InvalidInput.into()))?;
    let handle = match rustix::process::pidfd_open(id, PidfdFlags::NONBLOCK) {
        Ok(handle) => Some(AsyncFd::with_interest(handle, Interest::READABLE).map_err(no_watch)?),
        Err(rustix::io::Errno::SRCH) => None,
        Err(error) => return Err(no_watch(error.into())),
    };
    Ok(async move {
        if let Some(handle) = handle {
            // A descriptor that cannot be waited for says nothing of the process.
            if handle.readable().await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    })
}

/// What a GPU backend would find here.
fn devices(args: &EngineArgs) -> Result<(), Fault> {
    let report = engine_cuda::inspect();
    super::show(&format!("{report}\n"));
    let mut failed = Vec::new();
    for device in report.devices() {
        let line = match engine_cuda::selftest_rms_norm(device.index, 64, 4096, 1) {
            Ok(error) => {
                format!("GPU {}: self-test passed, rms_norm to a relative error of {:.1e}\n", device.index, error.relative)
            }
            Err(error) => {
                failed.push(device.index.to_string());
                format!("GPU {}: self-test failed: {error}; {}\n", device.index, error.action())
            }
        };
        super::show(&line);
    }
    if !failed.is_empty() {
        let what = format!("the self-test failed on GPU {}", failed.join(", "));
        return Err(Fault::new(FaultKind::Device, what, "see above, and the kernel's log for XIDs (dmesg)"));
    }
    if args.devices {
        return Ok(());
    }
    let action = "use --backend cpu; this version runs one kernel on a GPU and no model (trackside engine --devices)";
    Err(Fault::new(FaultKind::Device, "the CUDA backend does not serve models yet", action))
}
