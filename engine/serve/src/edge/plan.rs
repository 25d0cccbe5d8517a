//! From a request body to what is asked of the engine: every parameter checked against its limits, defaults filled in as vLLM does.

use std::sync::Arc;

use domain::ExtraKeys;
use engine::request::{FinishRules, Repetition, Sampling, SamplingExtras};
use engine_assets::Generation;
use engine_text::Text;
use engine_text::reply::ReplyFormat;
use proto::openai::Request;

use super::answer::ApiError;
use super::prompt::Truncation;
use super::refuse;
use crate::config::AnswerOptions;
use crate::guide::Spec;

mod ending;
mod extras;
pub mod input;
mod reply;
mod sampling;
mod shape;

pub use extras::{LogprobShape, Shown};
pub use reply::{Reads, ReplyPlan};
pub use shape::Shape;

/// Most choices of one request: prompts times n.
const CHOICES_MAX: usize = 4096;

/// Which endpoint speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Endpoint {
    Chat,
    Completion,
}

impl Endpoint {
    pub fn id_prefix(self) -> &'static str {
        match self {
            Self::Chat => "chatcmpl",
            Self::Completion => "cmpl",
        }
    }

    /// The parameter that says how many log probabilities are wanted.
    pub fn logprobs_param(self) -> &'static str {
        match self {
            Self::Chat => "top_logprobs",
            Self::Completion => "logprobs",
        }
    }

    /// The parameter that holds the prompt.
    pub fn prompt_param(self) -> &'static str {
        match self {
            Self::Chat => "messages",
            Self::Completion => "prompt",
        }
    }
}

/// What the model brings to a plan.
#[derive(Clone, Copy)]
pub struct ModelFacts<'a> {
    pub text: &'a Text,
    pub generation: &'a Generation,
    pub vocabulary: usize,
    pub stop_ids_max: usize,
    /// Longest sequence, prompt and output.
    pub length_max: usize,
    pub answers: AnswerOptions,
    /// How the model writes its thought and its tool calls.
    pub reply: ReplyFormat,
}

/// A checked request, apart from its prompt.
#[derive(Clone, Debug, PartialEq)]
pub struct Plan {
    pub endpoint: Endpoint,
    /// Choices of each prompt; at least 1.
    pub n: u32,
    pub sampling: Sampling,
    /// Whether the client gave the seed.
    pub seeded: bool,
    /// `None`: nothing beyond [`Self::sampling`].
    pub extras: Option<Arc<SamplingExtras>>,
    pub logprobs: LogprobShape,
    /// `None`: whatever the context leaves.
    pub tokens_max: Option<u32>,
    pub eos: Vec<u32>,
    pub stop_ids: Vec<u32>,
    pub stops: Vec<String>,
    /// `None`: the output may repeat itself.
    pub repetition: Option<Repetition>,
    pub include_stop: bool,
    pub skip_special_tokens: bool,
    /// `None`: the whole prompt.
    pub truncation: Option<Truncation>,
    pub extra: ExtraKeys,
    /// `kv_transfer_params` as JSON text; opaque.
    pub kv_transfer: Option<Arc<str>>,
    /// Lower is more urgent.
    pub priority: i64,
    pub shape: Shape,
    /// The form that the output must have.
    pub spec: Option<Spec>,
    /// How a chat's text is read.
    pub reply: ReplyPlan,
}

impl Plan {
    pub fn new(endpoint: Endpoint, request: &Request, model: &ModelFacts<'_>) -> Result<Self, ApiError> {
        refuse::unserved(request)?;
        input::check(endpoint, request)?;
        let eos = if request.ignore_eos.unwrap_or(false) { Vec::new() } else { model.generation.eos.clone() };
        let sampling = sampling::sampling(request, model.generation)?;
        let (extras, logprobs) = extras::extras(endpoint, request, model)?;
        let (spec, reply) = reply::read(endpoint, request, model.reply)?;
        Ok(Self {
            endpoint,
            n: choices(request, &sampling)?,
            sampling,
            seeded: request.seed.is_some(),
            extras: (!extras.is_empty()).then(|| Arc::new(extras)),
            logprobs,
            tokens_max: ending::tokens_max(endpoint, request, model.generation)?,
            eos,
            stop_ids: ending::stop_ids(request, model)?,
            stops: ending::stops(request)?,
            repetition: ending::repetition(request)?,
            include_stop: request.include_stop_str_in_output.unwrap_or(false),
            // Markers of thoughts and calls may be special tokens.
            skip_special_tokens: request.skip_special_tokens.unwrap_or(true) && !reply.shows_special(model.text),
            truncation: input::truncation(request.truncate_prompt_tokens, request.truncation_side.as_deref(), model.length_max)?,
            extra: ExtraKeys { cache_salt: input::salt(request.cache_salt.as_deref())?.map(Into::into), ..ExtraKeys::default() },
            priority: request.priority.unwrap_or(0),
            kv_transfer: request.kv_transfer_params.as_ref().map(|params| params.to_string().into()),
            shape: Shape::new(endpoint, request, &model.answers)?,
            spec,
            reply,
        })
    }

    /// Tokens before which nothing but the length ends the answer.
    pub fn min_tokens(&self) -> u32 {
        self.extras.as_ref().map_or(0, |extras| extras.min_tokens)
    }

    /// Whether log probabilities of the prompt are computed.
    pub fn tells_prompt(&self) -> bool {
        self.extras.as_ref().is_some_and(|extras| extras.prompt_logprobs.is_some())
    }

    /// The extras of a choice whose prompt another one tells of.
    pub fn extras_without_prompt(&self) -> Option<Arc<SamplingExtras>> {
        let extras = self.extras.as_ref()?;
        match extras.prompt_logprobs {
            None => Some(Arc::clone(extras)),
            Some(_) => Some(Arc::new(SamplingExtras { prompt_logprobs: None, ..SamplingExtras::clone(extras) })),
        }
    }

    /// When a request with this many prompt tokens ends, in a context of `length_max`.
    pub fn finish(&self, prompt_tokens: usize, length_max: usize) -> FinishRules {
        let room = u32::try_from(length_max.saturating_sub(prompt_tokens)).unwrap_or(u32::MAX).max(1);
        let tokens_max = self.tokens_max.map_or(room, |asked| asked.min(room));
        FinishRules { tokens_max, eos: self.eos.clone(), stop: self.stop_ids.clone(), repetition: self.repetition }
    }
}

/// `n`, within its limits. As in vLLM, several greedy choices are refused: they would all be the same.
fn choices(request: &Request, sampling: &Sampling) -> Result<u32, ApiError> {
    let prompts = request.prompt.as_ref().map_or(1, proto::openai::Prompt::len).max(1);
    let max = (CHOICES_MAX / prompts).max(1);
    match request.n.unwrap_or(1) {
        1 => Ok(1),
        n @ 2.. if sampling.is_greedy() => Err(ApiError::parameter(
            "n",
            format!("`n` is {n}; it must be 1 where the temperature is 0, all choices being the same."),
        )),
        n => match u32::try_from(n).ok().filter(|n| (1..=max as u32).contains(n)) {
            Some(n) => Ok(n),
            None => Err(ApiError::parameter("n", format!("`n` is {n}; it must be 1 to {max} for {prompts} prompts."))),
        },
    }
}

#[cfg(test)]
mod tests;
