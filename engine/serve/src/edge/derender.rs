//! `/v1/chat/completions/derender`, `/v1/completions/derender`: token ids that an engine generated become the answer that this engine
//! would have given. They take the same way as its own: through a [`Choice`].

use std::sync::Arc;
use std::time::Instant;

use axum::body::Body;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use engine::request::{FinishReason, Finished, Logprobs, Output};
use engine_text::reasoning::Opening;
use http::StatusCode;
use proto::openai::{
    CHAT_COMPLETION, DerenderChat, DerenderCompletion, Generated, GeneratedChoice, GeneratedLogprob, Prompt as Input, Request,
    TEXT_COMPLETION, Usage,
};
use serde_json::{Value, json as value};

use super::answer::{ApiError, json};
use super::choice::Choice;
use super::generate::{facts, unix_s};
use super::http::read_body;
use super::logprobs::Speller;
use super::plan::{Endpoint, Plan, Shown};
use super::prompt::Prompt;
use super::whole::Grown;
use super::{chat, work};
use crate::edge::app::{App, Ready};
use crate::in_flight::{Changed, Ledger};

/// Most answers of one body, and most choices of one.
const ANSWERS_MAX: usize = 1024;
/// Tokens of the prompt's end that say how its text goes on, and whether it left a thought open.
const PROMPT_TAIL: usize = 64;

pub async fn chat(State(app): State<Arc<App>>, body: Body) -> Response {
    answer(&app, body, of_chat).await
}

pub async fn completion(State(app): State<Arc<App>>, body: Body) -> Response {
    answer(&app, body, of_completion).await
}

async fn answer(app: &Arc<App>, body: Body, derender: fn(&App, &[u8]) -> Result<Response, ApiError>) -> Response {
    let answered = async {
        let body = read_body(body, app.body_bytes_max).await?;
        work::run(app, body.len(), move |app| derender(app, &body)).await
    };
    answered.await.unwrap_or_else(IntoResponse::into_response)
}

fn of_chat(app: &App, body: &[u8]) -> Result<Response, ApiError> {
    let asked: DerenderChat = proto::openai::read(body)?;
    whole(asked.stream)?;
    let model = app.named(asked.model.as_deref())?;
    let ready = app.ready()?;
    let generated =
        asked.generate_response.ok_or_else(|| ApiError::parameter("generate_response", "`generate_response` is missing."))?;
    let format = app.reply;
    if asked.chat_request.is_none() && (format.reasoning.is_some() || format.tools.is_some()) {
        let message = "`chat_request` is missing: without it, what marks thoughts and calls would be read as content.";
        return Err(ApiError::parameter("chat_request", message));
    }
    let mut request = asked.chat_request.unwrap_or_default();
    request.messages = request.messages.filter(|messages| !messages.is_empty()).or_else(|| Some(vec![Value::Null]));
    let role = if request.add_generation_prompt.unwrap_or(true) { "assistant" } else { "user" };
    let maker = Maker::new(app, ready, Endpoint::Chat, request)?;
    let prompt = asked.prompt_token_ids.as_deref().or(generated.prompt_token_ids.as_deref());
    let mut choices = Vec::with_capacity(generated.choices.len());
    let mut tokens = 0u32;
    for choice in checked(&generated)? {
        let mut grown = maker.make(prompt, choice)?;
        tokens = tokens.saturating_add(grown.token_ids.len() as u32);
        grown.calls.iter_mut().for_each(|call| call.id = maker.plan.reply.call_id());
        let told = maker.speller().chat(&grown.logprobs, Shown::All);
        choices.push(value!({
            "index": choice.index,
            "message": chat::message(role, &grown),
            "logprobs": choice.logprobs.as_ref().map(|_| told),
            "finish_reason": grown.finish_reason(),
            "stop_reason": grown.stop_reason(),
            "token_ids": maker.shows_ids().then_some(&grown.token_ids),
        }));
    }
    let body = value!({
        "id": generated.request_id,
        "object": CHAT_COMPLETION,
        "created": unix_s(),
        "model": &*model,
        "choices": choices,
        "usage": Usage::new(asked.prompt_tokens.unwrap_or(0), tokens),
        "prompt_logprobs": generated.prompt_logprobs,
        "prompt_token_ids": generated.prompt_token_ids.as_ref().filter(|_| maker.shows_ids()),
        "kv_transfer_params": generated.kv_transfer_params,
        "metrics": generated.metrics,
    });
    Ok(json(StatusCode::OK, &body))
}

