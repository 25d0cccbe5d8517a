//! `vllm:*` metrics: names, labels and buckets of vLLM 0.33 (`v1/metrics/loggers.py`), so that its dashboards and routers read this
//! engine. Handles are held; only a scrape looks anything up.

mod absent;
mod answers;
mod buckets;
mod drafts;
mod lora;
mod old;
mod process;
mod residency;
mod sleep;
mod tiers;
mod tokenizer;

use std::sync::Arc;
use std::time::Instant;

use engine::observe::{FinishedReport, Observer, Stats, StepReport};
use engine::request::{FinishReason, Rejected};
use engine_cpu::KvDtype;
use engine_text::Recall;
use prometheus::core::Collector;
use prometheus::{
    Encoder, Gauge, GaugeVec, Histogram, HistogramOpts, IntCounter, IntCounterVec, IntGauge, Opts, Registry, TextEncoder,
};

use absent::Absent;
use answers::{Answering, Answers};
use drafts::Drafts;
use old::Old;
use process::Process;
use sleep::Operating;

use crate::adapters::InUse;
use crate::in_flight::Changed;

/// What labels a series: constant for the life of an engine.
#[derive(Clone, Debug)]
pub struct Labels<'a> {
    pub model_name: &'a str,
    /// Data-parallel rank, as vLLM writes it.
    pub engine: u32,
    pub max_model_len: usize,
    /// Most drafts of one row; 0 where there are none.
    pub drafts_max: usize,
    /// Most adapters of one batch.
    pub adapters_max: usize,
    /// Whether stays of KV blocks are followed.
    pub residency: bool,
    /// Whether the engine can be sent to sleep.
    pub developer: bool,
}

/// Facts for `vllm:cache_config_info`.
#[derive(Clone, Copy, Debug)]
pub struct CacheFacts {
    pub block_tokens: usize,
    pub blocks: usize,
    pub prefix_caching: bool,
    /// `None`: nothing is stored.
    pub dtype: Option<KvDtype>,
}

/// Every metric of one engine.
pub struct Metrics {
    registry: Registry,
    running: IntGauge,
    waiting: IntGauge,
    waiting_capacity: Gauge,
    waiting_deferred: Gauge,
    kv_cache_usage: Gauge,
    /// What that gauge was called until 2025; dashboards still ask for it.
    gpu_cache_usage: Gauge,
    cache_config: GaugeVec,
    lora: lora::Lora,
    prefix_queries: IntCounter,
    prefix_hits: IntCounter,
    preemptions: IntCounter,
    corrupted: IntCounter,
    drafts: Option<Drafts>,
    residency: Option<residency::Residency>,
    prompt_tokens: IntCounter,
    prompt_tokens_cached: IntCounter,
    sources: Sources,
    tiers: tiers::Tiers,
    sleep: sleep::Sleep,
    operations: Option<sleep::Operations>,
    tokenizer: tokenizer::Tokenizer,
    generation_tokens: IntCounter,
    success: Success,
    rejections: Rejections,
    time_to_first_token: Histogram,
    inter_token_latency: Histogram,
    time_per_output_token: Histogram,
    e2e: Histogram,
    queue: Histogram,
    inference: Histogram,
    prefill: Histogram,
    decode: Histogram,
    request_prompt_tokens: Histogram,
    request_generation_tokens: Histogram,
    request_most_generated: Histogram,
    request_max_tokens: Histogram,
    request_prefill_computed: Histogram,
    request_params_n: Histogram,
    request_preemptions: Histogram,
    iteration_tokens: Histogram,
    answers: Answers,
    old: Old,
    _absent: Absent,
    process: Process,
    /// KV event batches that the publisher's queue could not take.
    pub kv_events_dropped: IntCounter,
}

/// `vllm:request_success_total` by reason.
struct Success {
    stop: IntCounter,
    length: IntCounter,
    abort: IntCounter,
    error: IntCounter,
    repetition: IntCounter,
}

/// `vllm:prompt_tokens_by_source_total`.
struct Sources {
    computed: IntCounter,
    cached: IntCounter,
    remote: IntCounter,
}

/// `vllm:admission_rejections_total` by reason.
struct Rejections {
    requests: IntCounter,
    tokens: IntCounter,
    not_ready: IntCounter,
}

/// Registers metrics that share their constant labels.
struct Maker<'a> {
    registry: &'a Registry,
    labels: &'a Labels<'a>,
}

