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
use super::generate::{self, Begun, Head};
use super::generation::Generation;
use super::http::read_body;
use super::plan::{Endpoint, Plan};
use super::stream::{self, Events};
use super::work;
use crate::edge::app::App;
use items::Items;
use store::Stored;

mod input;
mod items;
pub mod request;
pub mod store;
mod tools;

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
    let checked = work::run(app, body.len(), move |app| {
        let asked: ResponsesRequest = proto::openai::read(&body)?;
        let before = asked.previous_response_id.as_deref().map(|id| find(app, id)).transpose()?;
        let (chat, messages) = request::chat(&asked, before.as_ref().map_or(&[], |stored| &stored.messages))?;
        let checked = generate::check(app, Endpoint::Chat, &headers, chat, arrived)?;
        Ok((checked, asked, messages))
    });
    let (checked, asked, messages) = checked.await?;
    let Begun { head, plan, mut generation } = generate::begin(app, checked).await?;
    generation.part();
    let response = Answer {
        id: head.id.replacen("chatcmpl-", "resp_", 1),
        store: app.answers.responses_store && asked.store.unwrap_or(true),
        head,
        plan,
        app: Arc::clone(app),
        asked,
        messages,
    };
    let mut grown = Grown::default();
    if response.plan.shape.stream {
        return stream::answer(generation, ResponseEvents { response, grown, sequence: 0, begun: false }).await;
    }
    let mut next = Some(Ok(generate::first(&mut generation).await?));
    while let Some(piece) = next {
        grown.take(&response, piece?.1);
        // Whoever waits for the whole hears no events.
        grown.items.events();
        next = generation.next().await;
    }
    Ok(json(StatusCode::OK, &response.ended(&mut grown, &generation.usage())))
}

/// What has become of the answer so far.
#[derive(Default)]
struct Grown {
    items: Items,
    /// Log probabilities of tokens whose text is held back.
    logprobs: Vec<Value>,
    end: Option<End>,
}

impl Grown {
    fn take(&mut self, response: &Answer, mut piece: Piece) {
        self.end = self.end.take().or(piece.end.take());
        if let Some(shown) = response.plan.logprobs.generated {
            let told = response.head.speller(&response.plan).chat(&piece.logprobs, shown).content;
            self.logprobs.extend(told.iter().map(|token| value!(token)));
        }
        // Tokens of thoughts and calls are told of nowhere.
        let logprobs = match piece.text.is_empty() && piece.reasoning.is_empty() && piece.calls.is_empty() {
            true => Vec::new(),
            false => std::mem::take(&mut self.logprobs),
        };
        self.items.take(piece, logprobs, || response.plan.reply.call_id());
    }

    /// The status of the answer.
    fn status(&self) -> &'static str {
        match self.end.as_ref().map(|end| end.finish_reason) {
            Some("length") => "incomplete",
            Some("abort") => "cancelled",
            _ => "completed",
        }
    }
}

/// What every body of one answer says.
struct Answer {
    id: String,
    head: Head,
    plan: Arc<Plan>,
    store: bool,
    app: Arc<App>,
    asked: ResponsesRequest,
    messages: Vec<Value>,
}

impl Answer {
    fn body(&self, status: &str, output: &[Value], usage: Value, incomplete: Value) -> Value {
        let (asked, plan) = (&self.asked, &self.plan);
        value!({
            "id": self.id,
            "object": "response",
            "created_at": self.head.created,
            "status": status,
            "background": false,
            "incomplete_details": incomplete,
            "instructions": asked.instructions,
            "max_output_tokens": plan.tokens_max,
            "max_tool_calls": asked.max_tool_calls,
            "metadata": asked.metadata,
            "model": &*self.head.model,
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
            "top_logprobs": asked.top_logprobs,
            "top_p": plan.sampling.top_p,
            "truncation": asked.truncation.as_deref().unwrap_or("disabled"),
            "usage": usage,
            "user": asked.user,
        })
    }

    /// The body of the answer that has ended; kept where answers are.
    fn ended(&self, grown: &mut Grown, usage: &Usage) -> Value {
        let status = grown.status();
        grown.items.end(if status == "completed" { status } else { "incomplete" });
        let incomplete = if status == "incomplete" { value!({ "reason": "max_output_tokens" }) } else { Value::Null };
        let cached = usage.prompt_tokens_details.map_or(0, |details| details.cached_tokens);
        let reasoning = usage.completion_tokens_details.map_or(0, |details| details.reasoning_tokens);
        let usage = value!({
            "input_tokens": usage.prompt_tokens,
            "input_tokens_details": { "cached_tokens": cached, "cache_write_tokens": 0 },
            "output_tokens": usage.completion_tokens,
            "output_tokens_details": { "reasoning_tokens": reasoning },
            "total_tokens": usage.total_tokens,
        });
        let mut body = self.body(status, grown.items.done(), usage, incomplete);
        if let Some(kv_transfer) = grown.end.as_ref().and_then(|end| end.kv_transfer.as_ref()) {
            body["kv_transfer_params"] = kv_transfer.clone();
        }
        if self.store {
            let mut messages = self.messages.clone();
            // Items of our own making are such as are taken back.
            let taken = grown.items.done().iter().try_for_each(|item| input::push(&mut messages, 0, item));
            if taken.is_ok() {
                self.app.responses.put(Stored { id: self.id.clone(), messages, body: body.clone() });
            }
        }
        body
    }
}

struct ResponseEvents {
    response: Answer,
    grown: Grown,
    sequence: u64,
    /// The answer was begun.
    begun: bool,
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

    fn begin(&mut self, out: &mut BytesMut) {
        if std::mem::replace(&mut self.begun, true) {
            return;
        }
        let body = self.response.body("in_progress", &[], Value::Null, Value::Null);
        self.event(out, "response.created", value!({ "response": body }));
        self.event(out, "response.in_progress", value!({ "response": body }));
    }

    fn items(&mut self, out: &mut BytesMut) {
        for event in self.grown.items.events() {
            self.event(out, event.name, event.body);
        }
    }
}

impl Events for ResponseEvents {
    fn piece(&mut self, out: &mut BytesMut, _: &Generation, _: u32, piece: Piece) {
        self.begin(out);
        self.grown.take(&self.response, piece);
        self.items(out);
    }

    fn end(&mut self, out: &mut BytesMut, generation: &Generation) {
        let body = self.response.ended(&mut self.grown, &generation.usage());
        self.items(out);
        let name = if body["status"] == "incomplete" { "response.incomplete" } else { "response.completed" };
        self.event(out, name, value!({ "response": body }));
    }

    fn fail(&mut self, out: &mut BytesMut, error: &ApiError) {
        self.begin(out);
        let mut body = self.response.body("failed", self.grown.items.done(), Value::Null, Value::Null);
        body["error"] = value!({ "code": "server_error", "message": error.body.error.message });
        self.event(out, "response.failed", value!({ "response": body }));
    }
}
