//! What few requests ask of their sampling: penalties, biases, bad and allowed tokens, log probabilities. Every refusal names the
//! parameter and its limit; meaning and limits are those of vLLM 0.33.

use engine::request::SamplingExtras;
use engine_text::Text;
use proto::openai::Request;
use serde_json::Value;

use super::ending::COMPLETION_TOKENS;
use super::{Endpoint, ModelFacts};
use crate::edge::answer::ApiError;

/// Beyond, a bias is cut to these, as OpenAI has it.
const BIAS_MAX: f64 = 100.0;
/// Most words that may not be said, before they are tokens.
const BAD_WORDS_MAX: usize = 512;

/// How log probabilities are shown.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LogprobShape {
    /// With each generated token; `None`: not at all.
    pub generated: Option<Shown>,
    /// Those of the prompt are shown by themselves (`prompt_logprobs`).
    pub prompt: bool,
    /// Tokens read `token_id:<id>`.
    pub as_ids: bool,
}

/// How many of a position's candidates are shown: the token itself first, then the most likely.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shown {
    All,
    First(usize),
}

impl Shown {
    pub fn max(self) -> usize {
        match self {
            Self::All => usize::MAX,
            Self::First(number) => number,
        }
    }
}

pub fn extras(endpoint: Endpoint, request: &Request, model: &ModelFacts<'_>) -> Result<(SamplingExtras, LogprobShape), ApiError> {
    let max = model.answers.logprobs_max.unwrap_or(model.vocabulary as u32).min(model.vocabulary as u32);
    let asked = asked(endpoint, request)?;
    let logprobs = asked.map(|asked| number(endpoint.logprobs_param(), asked, max, model)).transpose()?;
    let logprob_token_ids = token_ids("logprob_token_ids", request.logprob_token_ids.as_deref().unwrap_or_default(), model)?;
    if !logprob_token_ids.is_empty() && logprobs.is_none() {
        return Err(ApiError::parameter("logprob_token_ids", "`logprob_token_ids` belongs to `logprobs`; set that, too."));
    }
    let stream = request.stream.unwrap_or(false);
    let prompt = match request.prompt_logprobs {
        Some(asked) if stream && asked != 0 => {
            return Err(ApiError::parameter(
                "prompt_logprobs",
                "`prompt_logprobs` is not there in a stream; set `stream` to false.",
            ));
        }
        Some(asked) => Some(number("prompt_logprobs", asked, max, model)?),
        // An echoed prompt has them as the text has.
        None if request.echo.unwrap_or(false) && endpoint == Endpoint::Completion => logprobs,
        None => None,
    };
    let shown = logprobs.map(|number| match (endpoint, asked) {
        _ if !logprob_token_ids.is_empty() => Shown::All,
        (_, Some(-1)) => Shown::All,
        (Endpoint::Chat, _) => Shown::First(number as usize),
        // OpenAI's completions show the token itself beside the most likely.
        (Endpoint::Completion, _) => Shown::First(number as usize + 1),
    });
    let shape = LogprobShape {
        generated: shown,
        prompt: request.prompt_logprobs.is_some(),
        as_ids: request.return_tokens_as_token_ids.unwrap_or(model.answers.return_tokens_as_token_ids),
    };
    let min_tokens = min_tokens(endpoint, request)?;
    let extras = SamplingExtras {
        presence_penalty: within("presence_penalty", request.presence_penalty, -2.0, 2.0, 0.0)?,
        frequency_penalty: within("frequency_penalty", request.frequency_penalty, -2.0, 2.0, 0.0)?,
        repetition_penalty: repetition(request, model)?,
        logit_bias: logit_bias(request, model)?,
        min_tokens,
        // Where nothing is ruled out, the extras stay empty.
        ignored_eos: model
            .generation
            .eos
            .iter()
            .copied()
            .filter(|_| min_tokens > 0 && request.ignore_eos == Some(true))
            .collect(),
        bad_words: bad_words(request, model)?,
        allowed_token_ids: allowed(request, model)?,
        logprobs: logprobs.filter(|_| logprob_token_ids.is_empty()),
        prompt_logprobs: prompt,
        logprob_token_ids,
    };
    Ok((extras, shape))
}

/// How many candidates the request wants with each generated token.
fn asked(endpoint: Endpoint, request: &Request) -> Result<Option<i64>, ApiError> {
    match endpoint {
        Endpoint::Chat => {
            let on = match &request.logprobs {
                None => false,
                Some(Value::Bool(on)) => *on,
                Some(_) => return Err(ApiError::parameter("logprobs", "`logprobs` must be true or false.")),
            };
            let top = request.top_logprobs.unwrap_or(0);
            if top != 0 && !on {
                return Err(ApiError::parameter("top_logprobs", "`top_logprobs` belongs to `logprobs`; set that to true."));
            }
            Ok(on.then_some(top))
        }
        Endpoint::Completion => match &request.logprobs {
            // `false` is what clients of the chat form send for none.
            None | Some(Value::Bool(false)) => Ok(None),
            Some(value) => match value.as_i64() {
                Some(number) => Ok(Some(number)),
                None => Err(ApiError::parameter("logprobs", "`logprobs` must be an integer.")),
            },
        },
    }
}

/// A number of log probabilities; -1 is the whole vocabulary.
fn number(param: &'static str, asked: i64, max: u32, model: &ModelFacts<'_>) -> Result<u32, ApiError> {
    let number = if asked == -1 { model.vocabulary as i64 } else { asked };
    match u32::try_from(number) {
        Ok(number) if number <= max => Ok(number),
        _ => Err(ApiError::parameter(param, format!("`{param}` is {asked}; it must be 0 to {max}."))),
    }
}