impl Maker<'_> {
    fn opts(&self, name: &str, help: &str) -> Opts {
        self.bare(name, help)
            .const_label("model_name", self.labels.model_name)
            .const_label("engine", self.labels.engine.to_string())
    }

    fn bare(&self, name: &str, help: &str) -> Opts {
        Opts::new(format!("vllm:{name}"), help)
    }

    fn held<C: Collector + Clone + 'static>(&self, made: prometheus::Result<C>) -> C {
        let collector = made.expect("names and labels are written in this file and valid");
        self.registry.register(Box::new(collector.clone())).expect("every name is registered once");
        collector
    }

    fn gauge(&self, name: &str, help: &str) -> IntGauge {
        self.held(IntGauge::with_opts(self.opts(name, help)))
    }

    fn counter(&self, name: &str, help: &str) -> IntCounter {
        self.held(IntCounter::with_opts(self.opts(&format!("{name}_total"), help)))
    }

    fn counters<const N: usize>(&self, name: &str, help: &str, label: &str, values: [&str; N]) -> [IntCounter; N] {
        let family = self.held(IntCounterVec::new(self.opts(&format!("{name}_total"), help), &[label]));
        values.map(|value| family.with_label_values(&[value]))
    }

    fn histogram(&self, name: &str, help: &str, buckets: impl Into<Vec<f64>>) -> Histogram {
        self.held(Histogram::with_opts(HistogramOpts { common_opts: self.opts(name, help), buckets: buckets.into() }))
    }
}

impl Metrics {
    pub fn new(labels: &Labels<'_>) -> Self {
        let registry = Registry::new();
        let make = Maker { registry: &registry, labels };
        let by_reason =
            make.held(GaugeVec::new(make.opts("num_requests_waiting_by_reason", "Requests that wait, by reason."), &["reason"]));
        let [stop, length, abort, error, repetition] = make.counters(
            "request_success",
            "Requests that ended, by reason.",
            "finished_reason",
            ["stop", "length", "abort", "error", "repetition"],
        );
        let [requests, tokens, not_ready] = make.counters(
            "admission_rejections",
            "Requests turned away before they were queued, by reason.",
            "reason",
            ["max_num_queued_reqs", "max_num_queued_tokens", "not_ready"],
        );
        let [computed, cached, remote] = make.counters(
            "prompt_tokens_by_source",
            "Prompt tokens of admitted requests, by where their KV comes from.",
            "source",
            ["local_compute", "local_cache_hit", "external_kv_transfer"],
        );
        let lengths = || buckets::one_two_five(labels.max_model_len);
        let cache_labels =
            ["block_size", "num_gpu_blocks", "cache_dtype", "enable_prefix_caching", "gpu_memory_utilization", "num_cpu_blocks"];
        Self {
            running: make.gauge("num_requests_running", "Requests in the running batch."),
            waiting: make.gauge("num_requests_waiting", "Requests that wait for admission to the batch."),
            waiting_capacity: by_reason.with_label_values(&["capacity"]),
            waiting_deferred: by_reason.with_label_values(&["deferred"]),
            kv_cache_usage: make.held(Gauge::with_opts(make.opts("kv_cache_usage_perc", "KV blocks held by requests, 0 to 1."))),
            gpu_cache_usage: make
                .held(Gauge::with_opts(make.opts("gpu_cache_usage_perc", "The old name of kv_cache_usage_perc."))),
            cache_config: make
                .held(GaugeVec::new(make.opts("cache_config_info", "Configuration of the KV cache."), &cache_labels)),
            lora: lora::Lora::new(&make, labels.adapters_max),
            prefix_queries: make.counter("prefix_cache_queries", "Prompt tokens looked up in the prefix cache."),
            prefix_hits: make.counter("prefix_cache_hits", "Prompt tokens found in the prefix cache."),
            drafts: Drafts::new(&make, labels.drafts_max),
            residency: labels.residency.then(|| residency::Residency::new(&make)),
            corrupted: make.counter(
                "corrupted_requests",
                "Requests that failed because the model's output held no numbers (NaN or infinity).",
            ),
            preemptions: make.counter("num_preemptions", "Requests that lost their KV blocks and were computed again."),
            prompt_tokens: make.counter("prompt_tokens", "Prompt tokens of admitted requests."),
            prompt_tokens_cached: make.counter("prompt_tokens_cached", "Prompt tokens that were not computed."),
            generation_tokens: make.counter("generation_tokens", "Tokens generated."),
            sources: Sources { computed, cached, remote },
            tiers: tiers::Tiers::new(&make),
            sleep: sleep::Sleep::new(&make),
            operations: labels.developer.then(|| sleep::Operations::new(&make)),
            tokenizer: tokenizer::Tokenizer::new(&make),
            success: Success { stop, length, abort, error, repetition },
            rejections: Rejections { requests, tokens, not_ready },
            time_to_first_token: make.histogram(
                "time_to_first_token_seconds",
                "From a request's arrival to its first token.",
                buckets::FIRST_TOKEN,
            ),
            inter_token_latency: make.histogram("inter_token_latency_seconds", "From one token to the next.", buckets::PER_TOKEN),
            time_per_output_token: make.histogram(
                "request_time_per_output_token_seconds",
                "Mean time between the tokens of a request.",
                buckets::PER_TOKEN,
            ),
            e2e: make.histogram("e2e_request_latency_seconds", "From a request's arrival to its end.", buckets::REQUEST),
            queue: make.histogram("request_queue_time_seconds", "From arrival to admission.", buckets::REQUEST),
            inference: make.histogram("request_inference_time_seconds", "From admission to the last token.", buckets::REQUEST),
            prefill: make.histogram("request_prefill_time_seconds", "From admission to the first token.", buckets::REQUEST),
            decode: make.histogram("request_decode_time_seconds", "From the first token to the last.", buckets::REQUEST),
            request_prompt_tokens: make.histogram("request_prompt_tokens", "Prompt tokens of a request.", lengths()),
            request_generation_tokens: make.histogram("request_generation_tokens", "Tokens generated for a request.", lengths()),
            request_most_generated: make.histogram(
                "request_max_num_generation_tokens",
                "Most tokens generated for any choice of a request.",
                lengths(),
            ),
            request_max_tokens: make.histogram("request_params_max_tokens", "max_tokens of a request.", lengths()),
            request_prefill_computed: make.histogram(
                "request_prefill_kv_computed_tokens",
                "Prompt tokens of a request that were computed here.",
                lengths(),
            ),
            request_params_n: make.histogram("request_params_n", "n of a request.", buckets::N),
            request_preemptions: make.histogram(
                "request_num_preemptions",
                "How often a request was preempted.",
                buckets::PREEMPTIONS,
            ),
            iteration_tokens: make.histogram("iteration_tokens_total", "Tokens computed in one step.", buckets::ITERATION),
            answers: Answers::new(&make),
            old: Old::new(&make),
            _absent: Absent::new(&make),
            process: Process::new(&make),
            kv_events_dropped: make.held(IntCounter::new(
                "trackside_kv_event_batches_dropped_total",
                "KV event batches that found the publisher's queue full; subscribers see a gap.",
            )),
            registry,
        }
    }

