//! `/inference/v1/generate`: token ids in, token ids out, and text where it is asked for (`output_mode`).

use std::sync::Arc;
use std::time::Instant;

use axum::body::Body;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use bytes::BytesMut;
use http::{HeaderMap, StatusCode};
use proto::openai::{GenerateRequest, Prompt, Request};
use serde_json::{Map, Value, json as value};

use super::answer::{ApiError, json};
use super::choice::{Choice, Piece};
use super::generate::{self, Begun, Head};
use super::generation::Generation;
use super::http::read_body;
use super::logprobs::Told;
use super::plan::{Endpoint, Plan};
use super::stream::{self, Events, done, event};
use super::{whole, work};
use crate::edge::app::App;

/// What an answer shows beside the ids.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Mode {
    Tokens,
    Text,
}

pub async fn answer(State(app): State<Arc<App>>, headers: HeaderMap, body: Body) -> Response {
    begin(&app, headers, body).await.unwrap_or_else(IntoResponse::into_response)
}

async fn begin(app: &Arc<App>, headers: HeaderMap, body: Body) -> Result<Response, ApiError> {
    let arrived = Instant::now();
    let body = read_body(body, app.body_bytes_max).await?;
    let checked = work::run(app, body.len(), move |app| {
        let asked: GenerateRequest = proto::openai::read(&body)?;
        let mode = match asked.output_mode.as_deref() {
            None | Some("tokens") => Mode::Tokens,
            Some("text") => Mode::Text,
            Some(_) => return Err(ApiError::parameter("output_mode", "`output_mode` must be `tokens` or `text`.")),
        };
        let prompt = asked.return_token_ids.unwrap_or(false);
        let checked = generate::check(app, Endpoint::Completion, &headers, completion(asked)?, arrived)?;
        Ok((checked, mode, prompt))
    });
    let (checked, mode, shows_prompt) = checked.await?;
    let Begun { mut head, plan, mut generation } = generate::begin(app, checked).await?;
    head.id = head.id.replacen("cmpl-", "generate-tokens-", 1);
    if plan.shape.stream {
        return stream::answer(generation, TokenEvents { head, plan, mode, shows_prompt }).await;
    }
    let first = generate::first(&mut generation).await?;
    let grown = whole::gather(&mut generation, first).await?;
    let choices: Vec<Value> = (0..)
        .zip(&grown)
        .map(|(index, grown)| {
            let mut choice = choice(&head, &plan, mode, index, &grown.token_ids, &grown.text, &grown.logprobs);
            choice.insert("finish_reason".into(), grown.finish_reason().into());
            choice.insert("stop_reason".into(), value!(grown.stop_reason()));
            choice.into()
        })
        .collect();
    let first = generation.choices.first();
    let body = value!({
        "request_id": head.id,
        "model": &*head.model,
        "created": head.created,
        "output_mode": if mode == Mode::Text { "text" } else { "tokens" },
        "choices": choices,
        "usage": generation.usage(),
        "prompt_logprobs": first.filter(|_| plan.logprobs.prompt).map(|choice| head.speller(&plan).prompt(choice.prompt_logprobs())),
        "prompt_token_ids": prompt_ids(first, shows_prompt),
        "metrics": generation.metrics(),
        "kv_transfer_params": grown.iter().find_map(|grown| grown.kv_transfer()),
        "ec_transfer_params": null,
    });
    Ok(json(StatusCode::OK, &body))
}

