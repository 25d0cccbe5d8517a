//! `/v1/chat/completions` and `/v1/completions`: from body to running choices to an answer.

use std::sync::Arc;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use axum::body::Body;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use domain::ReplicaId;
use engine::request::{NewRequest, Output};
use http::{HeaderMap, StatusCode};
use proto::openai::{Request, Usage};
use proto::state::REPLICA_HEADER;
use tokio::sync::mpsc;

use super::answer::ApiError;
use super::choice::{Choice, Piece, Running};
use super::http::read_body;
use super::plan::{Endpoint, ModelFacts, Plan};
use super::prompt;
use super::request_id::answer_id;
use super::{stream, whole, work};
use crate::edge::app::{App, Ready};

pub async fn chat(State(app): State<Arc<App>>, headers: HeaderMap, body: Body) -> Response {
    answer(&app, Endpoint::Chat, headers, body).await.unwrap_or_else(IntoResponse::into_response)
}

pub async fn completions(State(app): State<Arc<App>>, headers: HeaderMap, body: Body) -> Response {
    answer(&app, Endpoint::Completion, headers, body).await.unwrap_or_else(IntoResponse::into_response)
}

/// What stands in the head of every answer and chunk.
pub struct Head {
    pub endpoint: Endpoint,
    pub id: String,
    /// Unix time in seconds.
    pub created: u64,
    pub model: Arc<str>,
}

async fn answer(app: &Arc<App>, endpoint: Endpoint, headers: HeaderMap, body: Body) -> Result<Response, ApiError> {
    let arrived = Instant::now();
    let body = read_body(body, app.body_bytes_max).await?;
    let begun = work::run(app, body.len(), move |app| begin(app, endpoint, &headers, &body, arrived)).await?;
    let (head, plan, mut generation) = begun;
    // Nothing is sent before there is something to send, so that whatever fails until then is an error with a status.
    let first = generation.next().await.unwrap_or_else(|| Err(gone()))?;
    match plan.shape.stream {
        true => Ok(stream::answer(head, plan, generation, first)),
        false => whole::answer(&head, &plan, generation, first).await,
    }
}

/// From a body to choices that the engine works on.
fn begin(
    app: &App,
    endpoint: Endpoint,
    headers: &HeaderMap,
    body: &[u8],
    arrived: Instant,
) -> Result<(Head, Arc<Plan>, Generation), ApiError> {
    let request: Request = proto::openai::read(body)?;
    let model = app.named(request.model.as_deref())?;
    let ready = app.ready()?;
    let id = answer_id(endpoint.id_prefix(), headers, request.request_id.as_deref())?;
    let facts = ModelFacts {
        generation: &app.generation,
        vocabulary: ready.handle.limits().capacity.vocabulary,
        stop_ids_max: ready.handle.limits().config.stop_ids_max,
    };
    let plan = Arc::new(Plan::new(endpoint, &request, &facts)?);
    let prompts = prompt::of_request(&ready.text, endpoint, request)?;
    let replica = headers.get(REPLICA_HEADER).and_then(|value| value.to_str().ok()?.parse().ok());
    let generation = Generation::submit(app, ready, endpoint, &plan, prompts, replica.as_ref(), arrived)?;
    let created = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    Ok((Head { endpoint, id, created, model }, plan, generation))
}

/// All choices of one HTTP request, over one queue. The queue holds at most what `max_tokens` allows, some
/// hundred bytes a token.
pub struct Generation {
    outputs: mpsc::UnboundedReceiver<(u32, Output)>,
    pub choices: Vec<Choice>,
    open: usize,
}

/// A piece of the choice with this index.
pub type Indexed = (u32, Piece);

impl Generation {
    fn submit(
        app: &App,
        ready: &Ready,
        endpoint: Endpoint,
        plan: &Arc<Plan>,
        prompts: Vec<Arc<[u32]>>,
        replica: Option<&ReplicaId>,
        arrived: Instant,
    ) -> Result<Self, ApiError> {
        let (sender, outputs) = mpsc::unbounded_channel();
        let mut choices = Vec::with_capacity(prompts.len());
        for (index, prompt) in (0..).zip(prompts) {
            let sender = sender.clone();
            let mut sampling = plan.sampling;
            if !plan.seeded {
                // Two prompts that are alike may be answered differently.
                sampling.seed = rand::random();
            }
            let request = NewRequest {
                prompt: Arc::clone(&prompt),
                extra: plan.extra.clone(),
                sampling,
                finish: plan.finish(prompt.len(), ready.handle.limits().length_max),
                kv_transfer: plan.kv_transfer.clone(),
                remote_kv: false,
                arrived,
                sink: Box::new(move |output| sender.send((index, output)).is_ok()),
            };
            let in_flight = app.in_flight.open(replica, prompt.len() as u64);
            // A refusal here drops the choices before it, which aborts them.
            let id = ready.handle.submit(request).map_err(|reason| {
                app.metrics.rejected(&reason);
                ApiError::rejected(&reason, endpoint.prompt_param())
            })?;
            let detokenizer = ready.text.detokenizer(&prompt, plan.skip_special_tokens);
            choices.push(Choice::new(Running::new(ready.handle.clone(), id), in_flight, Arc::clone(plan), detokenizer, prompt));
        }
        app.metrics.asked(1);
        Ok(Self::new(outputs, choices))
    }

    /// Choices whose outputs come through one queue, by index.
    pub fn new(outputs: mpsc::UnboundedReceiver<(u32, Output)>, choices: Vec<Choice>) -> Self {
        let open = choices.len();
        Self { outputs, choices, open }
    }

    /// The next piece of any choice; `None` when all have ended. An error ends the whole answer.
    pub async fn next(&mut self) -> Option<Result<Indexed, ApiError>> {
        while self.open > 0 {
            let Some((index, output)) = self.outputs.recv().await else { return Some(Err(gone())) };
            if let Some(piece) = self.take(index, output) {
                return Some(piece);
            }
        }
        None
    }

    /// As [`Self::next`], but only what is there already.
    pub fn next_now(&mut self) -> Option<Result<Indexed, ApiError>> {
        while self.open > 0 {
            let (index, output) = self.outputs.try_recv().ok()?;
            if let Some(piece) = self.take(index, output) {
                return Some(piece);
            }
        }
        None
    }

    fn take(&mut self, index: u32, output: Output) -> Option<Result<Indexed, ApiError>> {
        let choice = &mut self.choices[index as usize];
        let piece = choice.take(output).transpose()?;
        self.open -= usize::from(choice.ended());
        Some(piece.map(|piece| (index, piece)))
    }

    pub fn ended(&self) -> bool {
        self.open == 0
    }

    /// Tokens of all choices so far.
    pub fn usage(&self) -> Usage {
        let sum = |count: fn(&Choice) -> u32| self.choices.iter().map(count).fold(0, u32::saturating_add);
        let mut usage = Usage::new(sum(Choice::prompt_tokens), sum(Choice::generated_tokens));
        let cached_tokens = sum(Choice::cached_tokens);
        usage.prompt_tokens_details = Some(proto::openai::PromptTokensDetails { cached_tokens });
        usage
    }
}

fn gone() -> ApiError {
    ApiError::new(StatusCode::INTERNAL_SERVER_ERROR, "The engine ended before the answer did.")
}
