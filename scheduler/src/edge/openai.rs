//! Reads what routing needs from an OpenAI body, and writes the error bodies that vLLM's clients know.
//!
//! Lenient where the engine will judge anyway: keys that do not concern routing are passed over unread, because the body goes on
//! byte for byte.

use engine_text::with_effort;
use proto::openai;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::choose::{Question, Refused};
use crate::decide::Reason;
use crate::text::{Chat, Prompt};

/// A request path that names a model in its body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Route {
    Chat,
    Completions,
    /// Answered by any engine of the model: nothing is generated.
    Tokenize,
    Detokenize,
}

impl Route {
    pub fn of_path(path: &str) -> Option<Self> {
        match path {
            "/v1/chat/completions" => Some(Self::Chat),
            "/v1/completions" => Some(Self::Completions),
            "/tokenize" => Some(Self::Tokenize),
            "/detokenize" => Some(Self::Detokenize),
            _ => None,
        }
    }

    /// Whether its streams are OpenAI's: events that end with `[DONE]`.
    pub fn generates(self) -> bool {
        matches!(self, Self::Chat | Self::Completions)
    }
}

#[derive(Deserialize)]
#[serde(default)]
#[derive(Default)]
struct Body {
    model: Option<String>,
    messages: Option<Vec<Value>>,
    prompt: Option<openai::Prompt>,
    max_tokens: Option<i64>,
    max_completion_tokens: Option<i64>,
    cache_salt: Option<String>,
    tools: Option<Vec<Value>>,
    documents: Option<Vec<Value>>,
    chat_template: Option<String>,
    chat_template_kwargs: Option<Map<String, Value>>,
    reasoning_effort: Option<String>,
    add_generation_prompt: Option<bool>,
    continue_final_message: Option<bool>,
    add_special_tokens: Option<bool>,
}

/// Reads a question from a body.
pub fn question(route: Route, body: &[u8]) -> Result<Question, Problem> {
    // Serde would take a list for a struct.
    if body.trim_ascii_start().first().is_some_and(|first| *first != b'{') {
        return Err(Problem::bad_request(
            "The body is not the JSON object that this path takes: it begins otherwise than with `{`",
        ));
    }
    if matches!(route, Route::Tokenize | Route::Detokenize) {
        #[derive(Deserialize)]
        struct Model {
            model: Option<String>,
        }
        let Model { model } = serde_json::from_slice(body).map_err(|error| Problem::bad_body(&error))?;
        return Ok(Question { model, prompt: Prompt::Unknown, cache_salt: None, tokens_max: None });
    }
    let body: Body = serde_json::from_slice(body).map_err(|error| Problem::bad_body(&error))?;
    let tokens_max = body.max_completion_tokens.or(body.max_tokens).and_then(|tokens| tokens.try_into().ok());
    let cache_salt = body.cache_salt.as_deref().map(Into::into);
    let model = body.model.clone();
    let prompt = match route {
        Route::Chat => chat(body),
        _ => completion(body),
    };
    Ok(Question { model, prompt, cache_salt, tokens_max })
}

/// Reads a question from a body whose path is not known: a conversation if it has messages.
pub fn question_of_any(body: &[u8]) -> Result<Question, Problem> {
    #[derive(Deserialize)]
    struct Kind {
        messages: Option<serde::de::IgnoredAny>,
    }
    let kind: Kind = serde_json::from_slice(body).map_err(|error| Problem::bad_body(&error))?;
    question(if kind.messages.is_some() { Route::Chat } else { Route::Completions }, body)
}

/// As the engine reads it (`engine-serve`'s `prompt`): the same tokens, or the cache is not found.
fn chat(body: Body) -> Prompt {
    let Some(messages) = body.messages else { return Prompt::Unknown };
    let continues = body.continue_final_message.unwrap_or(false);
    Prompt::Chat(Box::new(Chat {
        messages,
        tools: body.tools,
        documents: body.documents,
        template: body.chat_template,
        variables: with_effort(body.chat_template_kwargs, body.reasoning_effort.as_deref()).unwrap_or_default(),
        // Whoever continues a message does not begin a new one.
        add_generation_prompt: body.add_generation_prompt.unwrap_or(!continues),
        continue_final_message: continues,
        add_special_tokens: body.add_special_tokens.unwrap_or(false),
    }))
}

fn completion(body: Body) -> Prompt {
    let add_special_tokens = body.add_special_tokens.unwrap_or(true);
    // Of several prompts the first speaks for all: they go to one engine together.
    match body.prompt {
        Some(openai::Prompt::Ids(prompts)) => prompts.into_iter().next().map_or(Prompt::Unknown, Prompt::Tokens),
        Some(openai::Prompt::Text(prompts)) => {
            prompts.into_iter().next().map_or(Prompt::Unknown, |text| Prompt::Text { text, add_special_tokens })
        }
        None => Prompt::Unknown,
    }
}

/// An answer that is an error, in vLLM's form: `{"error": {"message", "type", "param", "code"}}`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    pub status: u16,
    pub kind: &'static str,
    pub message: String,
    pub param: Option<&'static str>,
    /// Seconds after which it is worth asking again.
    pub retry_after_s: Option<u32>,
}

#[derive(Serialize)]
struct ErrorBody<'a> {
    error: ErrorFields<'a>,
}

#[derive(Serialize)]
struct ErrorFields<'a> {
    message: &'a str,
    #[serde(rename = "type")]
    kind: &'a str,
    param: Option<&'a str>,
    code: u16,
}

impl Problem {
    pub fn new(status: u16, kind: &'static str, message: impl Into<String>) -> Self {
        Self { status, kind, message: message.into(), param: None, retry_after_s: None }
    }

    pub fn bad_request(message: impl Into<String>) -> Self {
        Self::new(400, "BadRequestError", message)
    }

    pub fn unavailable(message: impl Into<String>, retry_after_s: u32) -> Self {
        Self { retry_after_s: Some(retry_after_s), ..Self::new(503, "ServiceUnavailableError", message) }
    }

    fn bad_body(error: &serde_json::Error) -> Self {
        Self::bad_request(format!("The body is not the JSON object that this path takes: {error}"))
    }

    pub fn body(&self) -> String {
        let Self { status, kind, message, param, .. } = self;
        let body = ErrorBody { error: ErrorFields { message, kind, param: *param, code: *status } };
        serde_json::to_string(&body).expect("strings and numbers always serialise")
    }
}

/// How a refusal is told over HTTP.
impl From<&Refused> for Problem {
    fn from(refused: &Refused) -> Self {
        let message = refused.to_string();
        match refused {
            Refused::UnknownModel { .. } => Self { param: Some("model"), ..Self::new(404, "NotFoundError", message) },
            Refused::NoModel { .. } => Self { param: Some("model"), ..Self::bad_request(message) },
            Refused::Wait(_) => Self::unavailable(sentence(&message), 1),
            Refused::Reject(Reason::Saturated) => {
                Self { retry_after_s: Some(1), ..Self::new(429, "TooManyRequestsError", sentence(&message)) }
            }
            Refused::Reject(Reason::PromptTooLong { prompt_tokens, context_length }) => Self::bad_request(format!(
                "This model's maximum context length is {context_length} tokens. However, your prompt has {prompt_tokens} tokens. Shorten it."
            )),
            Refused::Reject(_) => Self::unavailable(sentence(&message), 5),
        }
    }
}

fn sentence(text: &str) -> String {
    let mut letters = text.chars();
    letters.next().map_or_else(String::new, |first| format!("{}{}.", first.to_uppercase(), letters.as_str()))
}
