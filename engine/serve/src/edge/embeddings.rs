//! `/v1/embeddings` and `/pooling`: texts in, vectors out. All vectors of a request are computed beside each other and beside those of others.

mod encode;
mod request;

use std::sync::Arc;
use std::time::Instant;

use axum::Router;
use axum::body::Body;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use bytes::Bytes;
use engine::pooling;
use engine::request::{FinishReason, FinishRules, NewRequest, Output, Sampling};
use http::{HeaderMap, StatusCode};
use proto::openai::{Embedding, EmbeddingAnswer, EmbeddingRequest, EncodedVector, Pooled, PromptTokensDetails, Usage};
use proto::state::REPLICA_HEADER;
use tokio::sync::mpsc;

use self::encode::Encoding;
use self::request::{Endpoint, Plan};
use super::answer::{ApiError, json};
use super::choice::Running;
use super::generate::{priority, unix_s};
use super::generation::gone;
use super::http::read_body;
use super::request_id::answer_id;
use super::{open, orca, prompt, rank, work};
use crate::edge::app::App;
use crate::in_flight::Entry;

/// The endpoints of an engine that embeds.
pub fn routes() -> Router<Arc<App>> {
    Router::new().route("/v1/embeddings", post(embeddings)).route("/pooling", post(pooled))
}

async fn embeddings(State(app): State<Arc<App>>, headers: HeaderMap, body: Body) -> Response {
    answer(&app, headers, body, Endpoint::Embeddings).await
}

async fn pooled(State(app): State<Arc<App>>, headers: HeaderMap, body: Body) -> Response {
    answer(&app, headers, body, Endpoint::Pooling).await
}

async fn answer(app: &Arc<App>, headers: HeaderMap, body: Body, endpoint: Endpoint) -> Response {
    let asked = headers.clone();
    let answered = async {
        let arrived = Instant::now();
        let body = read_body(body, app.body_bytes_max).await?;
        let begun = work::run(app, body.len(), move |app| begin(app, endpoint, &headers, &body, arrived));
        begun.await?.finish().await
    };
    orca::report(app, &asked, answered.await).unwrap_or_else(IntoResponse::into_response)
}

/// An answer whose vectors are computed.
struct Begun {
    endpoint: Endpoint,
    id: String,
    model: Arc<str>,
    plan: Plan,
    outputs: mpsc::UnboundedReceiver<(usize, Output)>,
    texts: Vec<Text>,
    prompt_details: bool,
}

/// One of its texts.
struct Text {
    running: Running,
    in_flight: Entry,
    tokens: u32,
    cached: u32,
    vector: Option<Box<[f32]>>,
}

/// Takes a request from its body to the engine's queue.
fn begin(app: &App, endpoint: Endpoint, headers: &HeaderMap, body: &Bytes, arrived: Instant) -> Result<Begun, ApiError> {
    let mut request: EmbeddingRequest = proto::openai::read(body)?;
    let model = app.named(request.model.as_deref())?;
    let ready = app.ready()?;
    rank::check(app, headers)?;
    let id = answer_id(endpoint.id_prefix(), headers, request.request_id.as_deref())?;
    request.priority = priority(headers, request.priority);
    let length_max = ready.handle.limits().length_max;
    let plan = Plan::new(endpoint, &request, app.pooling.as_ref(), app.vector_size, length_max)?;
    let mut extra = plan.extra.clone();
    extra.adapter = request.model.as_deref().and_then(|model| app.adapters.find(model)).map(|known| known.key);
    let replica = headers.get(REPLICA_HEADER).and_then(|value| value.to_str().ok()?.parse().ok());
    let prompts = prompt::of_embedding(&ready.text, request)?;
    let name: Arc<str> = open::name_of(&id).into();
    let (sender, outputs) = mpsc::unbounded_channel();
    let mut texts = Vec::with_capacity(prompts.len());
    for (index, mut ids) in prompts.into_iter().enumerate() {
        if let Some(truncation) = plan.truncation {
            truncation.apply(&mut ids, length_max);
        }
        let (tokens, sender) = (u32::try_from(ids.len()).unwrap_or(u32::MAX), sender.clone());
        let finish = FinishRules { tokens_max: 1, ..FinishRules::default() };
        let sink = Box::new(move |output| sender.send((index, output)).is_ok());
        let request = NewRequest::new(ids.into(), Sampling::GREEDY, finish, arrived, sink);
        let request = NewRequest { extra: extra.clone(), priority: plan.priority, ..request };
        let in_flight = app.in_flight.open(replica.as_ref(), tokens.into());
        // A refusal here drops the texts before it, which aborts them.
        let submitted = ready.handle.submit(request).map_err(|reason| {
            app.metrics.rejected(&reason);
            ApiError::rejected(&reason, "input")
        })?;
        let running = Running::new(ready.handle.clone(), submitted, Some(app.open.open(&name, submitted)));
        texts.push(Text { running, in_flight, tokens, cached: 0, vector: None });
    }
    app.metrics.asked(1);
    Ok(Begun { endpoint, id, model, plan, outputs, texts, prompt_details: app.answers.prompt_tokens_details })
}

