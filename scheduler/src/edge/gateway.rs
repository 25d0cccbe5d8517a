//! The embedded gateway: OpenAI's API for those without Envoy. It asks [`Chooser`] and passes the request on, byte for byte.

mod answers;
mod attempt;
mod budget;
mod events;
mod headers;
mod relay;

use std::convert::Infallible;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::header::{CONTENT_ENCODING, HeaderMap, HeaderName, HeaderValue};
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Limited};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use hyper_util::server::graceful::GracefulShutdown;
use proto::openai::{ModelCard, ModelList, REQUEST_ID_HEADER};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use super::metrics::{Metrics, Outcome};
use super::openai::{self, Problem, Route};
use crate::choose::{Chooser, Pick, Question, Target};
use crate::fleet::engine::{Engine, Evidence, Probe};
use answers::{error_response, json_response, shown, unanswered};
use attempt::{Begun, Engines, Failed, Outgoing, attempt};
use budget::RetryBudget;
use relay::{AnswerBody, Relay, Ticket};

/// Client connections open at a time.
const CONNECTIONS_MAX: usize = 32_768;
/// Idle connections kept to one engine.
const IDLE_PER_ENGINE_MAX: usize = 512;
/// Shorter than uvicorn's 5 s (vLLM, SGLang): a request sent into a connection that the engine is just closing would be lost.
const IDLE_TIMEOUT: Duration = Duration::from_secs(4);
/// A silent connection to an engine is asked after this, and given up after so many unanswered questions.
const KEEPALIVE_AFTER: Duration = Duration::from_secs(10);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(5);
const KEEPALIVE_RETRIES: u32 = 3;
/// A client that takes longer to send its headers, or its body, is not served.
const HEADER_TIMEOUT: Duration = Duration::from_secs(30);
const BODY_TIMEOUT: Duration = Duration::from_secs(120);
/// Bodies beyond this are read and tokenised on a thread that may take its time.
const QUICK_BODY_BYTES_MAX: usize = 4 << 10;

/// What the configuration says of the gateway.
#[derive(Clone, Debug)]
pub struct Settings {
    pub body_bytes_max: usize,
    pub connect_timeout: Duration,
    /// Answers say which engine gave them and how much of the prompt it held.
    pub debug_headers: bool,
    /// How long open requests may go on after a shutdown.
    pub drain_timeout: Duration,
}

pub struct Gateway {
    chooser: Arc<Chooser>,
    metrics: Arc<Metrics>,
    settings: Settings,
    engines: Engines,
    budget: RetryBudget,
    replica: HeaderValue,
    /// Unix time of the start, in seconds: the `created` of every model.
    started_unix_s: u64,
}

impl Gateway {
    pub fn new(chooser: Arc<Chooser>, metrics: Arc<Metrics>, settings: Settings, started_unix_s: u64) -> Self {
        let mut connector = HttpConnector::new();
        connector.set_nodelay(true);
        // A host that is gone without a word resets nothing: the kernel has to ask.
        connector.set_keepalive(Some(KEEPALIVE_AFTER));
        connector.set_keepalive_interval(Some(KEEPALIVE_INTERVAL));
        connector.set_keepalive_retries(Some(KEEPALIVE_RETRIES));
        connector.set_connect_timeout(Some(settings.connect_timeout));
        let engines = Client::builder(TokioExecutor::new())
            .pool_idle_timeout(IDLE_TIMEOUT)
            .pool_max_idle_per_host(IDLE_PER_ENGINE_MAX)
            .pool_timer(TokioTimer::new())
            .build(connector);
        let replica = HeaderValue::try_from(chooser.fleet.replica.to_string());
        let replica = replica.expect("the configuration admits only names that are header values");
        let budget = RetryBudget::default();
        metrics.budget_tenths.set(budget.tenths().into());
        Self { chooser, metrics, settings, engines, budget, replica, started_unix_s }
    }

    /// Serves until the shutdown, then lets open requests end.
    pub async fn run(self: Arc<Self>, listener: TcpListener, shutdown: CancellationToken) {
        let mut server = auto::Builder::new(TokioExecutor::new());
        server.http1().timer(TokioTimer::new()).header_read_timeout(HEADER_TIMEOUT);
        server.http2().timer(TokioTimer::new()).max_concurrent_streams(1024);
        let graceful = GracefulShutdown::new();
        let slots = Arc::new(Semaphore::new(CONNECTIONS_MAX));
        loop {
            let socket = tokio::select! {
                accepted = listener.accept() => match accepted {
                    Ok((socket, _)) => socket,
                    Err(error) => {
                        // Out of file descriptors, mostly: those in use will be given back.
                        tracing::warn!(%error, "cannot accept a connection");
                        tokio::time::sleep(Duration::from_millis(20)).await;
                        continue;
                    }
                },
                () = shutdown.cancelled() => break,
            };
            let Ok(slot) = slots.clone().try_acquire_owned() else {
                self.metrics.connections_refused.inc();
                continue;
            };
            if let Err(error) = socket.set_nodelay(true) {
                tracing::debug!(%error, "a connection ended at once");
                continue;
            }
            let gateway = self.clone();
            let service = service_fn(move |request| {
                let gateway = gateway.clone();
                async move { Ok::<_, Infallible>(gateway.answer(request).await) }
            });
            let connection = server.serve_connection(TokioIo::new(socket), service).into_owned();
            let connection = graceful.watch(connection);
            let open = self.metrics.connections.clone();
            open.inc();
            tokio::spawn(async move {
                if let Err(error) = connection.await {
                    tracing::debug!(error = %error, "a client's connection ended");
                }
                open.dec();
                drop(slot);
            });
        }
        drop(listener);
        if tokio::time::timeout(self.settings.drain_timeout, graceful.shutdown()).await.is_err() {
            tracing::warn!("requests were still open when the drain timeout ended");
        }
    }