/// The request as a completion of ids. Without `max_tokens`, the context is the limit.
fn completion(asked: GenerateRequest) -> Result<Request, ApiError> {
    let ids = match asked.token_ids {
        Some(ids) if !ids.is_empty() => ids,
        _ => return Err(ApiError::parameter("token_ids", "`token_ids` is missing or empty.")),
    };
    let wrong = |(i, id): (usize, i64)| {
        u32::try_from(id)
            .map_err(|_| ApiError::parameter("token_ids", format!("`token_ids[{i}]` is {id}, which is no token id.")))
    };
    let ids = ids.into_iter().enumerate().map(wrong).collect::<Result<Vec<u32>, _>>()?;
    if [&asked.features, &asked.content_parts].iter().any(|value| value.as_ref().is_some_and(|value| !value.is_null())) {
        return Err(ApiError::parameter("features", "This engine reads text only; leave `features` and `content_parts` out."));
    }
    let Some(params) = asked.sampling_params else {
        return Err(ApiError::parameter("sampling_params", "`sampling_params` is missing."));
    };
    let sampling: Request = proto::openai::read(Value::from(params).to_string().as_bytes())?;
    Ok(Request {
        model: asked.model,
        messages: None,
        prompt: Some(Prompt::Ids(vec![ids])),
        max_tokens: Some(sampling.max_tokens.unwrap_or(u32::MAX.into())),
        max_completion_tokens: None,
        stream: asked.stream,
        stream_options: asked.stream_options,
        request_id: asked.request_id,
        cache_salt: asked.cache_salt,
        priority: asked.priority,
        kv_transfer_params: asked.kv_transfer_params,
        ec_transfer_params: asked.ec_transfer_params,
        return_token_ids: Some(true),
        echo: None,
        ..sampling
    })
}

fn prompt_ids(choice: Option<&Choice>, shown: bool) -> Option<&[u32]> {
    choice.filter(|_| shown).map(|choice| &*choice.prompt().ids)
}

fn choice(head: &Head, plan: &Plan, mode: Mode, index: u32, ids: &[u32], text: &str, told: &[Told]) -> Map<String, Value> {
    let mut out = Map::new();
    out.insert("index".into(), index.into());
    out.insert("token_ids".into(), ids.into());
    let logprobs = plan.logprobs.generated.map(|shown| match mode {
        Mode::Text => value!(head.speller(plan).chat(told, shown)),
        Mode::Tokens => {
            let entry = |(id, logprob): &(u32, f32)| value!({ "token_id": id, "logprob": logprob.max(-9999.0) });
            let content = told.iter().map(|(_, logprobs)| {
                let top: Vec<Value> = logprobs.tokens.iter().skip(1).take(shown.max()).map(entry).collect();
                let mut own = logprobs.tokens.first().map(entry).unwrap_or_default();
                own["rank"] = logprobs.rank.into();
                own["top_logprobs"] = top.into();
                own
            });
            value!({ "content": content.collect::<Vec<_>>() })
        }
    });
    out.insert("logprobs".into(), logprobs.unwrap_or_default());
    if mode == Mode::Text {
        out.insert("text".into(), text.into());
    }
    out
}

struct TokenEvents {
    head: Head,
    plan: Arc<Plan>,
    mode: Mode,
    /// Until the first chunk.
    shows_prompt: bool,
}

impl TokenEvents {
    fn chunk(&self, out: &mut BytesMut, choices: Value, rest: Value) {
        let mode = if self.mode == Mode::Text { "text" } else { "tokens" };
        let mut body = value!({ "request_id": self.head.id, "output_mode": mode, "choices": choices });
        if let (Some(body), Value::Object(rest)) = (body.as_object_mut(), rest) {
            body.extend(rest);
        }
        event(out, &body);
    }
}

impl Events for TokenEvents {
    fn piece(&mut self, out: &mut BytesMut, generation: &Generation, index: u32, piece: Piece) {
        let mut choice = choice(&self.head, &self.plan, self.mode, index, &piece.tokens, &piece.text, &piece.logprobs);
        let end = piece.end.as_ref();
        choice.insert("finish_reason".into(), end.map(|end| end.finish_reason).into());
        choice.insert("stop_reason".into(), value!(end.and_then(|end| end.stop_reason.as_ref())));
        let mut rest = Map::new();
        if std::mem::take(&mut self.shows_prompt) {
            rest.insert("prompt_token_ids".into(), value!(prompt_ids(generation.choices.first(), true)));
        }
        self.chunk(out, value!([choice]), rest.into());
    }

    fn end(&mut self, out: &mut BytesMut, generation: &Generation) {
        if self.plan.shape.include_usage {
            self.chunk(out, value!([]), value!({ "usage": generation.usage() }));
        }
        done(out);
    }

    fn fail(&mut self, out: &mut BytesMut, error: &ApiError) {
        event(out, &error.body);
        done(out);
    }
}
