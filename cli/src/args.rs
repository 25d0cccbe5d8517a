//! The command line as written. What it means is decided in `command/`.

use std::net::IpAddr;
use std::path::PathBuf;

use clap::{Parser, Subcommand, ValueEnum};

use crate::log;

mod vllm;

pub use vllm::Ignored;

/// Serves LLMs on a fleet: engines, node agents that watch them, and a scheduler that chooses between them.
#[derive(Debug, Parser)]
#[command(name = "trackside", version, max_term_width = 110, after_help = EXIT_CODES)]
pub struct Args {
    /// How log lines on stderr are written. TRACKSIDE_LOG filters them: `info`, `scheduler=debug`.
    #[arg(long, global = true, value_enum, default_value_t, env = "TRACKSIDE_LOG_FORMAT", value_name = "FORMAT")]
    pub log_format: log::Format,
    #[command(subcommand)]
    pub command: Command,
}

const EXIT_CODES: &str = "\
Exit codes: 0 done; 1 a defect of Trackside; 2 wrong command line; 3 wrong configuration; 4 model missing, damaged or unsupported;
5 address cannot be bound; 6 file or folder cannot be used; 7 something does not answer; 8 device absent or failed.";

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Everything on this machine in one command: engines, node agent, scheduler, gateway
    Up(UpArgs),
    /// One engine: serves a model over the OpenAI API
    Engine(Box<EngineArgs>),
    /// The node agent: starts, watches and restarts this machine's engines and reports to every scheduler
    Node(NodeArgs),
    /// The scheduler with its gateway: chooses an engine for each request
    Scheduler(SchedulerArgs),
    /// Prints the fleet as a scheduler sees it
    Status(StatusArgs),
    /// Tells where a request would go, and why
    Explain(ExplainArgs),
}

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  trackside up                                       the built-in model, one engine, gateway on 127.0.0.1:8000
  trackside up --model SmolLM2-135M-Instruct.Q4_1.gguf --engines 2
  trackside up -- --max-num-seqs 16                  what stands behind `--` goes to each engine