    async fn answer(&self, request: Request<Incoming>) -> Response<AnswerBody> {
        let request_id = headers::request_id(request.headers());
        let shown_id = request_id.as_ref().ok().cloned();
        let route = Route::of_path(request.uri().path());
        let answered = match (request_id, route, request.method(), request.uri().path()) {
            (Err(problem), ..) => Err(problem),
            (Ok(id), Some(route), &Method::POST, _) => Ok(self.proxy(route, request, id).await),
            (_, Some(_), method, path) => {
                Err(Problem::new(405, "MethodNotAllowedError", format!("{path} takes POST, not {method}")))
            }
            (_, _, &Method::GET, "/v1/models") => Ok(self.models()),
            (_, _, &Method::GET, "/health") => self.health(),
            (_, _, method, path) => Err(Problem::new(404, "NotFoundError", format!("Nothing is served at {method} {path}"))),
        };
        let mut response = answered.unwrap_or_else(|problem| error_response(&problem));
        if let Some(id) = shown_id {
            response.headers_mut().entry(REQUEST_ID_HEADER).or_insert(id);
        }
        response
    }

    fn models(&self) -> Response<AnswerBody> {
        let roster = self.chooser.fleet.roster();
        let card = |model: &domain::ModelId| {
            let lengths = roster.serving(&model.base).iter().map(|engine| engine.facts.context_length);
            let context_length = lengths.filter(|length| *length > 0).max();
            let mut card =
                ModelCard::new(model.served_name().to_owned(), self.started_unix_s, Some(model.base.to_string()), context_length);
            card.parent = model.adapter.as_ref().map(|_| model.base.to_string());
            card
        };
        let list = ModelList::new(roster.models().into_iter().map(card).collect());
        json_response(StatusCode::OK, serde_json::to_vec(&list).expect("strings and numbers always serialise"))
    }

    /// Healthy means that somebody would take a request now.
    fn health(&self) -> Result<Response<AnswerBody>, Problem> {
        if self.chooser.fleet.roster().engines().iter().any(takes_work) {
            return Ok(Response::new(AnswerBody::whole(Bytes::new())));
        }
        Err(Problem::unavailable("No engine takes work.", 1))
    }

    async fn proxy(&self, route: Route, request: Request<Incoming>, id: HeaderValue) -> Response<AnswerBody> {
        let mut ticket = Ticket::new(self.metrics.clone());
        let (head, body) = request.into_parts();
        let prepared = async {
            let body = self.read_body(&head.headers, body).await?;
            let (pick, body) = self.choose(route, body).await?;
            Ok::<_, Problem>((pick, body))
        };
        let (pick, body) = match prepared.await {
            Ok(prepared) => prepared,
            Err(problem) => {
                ticket.end(if problem.status < 500 && problem.status != 429 { Outcome::Invalid } else { Outcome::NoEngine });
                return error_response(&problem);
            }
        };
        let path_and_query =
            head.uri.path_and_query().map_or_else(|| head.uri.path().to_owned(), |path| path.as_str().to_owned());
        let headers = headers::to_engine(head.headers, &id, &self.replica);
        self.forward(&pick, &Outgoing { route, path_and_query, headers, body }, &id, ticket).await
    }

    async fn read_body(&self, headers: &HeaderMap, body: Incoming) -> Result<Bytes, Problem> {
        if let Some(encoding) = headers.get(CONTENT_ENCODING).filter(|encoding| *encoding != "identity") {
            let message = format!("Content-Encoding {encoding:?} is not read here; send the body plain");
            return Err(Problem::new(415, "UnsupportedMediaTypeError", message));
        }
        let bytes_max = self.settings.body_bytes_max;
        let read = tokio::time::timeout(BODY_TIMEOUT, Limited::new(body, bytes_max).collect());
        match read.await {
            Ok(Ok(body)) => Ok(body.to_bytes()),
            Ok(Err(error)) if error.is::<http_body_util::LengthLimitError>() => {
                let message = format!("The body has more than {bytes_max} bytes; shorten the prompt or raise `body_bytes_max`");
                Err(Problem::new(413, "RequestEntityTooLargeError", message))
            }
            Ok(Err(error)) => Err(Problem::bad_request(format!("The body could not be read: {error}"))),
            Err(_) => Err(Problem::new(408, "RequestTimeoutError", format!("The body did not arrive within {BODY_TIMEOUT:?}"))),
        }
    }

