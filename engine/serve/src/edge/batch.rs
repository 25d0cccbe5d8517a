//! `/v1/chat/completions/batch`: several chats that share all else, one choice each. As in vLLM 0.33, no streams, no tools, one choice.

use std::sync::Arc;
use std::time::Instant;

use axum::body::Body;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use http::HeaderMap;
use proto::openai::Request;
use serde_json::{Map, Value};

use super::answer::ApiError;
use super::generate::{self, Begun};
use super::http::read_body;
use super::{chat, whole, work};
use crate::edge::app::App;

/// Most chats of one request, as many as a completion may have prompts.
const CHATS_MAX: usize = 1024;

pub async fn answer(State(app): State<Arc<App>>, headers: HeaderMap, body: Body) -> Response {
    begin(&app, headers, body).await.unwrap_or_else(IntoResponse::into_response)
}

async fn begin(app: &Arc<App>, headers: HeaderMap, body: Body) -> Result<Response, ApiError> {
    let arrived = Instant::now();
    let body = read_body(body, app.body_bytes_max).await?;
    let checked = work::run(app, body.len(), move |app| {
        let mut asked: Map<String, Value> = proto::openai::read(&body)?;
        let chats = chats(asked.remove("messages"))?;
        let request: Request = proto::openai::read(Value::from(asked).to_string().as_bytes())?;
        check(&request)?;
        generate::check_batch(app, &headers, &request, chats, arrived)
    });
    let (checked, spoken) = checked.await?;
    let Begun { head, plan, mut generation } = generate::begin(app, checked).await?;
    generation.part();
    let first = generate::first(&mut generation).await?;
    let mut grown = whole::gather(&mut generation, first).await?;
    grown.iter_mut().zip(&spoken).for_each(|(grown, spoken)| grown.text.insert_str(0, spoken));
    Ok(chat::render(&head, &plan, &generation, grown))
}

fn chats(messages: Option<Value>) -> Result<Vec<Vec<Value>>, ApiError> {
    let wrong = |what: String| ApiError::parameter("messages", format!("`messages` {what}."));
    let Some(Value::Array(chats)) = messages else { return Err(wrong("must be a list of chats".into())) };
    if !(1..=CHATS_MAX).contains(&chats.len()) {
        return Err(wrong(format!("holds {} chats; 1 to {CHATS_MAX} are possible", chats.len())));
    }
    let chat = |(i, chat)| match chat {
        Value::Array(messages) if !messages.is_empty() => Ok(messages),
        _ => Err(ApiError::parameter("messages", format!("`messages[{i}]` must be a chat: a list with at least one message."))),
    };
    chats.into_iter().enumerate().map(chat).collect()
}

fn check(request: &Request) -> Result<(), ApiError> {
    let wrong = |param: &'static str, what: &str| {
        Err(ApiError::parameter(param, format!("Batch chat completions do not support {what}.")))
    };
    if request.stream == Some(true) {
        return wrong("stream", "streams");
    }
    if request.tools.as_ref().is_some_and(|tools| !tools.is_empty()) {
        return wrong("tools", "tools");
    }
    if request.n.is_some_and(|n| n != 1) {
        return wrong("n", "`n` > 1");
    }
    Ok(())
}
