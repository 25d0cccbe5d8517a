//! `/v1/messages` and `/v1/messages/count_tokens`: Anthropic's API over the same chats.

use std::sync::Arc;
use std::time::Instant;

use axum::body::Body;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use bytes::{BufMut, BytesMut};
use engine_text::reply::Delta as Call;
use http::{HeaderMap, StatusCode};
use proto::anthropic::{ErrorBody, MessagesRequest};
use proto::openai::Usage;
use serde::Serialize;
use serde_json::{Map, Value, json as value};

use super::answer::{ApiError, json};
use super::choice::{End, Piece};
use super::generate::{self, Begun, Head};
use super::generation::Generation;
use super::http::read_body;
use super::plan::{Endpoint, Plan};
use super::stream::{self, Events};
use super::whole::{self, Grown};
use super::{prompt, work};
use crate::edge::app::App;

pub mod request;

pub async fn answer(State(app): State<Arc<App>>, headers: HeaderMap, body: Body) -> Response {
    begin(&app, headers, body).await.unwrap_or_else(|error| failed(&error))
}

pub async fn count_tokens(State(app): State<Arc<App>>, body: Body) -> Response {
    count(&app, body).await.unwrap_or_else(|error| failed(&error))
}

/// An error in Anthropic's form, with everything else that ours has.
fn failed(error: &ApiError) -> Response {
    let mut response = error.clone().into_response();
    let status = response.status();
    *response.body_mut() = json(status, &ErrorBody::new(status.as_u16(), &error.body.error.message)).into_body();
    response
}

async fn begin(app: &Arc<App>, headers: HeaderMap, body: Body) -> Result<Response, ApiError> {
    let arrived = Instant::now();
    let body = read_body(body, app.body_bytes_max).await?;
    let checked = work::run(app, body.len(), move |app| {
        let asked: MessagesRequest = proto::openai::read(&body)?;
        generate::check(app, Endpoint::Chat, &headers, request::chat(asked, false)?, arrived)
    });
    let Begun { head, plan, mut generation } = generate::begin(app, checked.await?).await?;
    generation.part();
    if plan.shape.stream {
        let events = MessageEvents { head, plan, end: None, begun: false, block: None, index: 0, called: false };
        return stream::answer(generation, events).await;
    }
    let first = generate::first(&mut generation).await?;
    let grown = whole::gather(&mut generation, first).await?;
    let grown = grown.into_iter().next().unwrap_or_default();
    Ok(json(StatusCode::OK, &render(&head, &plan, &generation, &grown)))
}

async fn count(app: &Arc<App>, body: Body) -> Result<Response, ApiError> {
    let body = read_body(body, app.body_bytes_max).await?;
    let tokens = work::run(app, body.len(), move |app| {
        let asked: MessagesRequest = proto::openai::read(&body)?;
        let chat = request::chat(asked, true)?;
        app.named(chat.model.as_deref())?;
        prompt::of_chat(&app.ready()?.text, chat).map(|(_, ids)| ids.len())
    });
    let input_tokens = tokens.await?;
    let context = value!({ "original_input_tokens": input_tokens });
    Ok(json(StatusCode::OK, &value!({ "input_tokens": input_tokens, "context_management": context })))
}

/// What was thought, said and called, a block each; at least one.
fn blocks(plan: &Plan, grown: &Grown) -> Vec<Value> {
    let mut blocks = Vec::new();
    if !grown.reasoning.is_empty() {
        blocks.push(value!({ "type": "thinking", "thinking": grown.reasoning, "signature": signature() }));
    }
    if !grown.text.is_empty() || (blocks.is_empty() && grown.calls.is_empty()) {
        blocks.push(value!({ "type": "text", "text": grown.text }));
    }
    blocks.extend(grown.calls.iter().map(|call| {
        let input: Value = serde_json::from_str(&call.function.arguments).unwrap_or_else(|_| value!({}));
        value!({ "type": "tool_use", "id": plan.reply.call_id(), "name": call.function.name, "input": input })
    }));
    blocks
}

/// What clients send back with a thought. Nothing is signed here, and nothing is checked.
fn signature() -> String {
    format!("{:032x}", rand::random::<u128>())
}

fn render(head: &Head, plan: &Plan, generation: &Generation, grown: &Grown) -> Value {
    let (stop_reason, stop_sequence) = grown.end.as_ref().map_or((None, None), |end| stop(end, !grown.calls.is_empty()));
    value!({
        "id": head.id,
        "type": "message",
        "role": "assistant",
        "content": blocks(plan, grown),
        "model": &*head.model,
        "stop_reason": stop_reason,
        "stop_sequence": stop_sequence,
        "usage": usage(&generation.usage()),
        "kv_transfer_params": grown.kv_transfer(),
        "ec_transfer_params": null,
    })
}

