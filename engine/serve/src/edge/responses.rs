//! `/v1/responses`: OpenAI's newer API over the same chats. Answers are kept where the server is told to (`--enable-responses-store`);
//! else, as in vLLM, `store` is passed over and no id is ever found again.

use std::sync::Arc;
use std::time::Instant;

use axum::body::Body;
use axum::extract::{Path, State};
use axum::response::{IntoResponse, Response};
use bytes::{BufMut, BytesMut};
use http::{HeaderMap, StatusCode};
use proto::openai::{ErrorBody, ResponsesRequest, Usage};
use serde_json::{Value, json as value};

use super::answer::{ApiError, json};
use super::choice::{End, Piece};
use super::generate::{self, Begun};
use super::generation::Generation;
use super::http::read_body;
use super::plan::{Endpoint, Plan};
use super::stream::{self, Events};
use super::{whole, work};
use crate::edge::app::App;
use store::Stored;

mod request;
pub mod store;

pub async fn create(State(app): State<Arc<App>>, headers: HeaderMap, body: Body) -> Response {
    begin(&app, headers, body).await.unwrap_or_else(IntoResponse::into_response)
}

pub async fn retrieve(State(app): State<Arc<App>>, Path(id): Path<String>) -> Response {
    match find(&app, &id) {
        Ok(stored) => json(StatusCode::OK, &stored.body),
        Err(error) => error.into_response(),
    }
}

/// Only what runs in the background can be cancelled, and nothing here does.
pub async fn cancel(State(app): State<Arc<App>>, Path(id): Path<String>) -> Response {
    let refused = match find(&app, &id) {
        Ok(_) => ApiError::parameter("response_id", "Cannot cancel a synchronous response."),
        Err(error) => error,
    };
    refused.into_response()
}

fn find(app: &App, id: &str) -> Result<Arc<Stored>, ApiError> {
    let shown: String = id.chars().take(100).collect();
    if !id.starts_with("resp_") {
        let message = format!("Invalid response id {shown:?}; it begins with `resp_`.");
        return Err(ApiError::parameter("response_id", message));
    }
    let missing = || ErrorBody::new(404, format!("Response with id '{shown}' not found.")).naming("response_id");
    app.responses.get(id).ok_or_else(|| missing().into())
}

async fn begin(app: &Arc<App>, headers: HeaderMap, body: Body) -> Result<Response, ApiError> {
    let arrived = Instant::now();
    let body = read_body(body, app.body_bytes_max).await?;
    let begun = work::run(app, body.len(), move |app| {
        let asked: ResponsesRequest = proto::openai::read(&body)?;
        let before = asked.previous_response_id.as_deref().map(|id| find(app, id)).transpose()?;
        let (chat, messages) = request::chat(&asked, before.as_ref().map_or(&[], |stored| &stored.messages))?;
        let begun = generate::begin(app, Endpoint::Chat, &headers, chat, arrived)?;
        Ok((begun, asked, messages))
    });
    let (Begun { head, plan, mut generation }, asked, messages) = begun.await?;
    let response = Answer {
        id: head.id.replacen("chatcmpl-", "resp_", 1),
        item: format!("msg_{:032x}", rand::random::<u128>()),
        created: head.created,
        model: head.model.to_string(),
        store: app.answers.responses_store && asked.store.unwrap_or(true),
        app: Arc::clone(app),
        asked,
        messages,
    };
    if plan.shape.stream {
        let events = ResponseEvents { response, plan, sequence: 0, open: false, text: String::new(), end: None };
        return stream::answer(generation, events).await;
    }
    let first = generate::first(&mut generation).await?;
    let grown = whole::gather(&mut generation, first).await?.into_iter().next().unwrap_or_default();
    let body = response.ended(&plan, &generation.usage(), &grown.text, grown.end.as_ref());
    Ok(json(StatusCode::OK, &body))
}

/// What every body of one answer says.
struct Answer {
    id: String,
    /// Id of the one message.
    item: String,
    created: u64,
    model: String,
    store: bool,
    app: Arc<App>,
    asked: ResponsesRequest,
    messages: Vec<Value>,
}

impl Answer {
    fn body(&self, plan: &Plan, status: &str, output: Value, usage: Value, incomplete: Value) -> Value {
        let asked = &self.asked;
        value!({
            "id": self.id,
            "object": "response",
            "created_at": self.created,
            "status": status,
            "background": false,
            "incomplete_details": incomplete,
            "instructions": asked.instructions,
            "max_output_tokens": plan.tokens_max,
            "max_tool_calls": asked.max_tool_calls,
            "metadata": asked.metadata,
            "model": self.model,
            "output": output,
            "parallel_tool_calls": asked.parallel_tool_calls.unwrap_or(true),
            "previous_response_id": asked.previous_response_id,
            "prompt": null,
            "prompt_cache_key": asked.prompt_cache_key,
            "reasoning": asked.reasoning,
            "service_tier": asked.service_tier.as_deref().unwrap_or("auto"),
            "temperature": plan.sampling.temperature,
            "text": asked.text,
            "tool_choice": asked.tool_choice.clone().unwrap_or_else(|| "auto".into()),
            "tools": asked.tools.as_deref().unwrap_or_default(),
            "top_logprobs": null,
            "top_p": plan.sampling.top_p,
            "truncation": asked.truncation.as_deref().unwrap_or("disabled"),
            "usage": usage,
            "user": asked.user,
        })
    }