    /// Says what the engine's cache is.
    pub fn describe(&self, cache: CacheFacts) {
        let CacheFacts { block_tokens, blocks, prefix_caching, dtype } = cache;
        // Labels are strings as Python writes them; routers parse block_size and num_gpu_blocks.
        let caching = if prefix_caching { "True" } else { "False" };
        let dtype = dtype.map_or_else(|| "auto".to_owned(), |dtype| dtype.to_string());
        let values = [&block_tokens.to_string(), &blocks.to_string(), &dtype, caching, "0.0", "0"];
        self.cache_config.with_label_values(&values).set(1.0);
    }

    /// A request that was not queued.
    pub fn rejected(&self, reason: &Rejected) {
        match reason {
            Rejected::QueueFull { .. } => self.rejections.requests.inc(),
            Rejected::QueueTokensFull { .. } => self.rejections.tokens.inc(),
            Rejected::Paused | Rejected::Draining | Rejected::EngineDead => self.rejections.not_ready.inc(),
            _ => {}
        }
    }

    /// A request that came while the engine loads.
    pub fn rejected_not_ready(&self) {
        self.rejections.not_ready.inc();
    }

    /// Requests that ask for `n` choices.
    pub fn asked(&self, n: u32) {
        self.request_params_n.observe(f64::from(n));
    }

    /// The engine is being sent to sleep, or woken, until what this gives is dropped.
    pub fn sleeping(&self) -> Option<Operating> {
        self.operations.as_ref().map(|operations| operations.sleep.begin())
    }

    pub fn waking(&self) -> Option<Operating> {
        self.operations.as_ref().map(|operations| operations.wake.begin())
    }

    /// An HTTP answer of the route `path`, `None` where no route matched, to a request that came at `began`. What it gives is held as long
    /// as the answer's body is on its way.
    pub fn answered(&self, path: Option<&str>, status: u16, began: Instant) -> Option<Answering> {
        self.answers.count(path, status, began)
    }

    /// Prometheus' text format, version 0.0.4. `None`: there is no engine yet.
    pub fn scrape(&self, stats: Option<&Stats>, adapters: &InUse, recall: Option<Recall>) -> Vec<u8> {
        if let Some(recall) = recall {
            self.tokenizer.read(recall);
        }
        if let Some(stats) = stats {
            self.running.set(stats.running as i64);
            self.waiting.set(stats.waiting as i64);
            self.waiting_deferred.set(stats.waiting_remote as f64);
            self.waiting_capacity.set(stats.waiting.saturating_sub(stats.waiting_remote) as f64);
            let (used, total) = (stats.used_blocks as f64, stats.total_blocks.max(1) as f64);
            self.kv_cache_usage.set(used / total);
            self.gpu_cache_usage.set(used / total);
            self.tiers.read(stats);
            self.sleep.read(stats);
        }
        self.process.read();
        self.lora.read(adapters);
        let mut text = Vec::with_capacity(32 << 10);
        TextEncoder::new().encode(&self.registry.gather(), &mut text).expect("writing to memory");
        text
    }