    /// From the body to the choice, off the network's threads where it may take long.
    async fn choose(&self, route: Route, body: Bytes) -> Result<(Pick, Bytes), Problem> {
        if body.len() <= QUICK_BODY_BYTES_MAX {
            return Ok((choose(&self.chooser, &self.metrics, route, &body)?, body));
        }
        let (chooser, metrics) = (self.chooser.clone(), self.metrics.clone());
        let chosen = tokio::task::spawn_blocking(move || Ok((choose(&chooser, &metrics, route, &body)?, body)));
        chosen.await.unwrap_or_else(|error| {
            tracing::error!(%error, "choosing an engine failed");
            Err(Problem::new(500, "InternalServerError", "The request could not be read; this is a defect of Trackside."))
        })
    }

    /// Tries the first target, and at most one other.
    async fn forward(&self, pick: &Pick, outgoing: &Outgoing, id: &HeaderValue, mut ticket: Ticket) -> Response<AnswerBody> {
        self.budget.refill();
        self.metrics.budget_tenths.set(self.budget.tenths().into());
        let mut targets = pick.targets.iter();
        let mut failures: Vec<(&Target, Failed)> = Vec::new();
        // After the first failure, what the fleet knows by now counts: an engine that died meanwhile is passed over.
        while let Some(target) = targets.find(|target| failures.is_empty() || takes_work(&target.engine)) {
            let uncached = pick.prompt_tokens.saturating_sub(target.cached_tokens);
            let open = target.engine.begin(uncached);
            match attempt(&self.engines, target.engine.facts.address.0, outgoing).await {
                Ok(begun) => {
                    tracing::debug!(
                        engine = %target.engine.id, request = ?id, prompt_tokens = pick.prompt_tokens, cached_tokens = target.cached_tokens,
                        best_cached_tokens = pick.best_cached_tokens, "an engine answers"
                    );
                    let mut response = match begun {
                        Begun::Whole { head, body } => {
                            ticket.end(if head.status.is_server_error() { Outcome::EngineError } else { Outcome::Ok });
                            shown(head, AnswerBody::whole(body), id)
                        }
                        Begun::Streaming { head, begun, rest, manner } => {
                            let relay = Relay::new(begun, rest, manner, open, ticket);
                            shown(head, AnswerBody::Relay(Box::new(relay)), id)
                        }
                    };
                    self.add_debug_headers(response.headers_mut(), pick, target);
                    return response;
                }
                Err(failed) => {
                    tracing::warn!(engine = %target.engine.id, address = %target.engine.facts.address, request = ?id, "{failed}");
                    if matches!(failed, Failed::Connect(_)) {
                        // As good as a failed probe; the prober asks again until it answers.
                        target.engine.set_probe(Probe::Failed);
                        self.metrics.probes_failed.inc();
                    }
                    let reason = failed.reason();
                    failures.push((target, failed));
                    if failures.len() > 1 {
                        break;
                    }
                    let another = targets.clone().any(|target| takes_work(&target.engine));
                    if !another || !self.budget.take() {
                        self.metrics.retries_denied.inc();
                        break;
                    }
                    self.metrics.retried(reason);
                }
            }
        }
        ticket.end(Outcome::Failed);
        unanswered(failures, id)
    }

    fn add_debug_headers(&self, headers: &mut HeaderMap, pick: &Pick, target: &Target) {
        if !self.settings.debug_headers {
            return;
        }
        let entries = [
            ("x-trackside-engine", target.engine.id.to_string()),
            ("x-trackside-incarnation", target.engine.facts.incarnation.to_string()),
            ("x-trackside-prefix", format!("{}/{}", target.cached_tokens, pick.best_cached_tokens)),
            ("x-trackside-prompt-tokens", pick.prompt_tokens.to_string()),
        ];
        for (name, value) in entries {
            // A node may have any name; one that cannot stand in a header is left out.
            if let Ok(value) = HeaderValue::try_from(value) {
                headers.insert(HeaderName::from_static(name), value);
            }
        }
    }
}

/// Whether the engine would be chosen now, as far as its own state goes.
fn takes_work(engine: &Arc<Engine>) -> bool {
    let pulse = engine.pulse();
    pulse.probe != Probe::Failed
        && (pulse.state.takes_work() || (pulse.evidence == Evidence::Unknown && pulse.probe == Probe::Answered))
}

fn choose(chooser: &Chooser, metrics: &Metrics, route: Route, body: &[u8]) -> Result<Pick, Problem> {
    let began = Instant::now();
    let question: Question = openai::question(route, body)?;
    let pick = chooser.choose(&question);
    metrics.decision_seconds.observe(began.elapsed().as_secs_f64());
    let pick = pick.map_err(|refused| Problem::from(&refused))?;
    if route.generates() && pick.prompt_tokens == 0 {
        metrics.untokenised.inc();
    }
    Ok(pick)
}
