//! A request as the engine sees it: token ids in, token ids out.

use std::fmt;
use std::sync::Arc;
use std::time::Instant;

use domain::ExtraKeys;

use crate::sample::LogitMask;

mod extras;

pub(crate) use extras::Named;
pub use extras::SamplingExtras;

/// The engine's own number of a request, unique in one life of the engine. A client's request id is a label of the edge: two
/// clients may use the same one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RequestId(pub u64);

impl fmt::Display for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// What is submitted.
pub struct NewRequest {
    /// 1 ..= context length - 1 token ids, each below the vocabulary size.
    pub prompt: Arc<[u32]>,
    pub extra: ExtraKeys,
    pub sampling: Sampling,
    /// What few requests ask beyond that; choices of one client's request share it.
    pub extras: Option<Arc<SamplingExtras>>,
    /// Structured output.
    pub mask: Option<Box<dyn LogitMask>>,
    pub finish: FinishRules,
    /// Lower is more urgent; 0 unless the engine's [`Policy`](crate::config::Policy) is priority.
    pub priority: i64,
    /// vLLM's `kv_transfer_params`, opaque JSON text; travels with the request and comes back with its last output.
    pub kv_transfer: Option<Arc<str>>,
    /// Whether the prompt's KV comes from another engine: the request then waits, with its blocks, until
    /// [`Handle::remote_done`](crate::handle::Handle::remote_done).
    pub remote_kv: bool,
    /// When the client's request came in: queue time and time to first token count from here.
    pub arrived: Instant,
    pub sink: Box<dyn Sink>,
}

impl NewRequest {
    /// A request that asks for nothing beyond these.
    pub fn new(prompt: Arc<[u32]>, sampling: Sampling, finish: FinishRules, arrived: Instant, sink: Box<dyn Sink>) -> Self {
        Self {
            prompt,
            extra: ExtraKeys::default(),
            sampling,
            extras: None,
            mask: None,
            finish,
            kv_transfer: None,
            remote_kv: false,
            priority: 0,
            arrived,
            sink,
        }
    }
}

/// How the next token is chosen. Matches vLLM 0.33: a temperature below 1e-5 is greedy.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sampling {
    pub temperature: f32,
    /// Keep the `top_k` most likely tokens; 0 keeps all.
    pub top_k: u32,
    /// Keep the smallest set of tokens whose probabilities reach `top_p`; 1.0 keeps all.
    pub top_p: f32,
    /// Keep the tokens that are at least this likely, the most likely one being 1; 0.0 keeps all. Comes before `top_k` and `top_p`.
    pub min_p: f32,
    /// The draw for output token `i` depends on (`seed`, `i`) alone: not on batch mates, chunking or preemption.
    pub seed: u64,
}

impl Sampling {
    pub const GREEDY: Self = Self { temperature: 0.0, top_k: 0, top_p: 1.0, min_p: 0.0, seed: 0 };

    pub fn is_greedy(&self) -> bool {
        self.temperature < 1e-5
    }

    /// The sampling of choice `index` of a request that asks for several: its seed is `index` higher, as in vLLM 0.33, so that
    /// choice `index` is what a request of its own with that seed would be answered with.
    pub fn of_choice(self, index: u32) -> Self {
        Self { seed: self.seed.wrapping_add(index.into()), ..self }
    }
}

/// When a request ends by itself. Stop *strings* are the edge's: it aborts with [`FinishReason::Stop`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FinishRules {
    /// Most tokens to generate; at least 1.
    pub tokens_max: u32,
    /// End-of-sequence ids of the model; none when the client asked to ignore them.
    pub eos: Vec<u32>,
    /// The client's stop ids.
    pub stop: Vec<u32>,
    /// `None`: an output may repeat itself.
    pub repetition: Option<Repetition>,
}

/// When an output goes round in circles: it ends with a pattern of tokens, several times in a row. vLLM 0.33's `repetition_detection`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Repetition {
    /// Tokens of the pattern; at least 1.
    pub pattern_min: u32,
    pub pattern_max: u32,
    /// How often it stands there; at least 2.
    pub count: u32,
    /// Not before this many tokens were generated.
    pub tokens_min: u32,
}

impl Repetition {
    /// Longest pattern times its count: what is looked at for one token.
    pub const TOKENS_MAX: u32 = 4096;

    /// Whether `output` ends so.
    pub fn is_in(&self, output: &[u32]) -> bool {
        let repeats = |pattern: u32| {
            let (pattern, length) = (pattern as usize, pattern as usize * self.count as usize);
            let tail = output.len().checked_sub(length).map(|start| &output[start..]);
            tail.is_some_and(|tail| tail[pattern..] == tail[..length - pattern])
        };
        output.len() >= self.tokens_min as usize && (self.pattern_min.max(1)..=self.pattern_max).any(repeats)
    }
}