Ctrl-C drains: open answers are finished, then everything ends. A second Ctrl-C ends at once.")]
pub struct UpArgs {
    /// A Hugging Face folder, a .gguf file, a Hub id (org/name[:revision or file.gguf]), or `builtin`
    #[arg(long, default_value = crate::builtin::NAME, env = "TRACKSIDE_MODEL")]
    pub model: String,
    /// How many engines to start, one slot each
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=8))]
    pub engines: u16,
    /// Address that everything listens on
    #[arg(long, default_value = "127.0.0.1")]
    pub host: IpAddr,
    /// Port of the gateway; 0 takes any
    #[arg(long, default_value_t = 8000)]
    pub port: u16,
    /// Take any free port for every part (as tests do)
    #[arg(long)]
    pub any_port: bool,
    /// Where logs and the engines' records are kept [default: a folder of this run below the temporary one]
    #[arg(long, value_name = "DIR")]
    pub state_dir: Option<PathBuf>,
    /// Print one JSON line with what was bound instead of the screen
    #[arg(long)]
    pub json: bool,
    /// Answers say which engine gave them and how much of the prompt was cached there (x-trackside-… headers)
    #[arg(long)]
    pub debug_headers: bool,
    /// Flags for each engine, behind `--`; see `trackside engine --help`
    #[arg(last = true, value_name = "ENGINE_FLAGS")]
    pub engine_flags: Vec<String>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Backend {
    /// Own kernels: AVX-512, AVX2 or portable, chosen at start
    #[default]
    Cpu,
    /// No arithmetic: deterministic tokens at the speed you name
    Fake,
    /// NVIDIA GPUs; in this version it only says what it finds
    Cuda,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum KvCacheDtype {
    #[default]
    Auto,
    Float32,
    Float16,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Runner {
    #[default]
    Auto,
    Generate,
    Pooling,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Convert {
    #[default]
    Auto,
    None,
    Embed,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum SchedulingPolicy {
    /// First come, first served
    #[default]
    Fcfs,
    /// The lower a request's `priority` the sooner; nothing ages, so those behind may wait for as long as more urgent ones come
    Priority,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum EventEncoding {
    /// vLLM from 0.24 on
    #[default]
    Map,
    /// vLLM up to 0.23, SGLang
    Array,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Dtype {
    /// Block types (Q8_0, Q4_K …) by activations of eight bits, as llama.cpp does; other weights in f32
    #[default]
    Auto,
    /// All weights by activations in f32: exact, slower
    #[value(alias = "float")]
    Float32,
}

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  trackside engine --model builtin
  trackside engine --model ./Llama-3.2-1B-Instruct --port 0 --kv-cache-mib 2048
  trackside engine --model builtin --backend fake --prefill-tok-s 5000 --step-ms 20

The first line on stdout is JSON and says what was bound. SIGTERM and Ctrl-C drain, for at most --shutdown-timeout-s.")]
pub struct EngineArgs {
    /// A Hugging Face folder, a .gguf file, a Hub id (org/name[:revision or file.gguf]), or `builtin`
    #[arg(long, default_value = crate::builtin::NAME, env = "TRACKSIDE_MODEL")]
    pub model: String,
    /// Names that clients may use for it [default: the folder's or file's name]
    #[arg(long, value_name = "NAME", num_args = 1..)]
    pub served_model_name: Vec<String>,
    /// What computes
    #[arg(long, value_enum, default_value_t)]
    pub backend: Backend,
    /// Fake backend: tokens per second of prefill
    #[arg(long, default_value_t = 10_000.0, value_name = "N")]
    pub prefill_tok_s: f64,
    /// Fake backend: duration of a decode step
    #[arg(long, default_value_t = 10.0, value_name = "MS")]
    pub step_ms: f64,
    /// Say which devices there are, and end
    #[arg(long)]
    pub devices: bool,

    /// Address to listen on
    #[arg(long, default_value = "127.0.0.1")]
    pub host: IpAddr,
    /// Port to listen on; 0 takes any
    #[arg(long, default_value_t = 8200)]
    pub port: u16,
    /// End when this process does, as the engines of `trackside up` end with it
    #[arg(long, value_name = "PID")]
    pub end_with: Option<i32>,
    /// How long open answers may take after SIGTERM
    #[arg(long, default_value_t = 30.0, value_name = "S")]
    pub shutdown_timeout_s: f64,
    /// How long an engine with work may make no step; it is stuck then, and the process ends with code 8
    #[arg(long, default_value_t = 300.0, value_name = "S")]
    pub step_timeout_s: f64,

    /// Threads that compute [default: the cores that affinity and cgroup allow]
    #[arg(long, value_name = "N")]
    pub threads: Option<usize>,
    /// Numbers in which quantised weights are multiplied
    #[arg(long, value_enum, default_value_t)]
    pub dtype: Dtype,
    /// Longest prompt plus answer [default: what the KV cache holds, at most the model's]
    #[arg(long, value_name = "TOKENS")]
    pub max_model_len: Option<usize>,
    /// Most requests in one step
    #[arg(long, default_value_t = 64, value_name = "N")]
    pub max_num_seqs: usize,
    /// Most tokens in one step; a longer prompt is prefilled in chunks
    #[arg(long, default_value_t = 512, value_name = "N")]
    pub max_num_batched_tokens: usize,
    /// Tokens of one KV block
    #[arg(long, default_value_t = 16, value_name = "TOKENS")]
    pub block_size: usize,
    /// KV cache, reserved at the start [default: 512]
    #[arg(long, value_name = "MIB")]
    pub kv_cache_mib: Option<usize>,
    /// KV cache in blocks; wins over --kv-cache-mib
    #[arg(long, value_name = "BLOCKS")]
    pub num_kv_blocks: Option<usize>,
    /// What keys and values are stored as; auto: what suits the weights
    #[arg(long, value_enum, default_value_t)]
    pub kv_cache_dtype: KvCacheDtype,
    /// Host memory for KV blocks that leave the cache, in GiB; they come back when a prompt begins alike [default: none]
    #[arg(long, value_name = "GIB")]
    pub kv_offloading_size: Option<f64>,
    /// Folder for KV blocks that leave that memory; an engine finds them again after a restart
    #[arg(long, value_name = "DIR", requires = "kv_offloading_size")]
    pub kv_disk_path: Option<PathBuf>,
    /// Size of the file in that folder
    #[arg(long, default_value_t = 4096, value_name = "MIB")]
    pub kv_disk_size_mib: u64,
    /// Keep no computed blocks for prompts that begin alike
    #[arg(long)]
    pub no_enable_prefix_caching: bool,
    /// Measure how long KV blocks stay: vllm:kv_block_* of /metrics
    #[arg(long)]
    pub kv_cache_metrics: bool,
    /// Part of the blocks that is measured, above 0 to 1
    #[arg(long, default_value_t = 0.01, value_name = "PART")]
    pub kv_cache_metrics_sample: f64,
    /// In which order waiting requests are admitted and running ones preempted
    #[arg(long, value_enum, default_value_t)]
    pub scheduling_policy: SchedulingPolicy,
    /// How long a step with decodes in it should take; a long prompt gets as many tokens as fit. 0: as many as it wants
    #[arg(long, default_value_t = 100.0, value_name = "MS")]
    pub step_budget_ms: f64,
    /// Serve vLLM's developer endpoints: /pause, /sleep, /reset_prefix_cache and their like
    #[arg(long, env = "VLLM_SERVER_DEV_MODE", value_parser = clap::builder::FalseyValueParser::new())]
    pub dev_mode: bool,
    /// Most requests that wait; the next one is a 503
    #[arg(long, default_value_t = 1024, value_name = "N")]
    pub max_num_queued_reqs: usize,
    /// Most prompt tokens that wait
    #[arg(long, default_value_t = 4_194_304, value_name = "N")]
    pub max_num_queued_tokens: usize,

    /// Whether the engine generates or embeds; auto: what the model is made for
    #[arg(long, value_enum, default_value_t)]
    pub runner: Runner,
    /// Whether a language model is made to embed
    #[arg(long, value_enum, default_value_t)]
    pub convert: Convert,
    /// How vectors are made, as vLLM's JSON: pooling_type (CLS, LAST, MEAN), use_activation (whether they are divided by their length)
    #[arg(long, value_name = "JSON")]
    pub pooler_config: Option<String>,
    /// Speculative decoding by prompt lookup, as vLLM's JSON: method (ngram), num_speculative_tokens, prompt_lookup_min, prompt_lookup_max
    #[arg(long, value_name = "JSON")]
    pub speculative_config: Option<String>,
    /// LoRA adapters as PEFT saves them, served beside the model under names of their own
    #[arg(long, value_name = "NAME=DIR", num_args = 1.., value_parser = lora_module)]
    pub lora_modules: Vec<(String, PathBuf)>,
    /// Most adapters among the requests that run; requests for another one wait
    #[arg(long, default_value_t = 8, value_name = "N")]
    pub max_loras: usize,
    /// Most adapters loaded at once [default: 32, or --max-loras where that is more]
    #[arg(long, value_name = "N")]
    pub max_cpu_loras: Option<usize>,
    /// Load and unload adapters by POST /v1/load_lora_adapter and /v1/unload_lora_adapter
    #[arg(long, env = "VLLM_ALLOW_RUNTIME_LORA_UPDATING", value_parser = clap::builder::FalseyValueParser::new())]
    pub allow_runtime_lora_updating: bool,
    /// Folder below which those adapters lie [default: anywhere that this process may read]
    #[arg(long, value_name = "DIR")]
    pub lora_root: Option<PathBuf>,
    /// Largest rank of an adapter
    #[arg(long, default_value_t = 64, value_name = "N")]
    pub max_lora_rank: usize,

    /// How the model writes tool calls: hermes, llama3_json, mistral, … as vLLM names them; a name that is none lists all.
    /// auto: as its chat template says; none: calls stay text
    #[arg(long, default_value = "auto", value_name = "NAME")]
    pub tool_call_parser: String,
    /// How the model marks its thought: qwen3, deepseek_r1, mistral, …; auto and none as above
    #[arg(long, default_value = "auto", value_name = "NAME")]
    pub reasoning_parser: String,
    /// Refuse to start where nothing says how the model calls tools; `tool_choice: auto` is served in any case
    #[arg(long)]
    pub enable_auto_tool_choice: bool,
    /// Chat template in place of the model's: a file, or Jinja on one line
    #[arg(long, value_name = "FILE|JINJA")]
    pub chat_template: Option<String>,
    /// Variables for the template where a request's chat_template_kwargs do not set them, such as '{"enable_thinking": false}'
    #[arg(long, value_name = "JSON")]
    pub default_chat_template_kwargs: Option<String>,
    /// What the template sees as `content`: a text, or OpenAI's list of parts; auto: as it reads
    #[arg(long, value_enum, default_value_t)]
    pub chat_template_content_format: ContentFormat,

    /// Structured outputs, as vLLM's JSON: backend (auto or guidance), enable_in_reasoning (a grammar holds for the thought, too)
    #[arg(long, value_name = "JSON")]
    pub structured_outputs_config: Option<String>,

    /// Most log probabilities of one position; -1: as many as the vocabulary has
    #[arg(long, default_value_t = 20, value_name = "N", allow_negative_numbers = true)]
    pub max_logprobs: i64,
    /// Say in `usage` how many prompt tokens the prefix cache held
    #[arg(long)]
    pub enable_prompt_tokens_details: bool,
    /// Say in each answer where its time went
    #[arg(long)]
    pub enable_per_request_metrics: bool,
    /// Put the usage on every stream, in each chunk and at its end
    #[arg(long)]
    pub enable_force_include_usage: bool,
    /// Write tokens in log probabilities as token_id:N
    #[arg(long)]
    pub return_tokens_as_token_ids: bool,
    /// Answer GET /tokenizer_info
    #[arg(long)]
    pub enable_tokenizer_info_endpoint: bool,
    /// Keep answers of /v1/responses, for GET by id and previous_response_id
    #[arg(long)]
    pub enable_responses_store: bool,

    /// Keys of which `Authorization: Bearer` must hold one, for /v1 and all that generates [default: anybody may ask]
    #[arg(long, value_name = "KEY", num_args = 1.., env = "VLLM_API_KEY", hide_env_values = true)]
    pub api_key: Vec<String>,
    /// Origins whose pages may read answers, as a JSON list
    #[arg(long, default_value = "[\"*\"]", value_name = "JSON", value_parser = names)]
    pub allowed_origins: Names,
    /// Methods that such pages may use, as a JSON list
    #[arg(long, default_value = "[\"*\"]", value_name = "JSON", value_parser = names)]
    pub allowed_methods: Names,
    /// Headers that such pages may send, as a JSON list
    #[arg(long, default_value = "[\"*\"]", value_name = "JSON", value_parser = names)]
    pub allowed_headers: Names,
    /// Such pages may send cookies
    #[arg(long)]
    pub allow_credentials: bool,
    /// Prefix below which every path is served as well, for a proxy that does not take it off
    #[arg(long, default_value = "", value_name = "PATH")]
    pub root_path: String,
    #[command(flatten)]
    pub ignored: Ignored,

    /// Rank of this engine in a data-parallel deployment: the `engine` label of metrics and events; moves the ports of KV events by it
    #[arg(long, default_value_t = 0, value_parser = clap::value_parser!(u32).range(0..=4096), value_name = "RANK")]
    pub data_parallel_rank: u32,
    /// Port of the KV events (ZMQ PUB on --host); 0 takes any
    #[arg(long, default_value_t = 5557, value_name = "PORT")]
    pub kv_events_port: u16,
    /// Port from which lost KV events can be asked for again (ZMQ ROUTER); 0 takes any
    #[arg(long, default_value_t = 5657, value_name = "PORT")]
    pub kv_replay_port: u16,
    /// ZMQ endpoint for KV events as vLLM spells it; one without `*` is connected to, not bound. Wins over --kv-events-port
    #[arg(long, value_name = "ENDPOINT")]
    pub kv_events_endpoint: Option<String>,
    /// Publish no KV events
    #[arg(long)]
    pub no_kv_events: bool,
    /// How events are written: as maps or as arrays
    #[arg(long, value_enum, default_value_t)]
    pub kv_events_encoding: EventEncoding,
    /// Topic of the events
    #[arg(long, default_value = "", value_name = "TOPIC")]
    pub kv_events_topic: String,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum ContentFormat {
    #[default]
    Auto,
    String,
    Openai,
}

/// Words of a JSON list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Names(pub Vec<String>);

fn names(text: &str) -> Result<Names, String> {
    serde_json::from_str(text).map(Names).map_err(|error| format!("write a JSON list of strings, such as '[\"*\"]': {error}"))
}

fn lora_module(text: &str) -> Result<(String, PathBuf), String> {
    match text.split_once('=') {
        Some((name, path)) if !name.is_empty() && !path.is_empty() => Ok((name.to_owned(), PathBuf::from(path))),
        _ => Err("write NAME=DIR".to_owned()),
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum OnStop {
    /// The engines go on and are adopted by the next agent
    Leave,
    /// The engines finish what they have and end with the agent
    Drain,
}

#[derive(Debug, clap::Args)]
#[command(after_help = "\
A configuration (all keys: docs/configuration.md):
  schedulers: [\"10.0.0.5:9010\"]
  slots:
    - { kind: native, model: /models/Llama-3.2-1B-Instruct }       # our engine, on port 8200
    - { kind: command, port: 8201, command: [vllm, serve, Qwen/Qwen3-8B, --port, \"8201\"] }
    - { kind: attach, address: \"127.0.0.1:8300\" }                  # somebody else runs it

However the agent ends, its engines go on, and the next agent with the same --state-dir adopts them.")]
pub struct NodeArgs {
    /// What to run and whom to tell
    #[arg(long, value_name = "FILE")]
    pub config: PathBuf,
    /// Where pids, start times and logs of engines are kept
    #[arg(long, value_name = "DIR")]
    pub state_dir: Option<PathBuf>,
    /// What becomes of the engines when the agent is asked to end [default: as configured, else leave]
    #[arg(long, value_enum)]
    pub on_stop: Option<OnStop>,
    /// Take any free port for every part
    #[arg(long)]
    pub any_port: bool,
}

#[derive(Debug, clap::Args)]
pub struct SchedulerArgs {
    /// Configuration; without one, the defaults of docs/configuration.md
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Take any free port for every part
    #[arg(long)]
    pub any_port: bool,
}

#[derive(Debug, clap::Args)]
pub struct StatusArgs {
    /// Admin address of a scheduler
    #[arg(long, default_value = "127.0.0.1:9090", value_name = "HOST:PORT")]
    pub scheduler: String,
    /// The whole answer as JSON
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  trackside explain 'What is a KV cache?'
  trackside explain --body request.json --json       exactly this request body")]
pub struct ExplainArgs {
    /// A user's message; the rest of the request is made up around it
    #[arg(required_unless_present = "body")]
    pub message: Option<String>,
    /// An OpenAI request body; `-` reads stdin
    #[arg(long, value_name = "FILE")]
    pub body: Option<PathBuf>,
    /// Model to ask for [default: the only one that is served]
    #[arg(long)]
    pub model: Option<String>,
    /// Admin address of a scheduler
    #[arg(long, default_value = "127.0.0.1:9090", value_name = "HOST:PORT")]
    pub scheduler: String,
    /// The whole answer as JSON
    #[arg(long)]
    pub json: bool,
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use clap::Args;

    use super::EngineArgs;

    /// Flags in the tables of a page, and the defaults that stand beside them.
    fn rows(page: &str) -> BTreeMap<&str, &str> {
        let row = |line| {
            let mut cells = str::strip_prefix(line, "| `--")?.splitn(3, '|').map(str::trim);
            Some((cells.next()?.strip_suffix('`')?, cells.next()?))
        };
        page.lines().filter_map(row).collect()
    }

    #[test]
    fn the_page_has_every_flag_of_the_engine_with_its_default() {
        let mut rows = rows(include_str!("../../docs/configuration.md"));
        for flag in EngineArgs::augment_args(clap::Command::new("engine")).get_arguments() {
            // Those of vLLM's that change nothing here.
            if flag.is_hide_set() {
                continue;
            }
            let name = flag.get_long().expect("all are long flags");
            let written = rows.remove(name).unwrap_or_else(|| panic!("docs/configuration.md has no row for --{name}"));
            let default = flag.get_default_values().iter().map(|value| value.to_string_lossy()).collect::<Vec<_>>().join(" ");
            if flag.get_action().takes_values() && !default.is_empty() {
                assert_eq!(written, default, "the default of --{name}");
            }
        }
        assert!(rows.is_empty(), "docs/configuration.md has rows of flags that are not there: {rows:?}");
    }
}
