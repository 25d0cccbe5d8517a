//! Prompts as token ids: text through the tokenizer, conversations through the model's template first. The same function serves
//! generation and `/tokenize`, so that both give the ids that run.

use std::sync::Arc;
use std::time::SystemTime;

use engine_text::reasoning::Opening;
use engine_text::{ChatRequest, Text, TextError, with_effort};
use http::StatusCode;
use proto::openai::{EmbeddingRequest, Prompt as Input, Request, TokenizeRequest};
use serde_json::{Map, Value};

use super::answer::{ApiError, sentence};
use super::plan::{Endpoint, Plan};

const ASSISTANT: &str = "assistant";

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
    fn of(request: Request) -> Self {
        Self {
            messages: request.messages.unwrap_or_default(),
            tools: request.tools.unwrap_or_default(),
            documents: request.documents.unwrap_or_default(),
            add_generation_prompt: request.add_generation_prompt,
            continue_final_message: request.continue_final_message,
            template: request.chat_template,
            kwargs: with_effort(request.chat_template_kwargs, request.reasoning_effort.as_deref()),
            add_special_tokens: request.add_special_tokens,
        }
    }

    /// The rendered conversation and its ids.
    fn tokens(&self, text: &Text) -> Result<(String, Vec<u32>), TextError> {
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
        let ids = text.encode(&rendered, self.add_special_tokens.unwrap_or(false))?;
        Ok((rendered, ids))
    }

    /// Who speaks next: the assistant, or the last speaker where no new turn begins.
    fn role(&self) -> &str {
        let continues = self.continue_final_message.unwrap_or(false);
        match self.add_generation_prompt.unwrap_or(!continues) {
            true => ASSISTANT,
            false => self.messages.last().and_then(|last| last["role"].as_str()).unwrap_or(ASSISTANT),
        }
    }

    /// What the last message says, if it is `role`'s.
    fn spoken(&self, role: &str) -> String {
        let Some(last) = self.messages.last().filter(|last| last["role"] == role) else { return String::new() };
        match &last["content"] {
            Value::String(text) => text.clone(),
            Value::Array(parts) => {
                let texts: Vec<&str> = parts.iter().filter_map(|part| part["text"].as_str()).collect();
                texts.join("\n")
            }
            _ => String::new(),
        }
    }
}

/// One prompt as it runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Prompt {
    pub ids: Arc<[u32]>,
    /// Its text, where an answer shows it.
    pub text: Option<Arc<str>>,
}

/// What a request says to the model.
pub struct Prompts {
    pub prompts: Vec<Prompt>,
    /// Who speaks in a chat's answer.
    pub role: String,
    /// Chat with `echo`: what the last message says, if its speaker is the same.
    pub spoken: String,
    /// Where a chat's prompt leaves the thought.
    pub opening: Opening,
}

/// Which end of a long prompt is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Truncation {
    /// `None`: as many tokens as the context takes with one of output.
    pub tokens_max: Option<usize>,
    pub keep_last: bool,
}

impl Truncation {
    pub fn apply(self, ids: &mut Vec<u32>, length_max: usize) {
        let max = self.tokens_max.unwrap_or(length_max.saturating_sub(1));
        if ids.len() > max {
            match self.keep_last {
                true => drop(ids.drain(..ids.len() - max)),
                false => ids.truncate(max),
            }
        }
    }
}