/// Where outputs go. Called on the engine's thread: it must not block.
pub trait Sink: Send {
    /// Takes one output; `false` says that nobody reads any more, and the engine frees the request in the next step.
    fn put(&mut self, output: Output) -> bool;
}

impl<F: FnMut(Output) -> bool + Send> Sink for F {
    fn put(&mut self, output: Output) -> bool {
        self(output)
    }
}

#[derive(Clone, Debug, PartialEq)]
pub enum Output {
    /// The request was admitted to the running batch for the first time; `cached_tokens` of its prompt were found in the cache.
    Admitted { cached_tokens: u32 },
    /// What [`SamplingExtras::prompt_logprobs`] asks for, of the next tokens of the prompt in order. The first token of a prompt
    /// follows nothing and is left out; before the first [`Output::Token`], all others were told.
    PromptLogprobs(Vec<Logprobs>),
    /// One generated token. A stop or end-of-sequence id is delivered too, then [`Output::Finished`].
    Token { token: u32, logprobs: Option<Logprobs> },
    /// The prompt's vector, as it is pooled: whole and not normalised. [`Output::Finished`] comes next.
    Pooled(Box<[f32]>),
    /// The last output.
    Finished(Finished),
}

/// How likely a token was, and others in its place: natural logarithms of probabilities, from the model's logits as they are, before
/// temperature and any other change but that of a grammar's mask.
#[derive(Clone, Debug, PartialEq)]
pub struct Logprobs {
    /// How many tokens of the vocabulary are at least as likely as the token itself; 1 for the most likely.
    pub rank: u32,
    /// `(token, logprob)`: the token itself, then the others that were asked for, most likely first. The token itself may be among
    /// them again.
    pub tokens: Box<[(u32, f32)]>,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Finished {
    pub reason: FinishReason,
    pub prompt_tokens: u32,
    pub cached_tokens: u32,
    pub generated_tokens: u32,
    pub preemptions: u32,
    pub kv_transfer: Option<Arc<str>>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FinishReason {
    /// An end-of-sequence id.
    Eos,
    /// One of the client's stop ids.
    StopId(u32),
    /// One of the client's stop strings, which the edge saw.
    Stop,
    /// The structured output is complete.
    MaskEnded,
    /// The prompt's vector is there.
    Pooled,
    /// `tokens_max` or the context length was reached.
    Length,
    /// The output repeats itself.
    Repetition,
    /// The client went away or the edge ended it.
    Aborted,
    /// The adapter of this name was unloaded or replaced while the request was on its way. It has computed nothing.
    AdapterGone(Arc<str>),
    /// This request alone failed: not-a-number logits, a device error that named it.
    Error(String),
}

/// Why a request was not taken. Nothing of it remains in the engine.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Rejected {
    #[error("the prompt is empty")]
    EmptyPrompt,
    /// The prompt leaves no room for one generated token.
    #[error("the prompt has {tokens} tokens; the context holds {context_length}, one of them for output")]
    PromptTooLong { tokens: usize, context_length: usize },
    /// Of an engine that embeds.
    #[error("the text has {tokens} tokens; the context holds {context_length}")]
    TextTooLong { tokens: usize, context_length: usize },
    /// A token id that the model does not have; `parameter` is the one that holds it, by the name that vLLM gives it, or `prompt`.
    #[error("token id {token} in `{parameter}` is outside the vocabulary of {vocabulary}")]
    TokenOutsideVocabulary { parameter: &'static str, token: u32, vocabulary: usize },
    /// A parameter of the sampling whose value cannot be.
    #[error("`{parameter}` {what}")]
    Parameter { parameter: &'static str, what: String },
    #[error("{ids} stop ids; at most {ids_max} are possible")]
    TooManyStopIds { ids: usize, ids_max: usize },
    /// More KV blocks than the whole pool has.
    #[error("the request needs {blocks} KV blocks; this engine has {pool_blocks} for one request")]
    NeverFits { blocks: usize, pool_blocks: usize },
    /// The admission limit on waiting requests; come again later.
    #[error("{waiting} requests wait already; at most {waiting_max} may")]
    QueueFull { waiting: usize, waiting_max: usize },
    /// The admission limit on waiting prompt tokens; come again later.
    #[error("{tokens} prompt tokens would wait; at most {tokens_max} may")]
    QueueTokensFull { tokens: usize, tokens_max: usize },
    /// The engine is paused and takes nothing new until it is resumed.
    #[error("the engine is paused")]
    Paused,
    /// The engine drains.
    #[error("the engine drains")]
    Draining,
    /// The engine's thread ended.
    #[error("the engine's thread has ended")]
    EngineDead,
}

impl Rejected {
    pub(crate) fn parameter(parameter: &'static str, what: String) -> Self {
        Self::Parameter { parameter, what }
    }
}
