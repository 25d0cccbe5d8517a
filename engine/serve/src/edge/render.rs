//! `/render` behind `/v1/chat/completions`, `/v1/completions`, `/v1/messages`, `/v1/responses`: the prompt as token ids and the parameters, in the
//! form that `/inference/v1/generate` takes. Routers hash the ids; they are the ones that run.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use http::{HeaderMap, StatusCode};
use proto::anthropic::MessagesRequest;
use proto::openai::{Request, ResponsesRequest};
use serde_json::{Map, Value, json as value};

use super::answer::{ApiError, json};
use super::generate::planned;
use super::http::read_body;
use super::plan::Endpoint;
use super::{messages, request_id, responses, work};
use crate::edge::app::App;

/// Parameters that travel as they were given.
const PASSED: [&str; 25] = [
    "n",
    "temperature",
    "top_p",
    "top_k",
    "min_p",
    "seed",
    "frequency_penalty",
    "presence_penalty",
    "repetition_penalty",
    "logit_bias",
    "allowed_token_ids",
    "bad_words",
    "stop",
    "stop_token_ids",
    "ignore_eos",
    "include_stop_str_in_output",
    "min_tokens",
    "skip_special_tokens",
    "spaces_between_special_tokens",
    "prompt_logprobs",
    "logprob_token_ids",
    "stream_interval",
    "response_format",
    "structured_outputs",
    "repetition_detection",
];

pub async fn chat(State(app): State<Arc<App>>, headers: HeaderMap, body: Body) -> Response {
    answer(&app, headers, body, |body| Ok((Endpoint::Chat, proto::openai::read(body)?))).await
}

pub async fn completion(State(app): State<Arc<App>>, headers: HeaderMap, body: Body) -> Response {
    answer(&app, headers, body, |body| Ok((Endpoint::Completion, proto::openai::read(body)?))).await
}

pub async fn message(State(app): State<Arc<App>>, headers: HeaderMap, body: Body) -> Response {
    let read = |body: &[u8]| {
        let asked: MessagesRequest = proto::openai::read(body)?;
        Ok((Endpoint::Chat, messages::request::chat(asked, false)?))
    };
    answer(&app, headers, body, read).await
}

pub async fn response(State(app): State<Arc<App>>, headers: HeaderMap, body: Body) -> Response {
    let read = |body: &[u8]| {
        let asked: ResponsesRequest = proto::openai::read(body)?;
        if asked.previous_response_id.is_some() {
            let message = "previous_response_id is not supported by the stateless render endpoint.";
            return Err(ApiError::parameter("previous_response_id", message));
        }
        Ok((Endpoint::Chat, responses::request::chat(&asked, &[])?.0))
    };
    answer(&app, headers, body, read).await
}

type Read = fn(&[u8]) -> Result<(Endpoint, Request), ApiError>;

async fn answer(app: &Arc<App>, headers: HeaderMap, body: Body, read: Read) -> Response {
    let answered = async {
        let body = read_body(body, app.body_bytes_max).await?;
        work::run(app, body.len(), move |app| render(app, &headers, &body, read)).await
    };
    answered.await.unwrap_or_else(IntoResponse::into_response)
}

fn render(app: &App, headers: &HeaderMap, body: &[u8], read: Read) -> Result<Response, ApiError> {
    let (endpoint, request) = read(body)?;
    let model = app.named(request.model.as_deref())?;
    let id = request_id::answer_id(endpoint.id_prefix(), headers, request.request_id.as_deref())?;
    let asked: Map<String, Value> = proto::openai::read(body)?;
    let (stream, salt, priority) = (request.stream, request.cache_salt.clone(), request.priority);
    let (ready, plan, prompts) = planned(app, endpoint, headers, request)?;
    let length_max = ready.handle.limits().length_max;
    let one = |(i, ids): (usize, &[u32])| {
        let mut params: Map<String, Value> =
            PASSED.iter().filter_map(|key| Some(((*key).to_owned(), asked.get(*key)?.clone()))).collect();
        if let Some(stops) = asked.get("stop_sequences") {
            params.insert("stop".into(), stops.clone());
        }
        params.insert("max_tokens".into(), plan.finish(ids.len(), length_max).tokens_max.into());
        if let Some(number) = plan.extras.as_ref().and_then(|extras| extras.logprobs) {
            params.insert("logprobs".into(), number.into());
        }
        value!({
            "request_id": if endpoint == Endpoint::Chat { id.clone() } else { format!("{id}-{i}") },
            "token_ids": ids, "token_offsets": null, "features": null, "sampling_params": params, "model": &*model,
            "stream": stream.unwrap_or(false), "stream_options": asked.get("stream_options"), "cache_salt": salt,
            "priority": priority.unwrap_or(0), "kv_transfer_params": asked.get("kv_transfer_params"),
        })
    };
    let mut rendered: Vec<Value> = prompts.prompts.iter().map(|prompt| &*prompt.ids).enumerate().map(one).collect();
    let body = match endpoint {
        Endpoint::Chat => rendered.pop().unwrap_or_default(),
        Endpoint::Completion => rendered.into(),
    };
    Ok(json(StatusCode::OK, &body))
}