fn of_completion(app: &App, body: &[u8]) -> Result<Response, ApiError> {
    let asked: DerenderCompletion = proto::openai::read(body)?;
    whole(asked.stream)?;
    let model = app.named(asked.model.as_deref())?;
    let ready = app.ready()?;
    let generated = asked.generate_responses.unwrap_or_default();
    if !(1..=ANSWERS_MAX).contains(&generated.len()) {
        let message = format!("`generate_responses` holds {} answers; 1 to {ANSWERS_MAX} are possible.", generated.len());
        return Err(ApiError::parameter("generate_responses", message));
    }
    let along = |param: &'static str, length: Option<usize>| match length {
        Some(length) if length != generated.len() => {
            let message = format!("`{param}` has {length} entries, `generate_responses` {}.", generated.len());
            Err(ApiError::parameter(param, message))
        }
        _ => Ok(()),
    };
    along("prompt_tokens", asked.prompt_tokens.as_ref().map(Vec::len))?;
    along("prompt_token_ids", asked.prompt_token_ids.as_ref().map(Vec::len))?;
    let mut request = asked.completion_request.unwrap_or_default();
    request.prompt = request.prompt.or_else(|| Some(Input::Text(vec![String::new()])));
    let maker = Maker::new(app, ready, Endpoint::Completion, request)?;
    let (mut choices, mut tokens) = (Vec::new(), 0u32);
    for (i, answer) in generated.iter().enumerate() {
        let own = asked.prompt_token_ids.as_ref().and_then(|prompts| prompts[i].as_deref());
        for choice in checked(answer)? {
            let grown = maker.make(own.or(answer.prompt_token_ids.as_deref()), choice)?;
            tokens = tokens.saturating_add(grown.token_ids.len() as u32);
            let told = grown.logprobs.iter().map(|(token, logprobs)| (*token, Some(logprobs)));
            let told = maker.speller().completion(told, Shown::All, &mut 0);
            choices.push(value!({
                "index": choices.len(),
                "text": grown.text,
                "logprobs": choice.logprobs.as_ref().map(|_| told),
                "finish_reason": grown.finish_reason(),
                "stop_reason": grown.stop_reason(),
                "token_ids": maker.shows_ids().then_some(&grown.token_ids),
                "prompt_logprobs": answer.prompt_logprobs,
            }));
        }
    }
    let prompt_tokens = asked.prompt_tokens.iter().flatten().fold(0, |sum: u32, tokens| sum.saturating_add(*tokens));
    let body = value!({
        "id": generated[0].request_id,
        "object": TEXT_COMPLETION,
        "created": unix_s(),
        "model": &*model,
        "choices": choices,
        "usage": Usage::new(prompt_tokens, tokens),
        "kv_transfer_params": generated.iter().find_map(|answer| answer.kv_transfer_params.as_ref()),
    });
    Ok(json(StatusCode::OK, &body))
}

/// A stream's state would travel with the client.
fn whole(stream: Option<bool>) -> Result<(), ApiError> {
    match stream {
        Some(true) => {
            let message = "This engine derenders whole answers; set `stream` to false, or ask `/inference/v1/generate` for text.";
            Err(ApiError::new(StatusCode::NOT_IMPLEMENTED, message))
        }
        _ => Ok(()),
    }
}

fn checked(generated: &Generated) -> Result<&[GeneratedChoice], ApiError> {
    if generated.output_mode.as_deref().is_some_and(|mode| mode != "tokens") {
        return Err(ApiError::parameter("output_mode", "`output_mode` must be \"tokens\"; other answers are text already."));
    }
    match generated.choices.len() {
        1..=ANSWERS_MAX => Ok(&generated.choices),
        number => {
            let message = format!("An answer holds {number} choices; 1 to {ANSWERS_MAX} are possible.");
            Err(ApiError::parameter("choices", message))
        }
    }
}

/// Makes answers of token ids as one request wants them.
struct Maker<'a> {
    ready: &'a Ready,
    plan: Plan,
    returns_ids: bool,
    length_max: usize,
    ledger: Arc<Ledger>,
}