/// Anthropic's reason and the stop sequence that was met. Whoever called a tool, asked by its name or not, waits for its result.
fn stop(end: &End, called: bool) -> (Option<&'static str>, Option<&str>) {
    match (end.finish_reason, end.stop_reason.as_ref().and_then(Value::as_str)) {
        ("length", _) => (Some("max_tokens"), None),
        ("stop", Some(sequence)) => (Some("stop_sequence"), Some(sequence)),
        ("stop", None) if called => (Some("tool_use"), None),
        ("stop", None) => (Some("end_turn"), None),
        ("tool_calls", _) => (Some("tool_use"), None),
        _ => (None, None),
    }
}

/// Tokens that the cache held are no input tokens to Anthropic.
fn usage(usage: &Usage) -> Value {
    let mut out = Map::new();
    let cached = usage.prompt_tokens_details.map(|details| details.cached_tokens);
    out.insert("input_tokens".into(), usage.prompt_tokens.saturating_sub(cached.unwrap_or(0)).into());
    out.insert("output_tokens".into(), usage.completion_tokens.into());
    if let Some(cached) = cached {
        out.insert("cache_read_input_tokens".into(), cached.into());
    }
    out.into()
}

struct MessageEvents {
    head: Head,
    plan: Arc<Plan>,
    begun: bool,
    /// Kind of the content block that is open.
    block: Option<&'static str>,
    /// Number of that block, or of the next.
    index: u32,
    end: Option<End>,
    /// Whether a tool was called.
    called: bool,
}

/// One event under its own name, which stands in it as `type`, too.
fn event(out: &mut BytesMut, name: &str, body: &impl Serialize) {
    out.put_slice(b"event: ");
    out.put_slice(name.as_bytes());
    out.put_u8(b'\n');
    stream::event(out, body);
}

impl Events for MessageEvents {
    fn piece(&mut self, out: &mut BytesMut, generation: &Generation, _: u32, piece: Piece) {
        if !std::mem::replace(&mut self.begun, true) {
            let prompt = generation.choices.first().map_or(0, |choice| choice.prompt_tokens());
            let message = value!({
                "id": self.head.id, "type": "message", "role": "assistant", "content": [], "model": &*self.head.model,
                "stop_reason": null, "stop_sequence": null, "usage": usage(&Usage::new(prompt, 0)),
            });
            event(out, "message_start", &value!({ "type": "message_start", "message": message }));
        }
        if !piece.reasoning.is_empty() {
            self.open(out, "thinking", || value!({ "type": "thinking", "thinking": "", "signature": "" }));
            self.delta(out, value!({ "type": "thinking_delta", "thinking": piece.reasoning }));
        }
        if !piece.text.is_empty() {
            self.open(out, "text", || value!({ "type": "text", "text": "" }));
            self.delta(out, value!({ "type": "text_delta", "text": piece.text }));
        }
        for call in &piece.calls {
            match call {
                Call::Call { name, .. } => {
                    self.called = true;
                    self.close(out);
                    let id = self.plan.reply.call_id();
                    self.open(out, "tool_use", || value!({ "type": "tool_use", "id": id, "name": name, "input": {} }));
                }
                Call::Arguments { fragment, .. } => {
                    self.delta(out, value!({ "type": "input_json_delta", "partial_json": fragment }));
                }
                Call::Content(_) | Call::Reasoning(_) => {}
            }
        }
        self.end = self.end.take().or(piece.end);
    }

    fn end(&mut self, out: &mut BytesMut, generation: &Generation) {
        self.close(out);
        let (stop_reason, stop_sequence) = self.end.as_ref().map_or((None, None), |end| stop(end, self.called));
        let delta = value!({ "stop_reason": stop_reason, "stop_sequence": stop_sequence });
        let usage = usage(&generation.usage());
        event(out, "message_delta", &value!({ "type": "message_delta", "delta": delta, "usage": usage }));
        event(out, "message_stop", &value!({ "type": "message_stop" }));
    }

    fn fail(&mut self, out: &mut BytesMut, error: &ApiError) {
        self.close(out);
        let detail = &error.body.error;
        event(out, "error", &ErrorBody::new(detail.code, &detail.message));
    }
}

impl MessageEvents {
    /// Begins a block of this kind, unless one is open.
    fn open(&mut self, out: &mut BytesMut, kind: &'static str, block: impl FnOnce() -> Value) {
        if self.block == Some(kind) {
            return;
        }
        self.close(out);
        self.block = Some(kind);
        let (index, block) = (self.index, block());
        event(out, "content_block_start", &value!({ "type": "content_block_start", "index": index, "content_block": block }));
    }

    fn delta(&self, out: &mut BytesMut, delta: Value) {
        event(out, "content_block_delta", &value!({ "type": "content_block_delta", "index": self.index, "delta": delta }));
    }

    fn close(&mut self, out: &mut BytesMut) {
        if let Some(kind) = self.block.take() {
            if kind == "thinking" {
                self.delta(out, value!({ "type": "signature_delta", "signature": signature() }));
            }
            event(out, "content_block_stop", &value!({ "type": "content_block_stop", "index": self.index }));
            self.index += 1;
        }
    }
}