    fn part(text: &str) -> Value {
        value!({ "type": "output_text", "text": text, "annotations": [], "logprobs": null })
    }

    fn message(&self, status: &str, content: Value) -> Value {
        value!({ "type": "message", "id": self.item, "role": "assistant", "status": status, "content": content })
    }

    /// The body of the answer that has ended; kept where answers are.
    fn ended(&self, plan: &Plan, usage: &Usage, text: &str, end: Option<&End>) -> Value {
        let (status, incomplete) = match end.map(|end| end.finish_reason) {
            Some("length") => ("incomplete", value!({ "reason": "max_output_tokens" })),
            Some("abort") => ("cancelled", Value::Null),
            _ => ("completed", Value::Null),
        };
        let cached = usage.prompt_tokens_details.map_or(0, |details| details.cached_tokens);
        let usage = value!({
            "input_tokens": usage.prompt_tokens,
            "input_tokens_details": { "cached_tokens": cached, "cache_write_tokens": 0 },
            "output_tokens": usage.completion_tokens,
            "output_tokens_details": { "reasoning_tokens": 0 },
            "total_tokens": usage.total_tokens,
        });
        let output = value!([self.message(status, value!([Self::part(text)]))]);
        let mut body = self.body(plan, status, output, usage, incomplete);
        if let Some(kv_transfer) = end.and_then(|end| end.kv_transfer.as_ref()) {
            body["kv_transfer_params"] = kv_transfer.clone();
        }
        if self.store {
            let mut messages = self.messages.clone();
            messages.push(value!({ "role": "assistant", "content": text }));
            self.app.responses.put(Stored { id: self.id.clone(), messages, body: body.clone() });
        }
        body
    }
}

struct ResponseEvents {
    response: Answer,
    plan: Arc<Plan>,
    sequence: u64,
    /// The message was begun.
    open: bool,
    text: String,
    end: Option<End>,
}

impl ResponseEvents {
    fn event(&mut self, out: &mut BytesMut, name: &str, mut body: Value) {
        body["type"] = name.into();
        body["sequence_number"] = self.sequence.into();
        self.sequence += 1;
        out.put_slice(b"event: ");
        out.put_slice(name.as_bytes());
        out.put_u8(b'\n');
        stream::event(out, &body);
    }

    /// A body about the one text part.
    fn of_part(&self, key: &str, content: impl Into<Value>) -> Value {
        value!({ "item_id": self.response.item, "output_index": 0, "content_index": 0, key: content.into() })
    }

    fn open(&mut self, out: &mut BytesMut) {
        if std::mem::replace(&mut self.open, true) {
            return;
        }
        let body = self.response.body(&self.plan, "in_progress", value!([]), Value::Null, Value::Null);
        self.event(out, "response.created", value!({ "response": body }));
        self.event(out, "response.in_progress", value!({ "response": body }));
        let item = self.response.message("in_progress", value!([]));
        self.event(out, "response.output_item.added", value!({ "output_index": 0, "item": item }));
        let part = self.of_part("part", Answer::part(""));
        self.event(out, "response.content_part.added", part);
    }
}

impl Events for ResponseEvents {
    fn piece(&mut self, out: &mut BytesMut, _: &Generation, _: u32, piece: Piece) {
        self.open(out);
        if !piece.text.is_empty() {
            self.text.push_str(&piece.text);
            let mut delta = self.of_part("delta", piece.text);
            delta["logprobs"] = value!([]);
            self.event(out, "response.output_text.delta", delta);
        }
        self.end = self.end.take().or(piece.end);
    }

    fn end(&mut self, out: &mut BytesMut, generation: &Generation) {
        let text = std::mem::take(&mut self.text);
        let body = self.response.ended(&self.plan, &generation.usage(), &text, self.end.as_ref());
        let mut done = self.of_part("text", text.as_str());
        done["logprobs"] = value!([]);
        self.event(out, "response.output_text.done", done);
        let part = self.of_part("part", Answer::part(&text));
        self.event(out, "response.content_part.done", part);
        self.event(out, "response.output_item.done", value!({ "output_index": 0, "item": body["output"][0] }));
        let name = if body["status"] == "incomplete" { "response.incomplete" } else { "response.completed" };
        self.event(out, name, value!({ "response": body }));
    }

    fn fail(&mut self, out: &mut BytesMut, error: &ApiError) {
        self.open(out);
        let detail = &error.body.error;
        let mut body = self.response.body(&self.plan, "failed", value!([]), Value::Null, Value::Null);
        body["error"] = value!({ "code": "server_error", "message": detail.message });
        self.event(out, "response.failed", value!({ "response": body }));
    }
}