impl Begun {
    /// Waits for all vectors. The first that fails ends the whole answer.
    async fn finish(mut self) -> Result<Response, ApiError> {
        let mut open = self.texts.len();
        while open > 0 {
            let (index, output) = self.outputs.recv().await.ok_or_else(gone)?;
            let text = &mut self.texts[index];
            match output {
                Output::Admitted { cached_tokens } => {
                    text.cached = cached_tokens;
                    text.in_flight.done(cached_tokens.into());
                }
                Output::Pooled(vector) => text.vector = Some(vector),
                Output::Token { .. } | Output::PromptLogprobs(_) => {}
                Output::Finished(finished) => {
                    text.running.ended();
                    text.in_flight.done(u64::MAX);
                    open -= 1;
                    match finished.reason {
                        FinishReason::Error(what) => return Err(ApiError::new(StatusCode::INTERNAL_SERVER_ERROR, what)),
                        _ if text.vector.is_some() => {}
                        _ => return Err(ApiError::unavailable("The engine aborted this request.")),
                    }
                }
            }
        }
        Ok(self.render())
    }

    fn render(self) -> Response {
        let Self { endpoint, id, model, plan, texts, prompt_details, .. } = self;
        let sum = |of: fn(&Text) -> u32| texts.iter().map(of).fold(0, u32::saturating_add);
        let mut usage = Usage::new(sum(|text| text.tokens), 0);
        if prompt_details {
            usage.prompt_tokens_details = Some(PromptTokensDetails { cached_tokens: sum(|text| text.cached) });
        }
        let vectors = texts.into_iter().map(|text| finished(text.vector.unwrap_or_default().into_vec(), &plan));
        let (object, created, id, model) = ("list", unix_s(), &*id, &*model);
        match endpoint {
            Endpoint::Embeddings => {
                let one = |(index, embedding)| Embedding { index, object: "embedding", embedding };
                let data = vectors.enumerate().map(one).collect();
                json(StatusCode::OK, &EmbeddingAnswer { id, object, created, model, data, usage })
            }
            Endpoint::Pooling => {
                let one = |(index, data)| Pooled { index, object: "pooling", data };
                let data = vectors.enumerate().map(one).collect();
                json(StatusCode::OK, &EmbeddingAnswer { id, object, created, model, data, usage })
            }
        }
    }
}

/// What becomes of a pooled vector: cut, divided by its length, written.
fn finished(mut vector: Vec<f32>, plan: &Plan) -> EncodedVector {
    vector.truncate(plan.dimensions);
    if plan.normalise {
        pooling::normalise(&mut vector);
    }
    match plan.encoding {
        Encoding::Float => EncodedVector::Float(vector),
        Encoding::Base64(order) => EncodedVector::Base64(encode::base64(&vector, order)),
    }
}
