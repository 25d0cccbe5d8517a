//! What few requests ask of their sampling: held once per request behind an `Arc`, so that all others carry one empty pointer.

use crate::config::Config;
use crate::request::{Rejected, Sampling};

/// Most token ids of all bad words of one request, and most bad words: each is compared with the output's end at every token.
pub const BAD_WORDS_MAX: usize = 1024;
pub const BAD_WORD_TOKENS_MAX: usize = 8192;
/// Most token ids whose log-probabilities one request asks for by name.
pub const LOGPROB_TOKEN_IDS_MAX: usize = 1024;

/// Changes to the logits, and what is told of them. Names, ranges and meaning are those of vLLM 0.33's `SamplingParams`.
#[derive(Clone, Debug, PartialEq)]
pub struct SamplingExtras {
    /// Taken off the logit of each token that was generated already; -2 to 2.
    pub presence_penalty: f32,
    /// Taken off for each time that the token was generated; -2 to 2.
    pub frequency_penalty: f32,
    /// Divides positive logits and multiplies negative ones of each token in the prompt or the output; above 0, 1 changes nothing.
    pub repetition_penalty: f32,
    /// Added to the logits of these tokens; an id stands here once.
    pub logit_bias: Vec<(u32, f32)>,
    /// End-of-sequence and stop ids cannot be chosen before this many tokens were generated.
    pub min_tokens: u32,
    /// End-of-sequence ids that do not end this request, its client having asked so. [`min_tokens`](Self::min_tokens) rules them out
    /// all the same.
    pub ignored_eos: Vec<u32>,
    /// Sequences of token ids that cannot be generated: the last of one is ruled out where the output ends with all before it.
    pub bad_words: Vec<Vec<u32>>,
    /// Only these tokens can be chosen. `None`: all.
    pub allowed_token_ids: Option<Vec<u32>>,
    /// How many of the most likely tokens are told with each generated token, beside that token itself. `None`: nothing is told.
    pub logprobs: Option<u32>,
    /// The same for each token of the prompt. The prefix cache is not read then, as its blocks hold no logits.
    pub prompt_logprobs: Option<u32>,
    /// The tokens that are told with each generated one, instead of the most likely.
    pub logprob_token_ids: Vec<u32>,
}

impl Default for SamplingExtras {
    /// Asks for nothing.
    fn default() -> Self {
        Self {
            presence_penalty: 0.0,
            frequency_penalty: 0.0,
            repetition_penalty: 1.0,
            logit_bias: Vec::new(),
            min_tokens: 0,
            ignored_eos: Vec::new(),
            bad_words: Vec::new(),
            allowed_token_ids: None,
            logprobs: None,
            prompt_logprobs: None,
            logprob_token_ids: Vec::new(),
        }
    }
}

impl SamplingExtras {
    /// Whether a request with these needs to remember anything while it runs.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Whether the logits of generated tokens are told.
    pub fn tells_logprobs(&self) -> bool {
        self.logprobs.is_some() || !self.logprob_token_ids.is_empty()
    }

    pub(crate) fn has_penalties(&self) -> bool {
        self.presence_penalty != 0.0 || self.frequency_penalty != 0.0 || self.repetition_penalty != 1.0
    }

    /// Whether all can be done on a model of `vocabulary` tokens.
    pub(crate) fn check(&self, vocabulary: usize, config: &Config) -> Result<(), Rejected> {
        let within = |name, value: f32, low: f32, high: f32| match (low..=high).contains(&value) {
            true => Ok(()),
            false => Err(Rejected::parameter(name, format!("is {value}; it must be {low} to {high}"))),
        };
        within("presence_penalty", self.presence_penalty, -2.0, 2.0)?;
        within("frequency_penalty", self.frequency_penalty, -2.0, 2.0)?;
        within("repetition_penalty", self.repetition_penalty, f32::MIN_POSITIVE, f32::MAX)?;
        let at_most = |name, count: usize, max: usize| match count <= max {
            true => Ok(()),
            false => Err(Rejected::parameter(name, format!("asks for {count}; at most {max} are possible"))),
        };
        at_most("logprobs", self.logprobs.unwrap_or(0) as usize, config.logprobs_max)?;
        at_most("prompt_logprobs", self.prompt_logprobs.unwrap_or(0) as usize, config.logprobs_max)?;
        at_most("logprob_token_ids", self.logprob_token_ids.len(), LOGPROB_TOKEN_IDS_MAX)?;
        at_most("bad_words", self.bad_words.len(), BAD_WORDS_MAX)?;
        at_most("bad_words", self.bad_words.iter().map(Vec::len).sum(), BAD_WORD_TOKENS_MAX)?;
        if self.bad_words.iter().any(Vec::is_empty) {
            return Err(Rejected::parameter("bad_words", "holds a word without tokens".into()));
        }
        if let Some((token, bias)) = self.logit_bias.iter().find(|(_, bias)| !bias.is_finite()) {
            return Err(Rejected::parameter("logit_bias", format!("of token {token} is {bias}, which is no finite number")));
        }
        if self.allowed_token_ids.as_ref().is_some_and(Vec::is_empty) {
            return Err(Rejected::parameter("allowed_token_ids", "is empty, which allows no token".into()));
        }
        let named = Named { vocabulary };
        named.check("logit_bias", self.logit_bias.iter().map(|&(token, _)| token))?;
        named.check("bad_words", self.bad_words.iter().flatten().copied())?;
        named.check("allowed_token_ids", self.allowed_token_ids.iter().flatten().copied())?;
        named.check("ignore_eos", self.ignored_eos.iter().copied())?;
        named.check("logprob_token_ids", self.logprob_token_ids.iter().copied())?;
        // Beyond the vocabulary's size, an id stands there twice.
        at_most("logit_bias", self.logit_bias.len(), vocabulary)?;
        at_most("allowed_token_ids", self.allowed_token_ids.as_ref().map_or(0, Vec::len), vocabulary)
    }
}

impl Sampling {
    pub(crate) fn check(&self) -> Result<(), Rejected> {
        let within = |name, value: f32, low: f32, high: f32| match (low..=high).contains(&value) {
            true => Ok(()),
            false => Err(Rejected::parameter(name, format!("is {value}; it must be {low} to {high}"))),
        };
        within("temperature", self.temperature, f32::MIN, f32::MAX)?;
        within("top_p", self.top_p, 0.0, f32::MAX)?;
        within("min_p", self.min_p, 0.0, 1.0)
    }
}

/// Token ids that a client named, against the model's.
pub(crate) struct Named {
    pub vocabulary: usize,
}

impl Named {
    pub fn check(&self, parameter: &'static str, tokens: impl IntoIterator<Item = u32>) -> Result<(), Rejected> {
        let vocabulary = self.vocabulary;
        match tokens.into_iter().find(|&token| token as usize >= vocabulary) {
            Some(token) => Err(Rejected::TokenOutsideVocabulary { parameter, token, vocabulary }),
            None => Ok(()),
        }
    }
}
