//! Chats to prompts: the model's Jinja template, rendered as transformers 5 renders it.

mod deep;
mod messages;
mod template;
mod values;

use std::borrow::Cow;
use std::time::SystemTime;

use serde_json::{Map, Value};

pub use self::messages::arguments as call_arguments;
pub(crate) use self::template::Templates;
use crate::error::TextError;

/// What a prompt is rendered from.
#[derive(Debug, Clone)]
pub struct ChatRequest<'a> {
    /// OpenAI messages: objects with `role`, and `content` that is a string, null, or a list of text parts.
    pub messages: &'a [Value],
    /// OpenAI tools. An empty list is none.
    pub tools: &'a [Value],
    /// Documents for retrieval templates. An empty list is none.
    pub documents: &'a [Value],
    /// End with what makes the model answer.
    pub add_generation_prompt: bool,
    /// End inside the last message, which the model goes on with.
    pub continue_final_message: bool,
    /// A template in place of the model's own. It comes from the client: fuel and size limits hold for it as for any other.
    pub template: Option<&'a str>,
    /// Extra variables (`chat_template_kwargs`).
    pub kwargs: Option<&'a Map<String, Value>>,
    /// What `strftime_now` tells, in UTC.
    pub now: SystemTime,
}

impl<'a> ChatRequest<'a> {
    /// A plain chat that the model is to answer.
    pub fn new(messages: &'a [Value], now: SystemTime) -> Self {
        Self {
            messages,
            tools: &[],
            documents: &[],
            add_generation_prompt: true,
            continue_final_message: false,
            template: None,
            kwargs: None,
            now,
        }
    }
}

/// The template's variables with a `reasoning_effort` among them. As vLLM 0.33: an effort also switches the thought on, and "none"
/// off, in templates that have the switch `enable_thinking`, unless the client set that itself.
pub fn with_effort(kwargs: Option<Map<String, Value>>, effort: Option<&str>) -> Option<Map<String, Value>> {
    let Some(effort) = effort else { return kwargs };
    let mut kwargs = kwargs.unwrap_or_default();
    kwargs.entry("enable_thinking").or_insert((effort != "none").into());
    kwargs.insert("reasoning_effort".into(), effort.into());
    Some(kwargs)
}

pub(crate) fn render(templates: &Templates, request: &ChatRequest<'_>) -> Result<String, TextError> {
    if request.messages.is_empty() {
        return Err(TextError::request("messages", "must not be empty"));
    }
    if request.add_generation_prompt && request.continue_final_message {
        return Err(TextError::request("continue_final_message", "cannot be true while add_generation_prompt is true"));
    }
    let variables = values::variables(templates, request)?;
    let rendered = templates.render(request, variables)?;
    if request.continue_final_message { cut_at_mark(rendered, request.messages) } else { Ok(rendered) }
}

/// Stands behind the last message's text while that is rendered, as in transformers 5.24: the prompt ends where it came out. The space
/// tells whether the template trimmed the text.
const CONTINUE_MARK: &str = "CONTINUE_FINAL_MESSAGE_TAG ";

/// Puts the mark behind the text of the last message, which is in order.
fn mark_final_message(messages: &mut [Cow<'_, Value>], place: &str) -> Result<(), TextError> {
    let content = messages.last_mut().and_then(|message| message.to_mut().get_mut("content"));
    let text = match content {
        Some(Value::Array(parts)) => parts.iter_mut().rev().find_map(|part| part.get_mut("text")),
        text => text,
    };
    let Some(Value::String(text)) = text else { return Err(TextError::request(place, "has no text to continue")) };
    text.push_str(CONTINUE_MARK);
    Ok(())
}

/// Cuts the prompt at the mark; where the template trimmed the text, behind the trimmed text.
fn cut_at_mark(mut rendered: String, messages: &[Value]) -> Result<String, TextError> {
    let Some(mark) = rendered.rfind(CONTINUE_MARK.trim_end()) else {
        return Err(TextError::request(
            format!("messages[{}]", messages.len() - 1),
            "does not appear in the prompt as the chat template renders it, so it cannot be continued",
        ));
    };
    let trimmed = !rendered[mark..].starts_with(CONTINUE_MARK);
    rendered.truncate(mark);
    if trimmed {
        rendered.truncate(rendered.trim_end().len());
    }
    Ok(rendered)
}