    fn finished(&self, report: &FinishedReport) {
        match report.reason {
            FinishReason::Eos | FinishReason::StopId(_) | FinishReason::Stop | FinishReason::MaskEnded | FinishReason::Pooled => {
                self.success.stop.inc()
            }
            FinishReason::Length => self.success.length.inc(),
            FinishReason::Aborted => self.success.abort.inc(),
            FinishReason::Repetition => self.success.repetition.inc(),
            FinishReason::AdapterGone(_) | FinishReason::Error(_) => self.success.error.inc(),
        }
        self.e2e.observe(report.e2e.as_secs_f64());
        let intervals = [
            (&self.queue, report.queue),
            (&self.prefill, report.prefill),
            (&self.decode, report.decode),
            (&self.inference, report.inference),
        ];
        for (histogram, interval) in intervals {
            interval.iter().for_each(|interval| histogram.observe(interval.as_secs_f64()));
        }
        if let (Some(decode), 2..) = (report.decode, report.generated_tokens) {
            self.time_per_output_token.observe(decode.as_secs_f64() / f64::from(report.generated_tokens - 1));
        }
        self.request_prompt_tokens.observe(f64::from(report.prompt_tokens));
        self.request_generation_tokens.observe(f64::from(report.generated_tokens));
        // Of one sequence, the most is what it has.
        self.request_most_generated.observe(f64::from(report.generated_tokens));
        self.request_max_tokens.observe(f64::from(report.tokens_max));
        self.request_prefill_computed.observe(f64::from(report.prompt_tokens.saturating_sub(report.cached_tokens)));
        self.request_preemptions.observe(f64::from(report.preemptions));
    }

    fn step(&self, report: &StepReport) {
        report.settled.iter().for_each(|batch| self.iteration_tokens.observe(f64::from(batch.tokens())));
        for admitted in &report.admitted {
            self.prefix_queries.inc_by(admitted.prompt_tokens.into());
            let hits = admitted.cached_tokens.saturating_sub(admitted.host_tokens + admitted.disk_tokens);
            self.prefix_hits.inc_by(hits.into());
            self.old.looked_up(admitted.prompt_tokens, hits);
            self.tiers.admitted(admitted);
            self.prompt_tokens.inc_by(admitted.prompt_tokens.into());
            let (cached, remote) = (u64::from(admitted.cached_tokens), u64::from(admitted.remote_tokens));
            self.prompt_tokens_cached.inc_by(cached + remote);
            self.sources.cached.inc_by(cached);
            self.sources.remote.inc_by(remote);
            self.sources.computed.inc_by(u64::from(admitted.prompt_tokens).saturating_sub(cached + remote));
        }
        // As in vLLM, a vector comes when a first token would.
        report
            .first_token
            .iter()
            .chain(&report.vectors)
            .for_each(|latency| self.time_to_first_token.observe(latency.as_secs_f64()));
        for latency in &report.inter_token {
            self.inter_token_latency.observe(latency.as_secs_f64());
            self.old.time_per_output_token.observe(latency.as_secs_f64());
        }
        self.generation_tokens.inc_by((report.first_token.len() + report.inter_token.len()) as u64);
        self.preemptions.inc_by(report.preempted.into());
        self.corrupted.inc_by(report.corrupted.into());
        if let Some(drafts) = &self.drafts {
            report.drafts.iter().for_each(|report| drafts.settled(report));
        }
        if let Some(residency) = &self.residency {
            report.evictions.iter().for_each(|eviction| residency.evicted(eviction));
        }
        report.finished.iter().for_each(|report| self.finished(report));
    }
}

/// Feeds the metrics from the engine's thread, and tells those who watch its state.
pub struct Recorder {
    metrics: Arc<Metrics>,
    changed: Changed,
    /// The engine's first request is its own trial, which is nobody's and is not counted.
    tried: bool,
}

impl Recorder {
    pub fn new(metrics: Arc<Metrics>, changed: Changed) -> Self {
        Self { metrics, changed, tried: false }
    }
}

impl Observer for Recorder {
    fn step(&mut self, report: &StepReport) {
        if self.tried {
            self.metrics.step(report);
        } else {
            self.tried = !report.finished.is_empty();
        }
        self.changed.tell();
    }
}