impl<'a> Maker<'a> {
    fn new(app: &App, ready: &'a Ready, endpoint: Endpoint, request: Request) -> Result<Self, ApiError> {
        let returns_ids = request.return_token_ids.unwrap_or(false);
        // What asks how an answer is sent means nothing here.
        let request = Request { n: None, stream: None, stream_options: None, stream_interval: None, ..request };
        let mut plan = Plan::new(endpoint, &request, &facts(app, ready))?;
        (plan.shape.token_ids, plan.shape.echo, plan.kv_transfer) = (true, false, None);
        plan.logprobs.generated = Some(Shown::All);
        let length_max = ready.handle.limits().length_max;
        Ok(Self { ready, plan, returns_ids, length_max, ledger: Ledger::new(Changed::default()) })
    }

    fn shows_ids(&self) -> bool {
        self.returns_ids
    }

    fn speller(&self) -> Speller<'_> {
        Speller { text: &self.ready.text, shape: self.plan.logprobs }
    }

    fn ids(&self, param: &'static str, ids: &[i64]) -> Result<Vec<u32>, ApiError> {
        let vocabulary = self.ready.handle.limits().capacity.vocabulary;
        if ids.len() > self.length_max {
            let message = format!("`{param}` holds {} ids; the context holds {}.", ids.len(), self.length_max);
            return Err(ApiError::parameter(param, message));
        }
        let id = |&id: &i64| match u32::try_from(id) {
            Ok(id) if (id as usize) < vocabulary => Ok(id),
            _ => Err(ApiError::parameter(param, format!("`{param}` holds {id}; token ids are 0 to {}.", vocabulary - 1))),
        };
        ids.iter().map(id).collect()
    }

    fn make(&self, prompt: Option<&[i64]>, choice: &GeneratedChoice) -> Result<Grown, ApiError> {
        let text = &self.ready.text;
        let prompt = self.ids("prompt_token_ids", prompt.unwrap_or_default())?;
        let tail = &prompt[prompt.len().saturating_sub(PROMPT_TAIL)..];
        let ids = match &choice.token_ids {
            Some(ids) if !ids.is_empty() => self.ids("token_ids", ids)?,
            _ => return Err(ApiError::parameter("token_ids", format!("Choice {} has no `token_ids`.", choice.index))),
        };
        let mut plan = self.plan.clone();
        if let Some(Value::String(stop)) = &choice.stop_reason
            && !stop.is_empty()
            && !plan.stops.contains(stop)
        {
            plan.stops.push(stop.clone());
        }
        let opening = match plan.reply.format.reasoning {
            Some(format) => format.opening(&text.decode(tail, false).unwrap_or_default()),
            None => Opening::Unknown,
        };
        let (reply, plan) = (plan.reply.reader(opening), Arc::new(plan));
        let detokenizer = text.detokenizer(tail, plan.skip_special_tokens);
        let entry = self.ledger.open(None, 0);
        let mut made =
            Choice::new(entry, Arc::clone(&plan), detokenizer, Prompt { ids: tail.into(), text: None }, Instant::now());
        made.reads(reply);
        let mut grown = Grown::default();
        let told = choice.logprobs.as_ref().and_then(|logprobs| logprobs.content.as_deref()).unwrap_or_default();
        for (i, &token) in ids.iter().enumerate() {
            let logprobs = told.get(i).map(logprobs);
            if let Some(piece) = made.take(Output::Token { token, logprobs })? {
                grown.add(piece);
            }
        }
        let finished = Finished {
            reason: reason(choice),
            prompt_tokens: 0,
            cached_tokens: 0,
            generated_tokens: ids.len() as u32,
            preemptions: 0,
            kv_transfer: None,
        };
        if let Some(piece) = made.take(Output::Finished(finished))? {
            grown.add(piece);
        }
        Ok(grown)
    }
}

fn logprobs(told: &GeneratedLogprob) -> Logprobs {
    let others = told.top_logprobs.iter().map(|other| (other.token_id, other.logprob));
    Logprobs { rank: told.rank.unwrap_or(1), tokens: std::iter::once((told.token_id, told.logprob)).chain(others).collect() }
}

fn reason(choice: &GeneratedChoice) -> FinishReason {
    let stop_id = choice.stop_reason.as_ref().and_then(Value::as_u64).and_then(|id| u32::try_from(id).ok());
    match (choice.finish_reason.as_deref(), stop_id) {
        (Some("length"), _) => FinishReason::Length,
        (Some("abort"), _) => FinishReason::Aborted,
        (Some("repetition"), _) => FinishReason::Repetition,
        (_, Some(id)) => FinishReason::StopId(id),
        (_, None) => FinishReason::Eos,
    }
}