/// The prompts of a request; `Plan::new` has seen that there are some.
pub fn of_request(
    text: &Text,
    endpoint: Endpoint,
    mut request: Request,
    plan: &Plan,
    length_max: usize,
) -> Result<Prompts, ApiError> {
    let finish = |mut ids: Vec<u32>, read: Option<String>| {
        if let Some(truncation) = plan.truncation {
            truncation.apply(&mut ids, length_max);
        }
        Prompt { ids: ids.into(), text: read.filter(|_| plan.shape.prompt_text).map(Into::into) }
    };
    let prompts = match (endpoint, request.prompt.take()) {
        (Endpoint::Completion, Some(Input::Ids(prompts))) => {
            let shown = |ids: &[u32]| match plan.shape.prompt_text {
                true => text.decode(ids, plan.skip_special_tokens).map(Some),
                false => Ok(None),
            };
            prompts.into_iter().map(|ids| shown(&ids).map(|read| finish(ids, read))).collect::<Result<_, _>>()
        }
        (Endpoint::Completion, Some(Input::Text(prompts))) => {
            let special = request.add_special_tokens.unwrap_or(true);
            prompts
                .into_iter()
                .map(|prompt| text.encode(&prompt, special).map(|ids| finish(ids, Some(prompt))))
                .collect::<Result<_, _>>()
        }
        _ => {
            let conversation = Conversation::of(request);
            let (rendered, ids) = conversation.tokens(text).map_err(text_error)?;
            let opening = plan.reply.format.reasoning.map_or(Opening::Unknown, |format| format.opening(&rendered));
            let prompts = vec![finish(ids, Some(rendered))];
            let role = conversation.role().to_owned();
            let spoken = if plan.shape.echo { conversation.spoken(&role) } else { String::new() };
            return Ok(Prompts { prompts, role, spoken, opening });
        }
    };
    let (role, spoken, opening) = (String::new(), String::new(), Opening::Unknown);
    Ok(Prompts { prompts: prompts.map_err(text_error)?, role, spoken, opening })
}

/// A chat, rendered and as ids.
pub fn of_chat(text: &Text, request: Request) -> Result<(String, Vec<u32>), ApiError> {
    Conversation::of(request).tokens(text).map_err(text_error)
}

/// The token ids of what is to be embedded; a conversation begins no answer unless asked to.
pub fn of_embedding(text: &Text, request: EmbeddingRequest) -> Result<Vec<Vec<u32>>, ApiError> {
    let prompts = match (request.input, request.messages) {
        (Some(Input::Ids(prompts)), None) => Ok(prompts),
        (Some(Input::Text(prompts)), None) => {
            let special = request.add_special_tokens.unwrap_or(true);
            prompts.iter().map(|prompt| text.encode(prompt, special)).collect()
        }
        (None, Some(messages)) => {
            let conversation = Conversation {
                messages,
                add_generation_prompt: Some(request.add_generation_prompt.unwrap_or(false)),
                continue_final_message: request.continue_final_message,
                template: request.chat_template,
                kwargs: request.chat_template_kwargs,
                add_special_tokens: request.add_special_tokens,
                ..Conversation::default()
            };
            conversation.tokens(text).map(|(_, ids)| vec![ids])
        }
        _ => return Err(ApiError::parameter("input", "Give either `input` or `messages`.")),
    };
    prompts.map_err(text_error)
}

/// The token ids that `/tokenize` asks for.
pub fn of_tokenize(text: &Text, request: TokenizeRequest) -> Result<Arc<[u32]>, ApiError> {
    let ids = match (request.prompt, request.messages) {
        (Some(prompt), None) => text.encode(&prompt, request.add_special_tokens.unwrap_or(true)),
        (None, Some(messages)) => {
            let conversation = Conversation {
                messages,
                tools: request.tools.unwrap_or_default(),
                documents: request.documents.unwrap_or_default(),
                add_generation_prompt: request.add_generation_prompt,
                continue_final_message: request.continue_final_message,
                template: request.chat_template,
                kwargs: request.chat_template_kwargs,
                add_special_tokens: request.add_special_tokens,
            };
            conversation.tokens(text).map(|(_, ids)| ids)
        }
        _ => return Err(ApiError::parameter("prompt", "Give either `prompt` or `messages`.")),
    };
    ids.map(Into::into).map_err(text_error)
}

pub fn text_error(error: TextError) -> ApiError {
    let message = sentence(&error);
    match error {
        TextError::Request { .. } | TextError::NoChatTemplate => ApiError::parameter("messages", message),
        TextError::Template(_) => ApiError::parameter("chat_template", message),
        TextError::Tokenizer(_) => ApiError::new(StatusCode::INTERNAL_SERVER_ERROR, message),
    }
}