fn within(param: &'static str, asked: Option<f64>, low: f64, high: f64, default: f64) -> Result<f32, ApiError> {
    let value = asked.unwrap_or(default);
    match (low..=high).contains(&value) {
        true => Ok(value as f32),
        false => Err(ApiError::parameter(param, format!("`{param}` is {value}; it must be {low} to {high}."))),
    }
}

fn repetition(request: &Request, model: &ModelFacts<'_>) -> Result<f32, ApiError> {
    let value = request.repetition_penalty.map(|value| value as f32).or(model.generation.repetition_penalty).unwrap_or(1.0);
    match value > 0.0 && value.is_finite() {
        true => Ok(value),
        false => {
            let message = format!("`repetition_penalty` is {value}; it must be above 0.");
            Err(ApiError::parameter("repetition_penalty", message))
        }
    }
}

fn min_tokens(endpoint: Endpoint, request: &Request) -> Result<u32, ApiError> {
    let min = request.min_tokens.unwrap_or(0);
    let default = match endpoint {
        Endpoint::Completion => COMPLETION_TOKENS.into(),
        Endpoint::Chat => i64::from(u32::MAX),
    };
    let max =
        request.max_completion_tokens.filter(|_| endpoint == Endpoint::Chat).or(request.max_tokens).unwrap_or(default).max(0);
    match u32::try_from(min) {
        Ok(tokens) if min <= max => Ok(tokens),
        _ => {
            Err(ApiError::parameter("min_tokens", format!("`min_tokens` is {min}; it must be 0 to {max}, the most to generate.")))
        }
    }
}

/// Ids of `param`, each one that the model has.
pub fn token_ids(param: &'static str, ids: &[i64], model: &ModelFacts<'_>) -> Result<Vec<u32>, ApiError> {
    let vocabulary = model.vocabulary;
    let check = |(i, id): (usize, &i64)| match u32::try_from(*id) {
        Ok(id) if (id as usize) < vocabulary => Ok(id),
        _ => {
            let message = format!("`{param}[{i}]` is {id}; this model's token ids are 0 to {}.", vocabulary.saturating_sub(1));
            Err(ApiError::parameter(param, message))
        }
    };
    ids.iter().enumerate().map(check).collect()
}

fn allowed(request: &Request, model: &ModelFacts<'_>) -> Result<Option<Vec<u32>>, ApiError> {
    match request.allowed_token_ids.as_deref() {
        None => Ok(None),
        Some([]) => Err(ApiError::parameter("allowed_token_ids", "`allowed_token_ids` is empty, which allows no token.")),
        Some(ids) => token_ids("allowed_token_ids", ids, model).map(Some),
    }
}

fn logit_bias(request: &Request, model: &ModelFacts<'_>) -> Result<Vec<(u32, f32)>, ApiError> {
    let wrong = |message: String| Err(ApiError::parameter("logit_bias", message));
    let mut biases = Vec::new();
    for (key, bias) in request.logit_bias.iter().flatten() {
        let shown: String = key.chars().take(40).collect();
        let Ok(id) = key.trim().parse::<i64>() else {
            return wrong(format!("`logit_bias` has the key {shown:?}; its keys are token ids."));
        };
        let Some(token) = u32::try_from(id).ok().filter(|id| (*id as usize) < model.vocabulary) else {
            let last = model.vocabulary.saturating_sub(1);
            return wrong(format!("`logit_bias` has the key {shown}; this model's token ids are 0 to {last}."));
        };
        let Some(bias) = bias.as_f64() else {
            return wrong(format!("`logit_bias` of token {shown} is no number."));
        };
        biases.push((token, bias.clamp(-BIAS_MAX, BIAS_MAX) as f32));
    }
    biases.sort_unstable_by_key(|(token, _)| *token);
    match biases.windows(2).find(|pair| pair[0].0 == pair[1].0) {
        Some(pair) => wrong(format!("`logit_bias` holds token {} twice.", pair[0].0)),
        None => Ok(biases),
    }
}

/// Each word as it reads at the beginning of a text and, where that begins with another token and has as many, behind a space.
fn bad_words(request: &Request, model: &ModelFacts<'_>) -> Result<Vec<Vec<u32>>, ApiError> {
    let words = request.bad_words.as_deref().unwrap_or_default();
    let wrong = |message: String| Err(ApiError::parameter("bad_words", message));
    if words.len() > BAD_WORDS_MAX {
        return wrong(format!("`bad_words` holds {} words; at most {BAD_WORDS_MAX} are possible.", words.len()));
    }
    let mut sequences: Vec<Vec<u32>> = Vec::with_capacity(2 * words.len());
    for word in words {
        let word = word.trim_start();
        let bare = encode(model.text, word)?;
        if bare.is_empty() {
            return wrong("`bad_words` holds a word that has no token.".into());
        }
        let spaced = encode(model.text, &format!(" {word}"))?;
        let another = spaced.first() != bare.first() && spaced.len() == bare.len();
        sequences.push(bare);
        sequences.extend(another.then_some(spaced));
    }
    Ok(sequences)
}

fn encode(text: &Text, word: &str) -> Result<Vec<u32>, ApiError> {
    text.encode(word, false).map_err(crate::edge::prompt::text_error)
}
