//! Prompts as token ids: text through the tokenizer, conversations through the model's template first. The same function serves
//! generation and `/tokenize`, so that both give the ids that run.

use std::sync::Arc;
use std::time::SystemTime;

use engine_text::{ChatRequest, Text, TextError};
use http::StatusCode;
use proto::openai::{Prompt, Request, TokenizeRequest};
use serde_json::{Map, Value};

use super::answer::{ApiError, sentence};
use super::plan::Endpoint;

/// A conversation and how it is to be rendered.
#[derive(Default)]
pub struct Conversation {
    messages: Vec<Value>,
    tools: Vec<Value>,
    documents: Vec<Value>,
    add_generation_prompt: Option<bool>,
    continue_final_message: Option<bool>,
    template: Option<String>,
    kwargs: Option<Map<String, Value>>,
    add_special_tokens: Option<bool>,
}

impl Conversation {
    fn tokens(&self, text: &Text) -> Result<Vec<u32>, TextError> {
        let continues = self.continue_final_message.unwrap_or(false);
        let rendered = text.render_chat(&ChatRequest {
            messages: &self.messages,
            tools: &self.tools,
            documents: &self.documents,
            // Whoever continues a message does not begin a new one.
            add_generation_prompt: self.add_generation_prompt.unwrap_or(!continues),
            continue_final_message: continues,
            template: self.template.as_deref(),
            kwargs: self.kwargs.as_ref(),
            now: SystemTime::now(),
        })?;
        text.encode(&rendered, self.add_special_tokens.unwrap_or(false))
    }
}

/// Where the prompts of one request come from.
enum Source {
    Chat(Box<Conversation>),
    Text { prompts: Vec<String>, add_special_tokens: bool },
    Ids(Vec<Vec<u32>>),
}

impl Source {
    fn tokens(self, text: &Text) -> Result<Vec<Arc<[u32]>>, TextError> {
        match self {
            Self::Chat(conversation) => Ok(vec![conversation.tokens(text)?.into()]),
            Self::Text { prompts, add_special_tokens } => {
                prompts.iter().map(|prompt| text.encode(prompt, add_special_tokens).map(Into::into)).collect()
            }
            Self::Ids(prompts) => Ok(prompts.into_iter().map(Into::into).collect()),
        }
    }
}

/// The prompts of a request; `Plan::new` has seen that there are some.
pub fn of_request(text: &Text, endpoint: Endpoint, request: Request) -> Result<Vec<Arc<[u32]>>, ApiError> {
    let source = match (endpoint, request.prompt) {
        (Endpoint::Completion, Some(Prompt::Ids(prompts))) => Source::Ids(prompts),
        (Endpoint::Completion, Some(Prompt::Text(prompts))) => {
            Source::Text { prompts, add_special_tokens: request.add_special_tokens.unwrap_or(true) }
        }
        _ => Source::Chat(Box::new(Conversation {
            messages: request.messages.unwrap_or_default(),
            tools: request.tools.unwrap_or_default(),
            documents: request.documents.unwrap_or_default(),
            add_generation_prompt: request.add_generation_prompt,
            continue_final_message: request.continue_final_message,
            template: request.chat_template,
            kwargs: request.chat_template_kwargs,
            add_special_tokens: request.add_special_tokens,
        })),
    };
    source.tokens(text).map_err(text_error)
}

/// The token ids that `/tokenize` asks for.
pub fn of_tokenize(text: &Text, request: TokenizeRequest) -> Result<Arc<[u32]>, ApiError> {
    let source = match (request.prompt, request.messages) {
        (Some(prompt), None) => {
            Source::Text { prompts: vec![prompt], add_special_tokens: request.add_special_tokens.unwrap_or(true) }
        }
        (None, Some(messages)) => Source::Chat(Box::new(Conversation {
            messages,
            tools: request.tools.unwrap_or_default(),
            documents: request.documents.unwrap_or_default(),
            add_generation_prompt: request.add_generation_prompt,
            continue_final_message: request.continue_final_message,
            template: request.chat_template,
            kwargs: request.chat_template_kwargs,
            add_special_tokens: request.add_special_tokens,
        })),
        _ => return Err(ApiError::parameter("prompt", "Give either `prompt` or `messages`.")),
    };
    let mut prompts = source.tokens(text).map_err(text_error)?;
    Ok(prompts.pop().unwrap_or_default())
}

pub fn text_error(error: TextError) -> ApiError {
    let message = sentence(&error);
    match error {
        TextError::Request { .. } | TextError::NoChatTemplate => ApiError::parameter("messages", message),
        TextError::Template(_) => ApiError::parameter("chat_template", message),
        TextError::Tokenizer(_) => ApiError::new(StatusCode::INTERNAL_SERVER_ERROR, message),
    }
}
