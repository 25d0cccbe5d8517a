//! From a request body to choices that the engine works on: what every endpoint that generates has in common.

use std::sync::Arc;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use domain::ReplicaId;
use engine_text::Text;
use http::HeaderMap;
use proto::openai::Request;
use proto::state::REPLICA_HEADER;
use serde_json::Value;

use super::answer::{ApiError, sentence};
use super::generation::{Generation, Indexed, Origin, Reading, gone};
use super::logprobs::Speller;
use super::open;
use super::plan::{Endpoint, ModelFacts, Plan};
use super::prompt::{self, Prompts};
use super::request_id::answer_id;
use crate::edge::app::{App, Ready};
use crate::edge::rank;
use crate::guide::NotCompiled;

const PRIORITY_HEADER: &str = "x-vllm-priority";

/// As vLLM: a router's word on the priority is the last, where it is a number.
pub fn priority(headers: &HeaderMap, asked: Option<i64>) -> Option<i64> {
    let said = headers.get(PRIORITY_HEADER).and_then(|value| value.to_str().ok()?.trim().parse().ok());
    said.or(asked)
}

/// What stands in the head of every answer and chunk.
pub struct Head {
    pub id: String,
    /// Unix time in seconds.
    pub created: u64,
    pub model: Arc<str>,
    pub fingerprint: Arc<str>,
    /// Spells tokens.
    pub text: Text,
    /// Who speaks in a chat's answer.
    pub role: String,
    /// Chat with `echo`: what the last message said, if it was the same speaker's.
    pub spoken: String,
}

impl Head {
    pub fn speller(&self, plan: &Plan) -> Speller<'_> {
        Speller { text: &self.text, shape: plan.logprobs }
    }
}

/// An answer that has begun.
pub struct Begun {
    pub head: Head,
    pub plan: Arc<Plan>,
    pub generation: Generation,
}

/// What the model brings to a plan.
pub fn facts<'a>(app: &'a App, ready: &'a Ready) -> ModelFacts<'a> {
    let limits = ready.handle.limits();
    ModelFacts {
        text: &ready.text,
        generation: &app.generation,
        vocabulary: limits.capacity.vocabulary,
        stop_ids_max: limits.config.stop_ids_max,
        length_max: limits.length_max,
        answers: app.answers,
        reply: app.reply,
    }
}

/// Checks a request and makes ids of its prompts.
pub fn planned<'a>(
    app: &'a App,
    endpoint: Endpoint,
    headers: &HeaderMap,
    mut request: Request,
) -> Result<(&'a Ready, Arc<Plan>, Prompts), ApiError> {
    let ready = app.ready()?;
    rank::check(app, headers)?;
    request.priority = priority(headers, request.priority);
    let mut plan = Plan::new(endpoint, &request, &facts(app, ready))?;
    plan.extra.adapter = request.model.as_deref().and_then(|model| app.adapters.find(model)).map(|known| known.key);
    let plan = Arc::new(plan);
    let prompts = prompt::of_request(&ready.text, endpoint, request, &plan, ready.handle.limits().length_max)?;
    Ok((ready, plan, prompts))
}

/// A request that is checked and tokenised.
pub struct Checked {
    id: String,
    model: Arc<str>,
    plan: Arc<Plan>,
    prompts: Prompts,
    replica: Option<ReplicaId>,
    arrived: Instant,
}

/// Checks a request and makes ids of its prompts: what takes a processor.
pub fn check(
    app: &App,
    endpoint: Endpoint,
    headers: &HeaderMap,
    request: Request,
    arrived: Instant,
) -> Result<Checked, ApiError> {
    let Named { id, model, replica } = named(app, endpoint, headers, &request)?;
    let (_, plan, prompts) = planned(app, endpoint, headers, request)?;
    Ok(Checked { id, model, plan, prompts, replica, arrived })
}

/// The same for chats that share all else; their choices come in their order, and with them what the last message of each says, where
/// the answer repeats it.
pub fn check_batch(
    app: &App,
    headers: &HeaderMap,
    request: &Request,
    chats: Vec<Vec<Value>>,
    arrived: Instant,
) -> Result<(Checked, Vec<String>), ApiError> {
    let Named { id, model, replica } = named(app, Endpoint::Chat, headers, request)?;
    let mut spoken = Vec::with_capacity(chats.len());
    let mut all: Option<(Arc<Plan>, Prompts)> = None;
    for messages in chats {
        let chat = Request { messages: Some(messages), ..request.clone() };
        let (_, plan, mut prompts) = planned(app, Endpoint::Chat, headers, chat)?;
        spoken.push(std::mem::take(&mut prompts.spoken));
        match &mut all {
            None => all = Some((plan, prompts)),
            Some((_, before)) => before.prompts.append(&mut prompts.prompts),
        }
    }
    let (plan, prompts) = all.ok_or_else(|| ApiError::parameter("messages", "`messages` is empty."))?;
    Ok((Checked { id, model, plan, prompts, replica, arrived }, spoken))
}

/// What an answer is called, and which of the scheduler's replicas asks.
struct Named {
    id: String,
    model: Arc<str>,
    replica: Option<ReplicaId>,
}

fn named(app: &App, endpoint: Endpoint, headers: &HeaderMap, request: &Request) -> Result<Named, ApiError> {
    let model = app.named(request.model.as_deref())?;
    app.ready()?;
    let id = answer_id(endpoint.id_prefix(), headers, request.request_id.as_deref())?;
    let replica = headers.get(REPLICA_HEADER).and_then(|value| value.to_str().ok()?.parse().ok());
    Ok(Named { id, model, replica })
}

/// Takes a request to the engine's queue, once its grammar is there. That may take seconds, and holds nothing that others need.
pub async fn begin(app: &App, checked: Checked) -> Result<Begun, ApiError> {
    let Checked { id, model, plan, prompts, replica, arrived } = checked;
    let Prompts { prompts, role, spoken, opening } = prompts;
    let ready = app.ready()?;
    let guide = match &plan.spec {
        Some(spec) => Some((Arc::clone(&ready.guides), ready.guides.compile(spec).await.map_err(not_compiled)?)),
        None => None,
    };
    let reading = Reading {
        opening,
        guide,
        in_reasoning: app.answers.structured_in_reasoning,
        text: ready.text.clone(),
        vocabulary: ready.handle.limits().capacity.vocabulary,
    };
    let origin = Origin { name: open::name_of(&id).into(), replica, arrived };
    let generation = Generation::submit(app, ready, &plan, prompts, origin, reading)?;
    let fingerprint = Arc::clone(&app.fingerprint);
    let text = ready.text.clone();
    let head = Head { id, created: unix_s(), model, fingerprint, text, role, spoken };
    Ok(Begun { head, plan, generation })
}

fn not_compiled(error: NotCompiled) -> ApiError {
    let message = sentence(&error);
    match error {
        NotCompiled::Refused(error) => proto::openai::ErrorBody::new(400, message).naming(error.param).into(),
        NotCompiled::NoVocabulary(_) => ApiError::new(http::StatusCode::NOT_IMPLEMENTED, message),
        NotCompiled::Busy => ApiError::unavailable(message),
    }
}

/// The first piece, which an answer in one body waits for: whatever fails until then is an error with a status.
pub async fn first(generation: &mut Generation) -> Result<Indexed, ApiError> {
    generation.next().await.unwrap_or_else(|| Err(gone()))
}

pub fn unix_s() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}
