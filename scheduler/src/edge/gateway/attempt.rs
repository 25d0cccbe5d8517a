//! One try at one engine: up to the first data event or the whole body, before anything is shown to the client.

use std::collections::VecDeque;

use bytes::{Bytes, BytesMut};
use http::header::{CONTENT_TYPE, HeaderMap};
use http::response::Parts;
use http::{Method, Request, StatusCode, Uri};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;

use super::events::Events;
use super::relay::Manner;
use crate::edge::metrics::RetryReason;
use crate::edge::openai::Route;

/// An answer that is longer is passed on before it is whole.
const WHOLE_BYTES_MAX: usize = 16 << 20;
/// So much may stand before the first data event.
const PREAMBLE_BYTES_MAX: usize = 1 << 20;

pub type Engines = Client<HttpConnector, Full<Bytes>>;

/// What the client asked, as every engine that is tried gets it.
pub struct Outgoing {
    pub route: Route,
    pub path_and_query: String,
    pub headers: HeaderMap,
    pub body: Bytes,
}

/// An answer that may be shown.
pub enum Begun {
    Whole { head: Parts, body: Bytes },
    Streaming { head: Parts, begun: VecDeque<Bytes>, rest: Incoming, manner: Manner },
}

/// Why an engine gave no answer that may be shown, while another still can.
#[derive(Debug, thiserror::Error)]
pub enum Failed {
    #[error("cannot connect: {0}")]
    Connect(String),
    #[error("the connection broke before the answer: {0}")]
    Reset(String),
    #[error("it answered {}", .head.status)]
    Status { head: Box<Parts>, body: Bytes },
}

impl Failed {
    pub fn reason(&self) -> RetryReason {
        match self {
            Self::Connect(_) => RetryReason::Connect,
            Self::Reset(_) => RetryReason::Reset,
            Self::Status { .. } => RetryReason::Status,
        }
    }
}

/// An error with its causes, in one line.
fn told(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}

/// Sends the request to an engine and waits for as much as makes an answer certain.
pub async fn attempt(engines: &Engines, address: std::net::SocketAddr, outgoing: &Outgoing) -> Result<Begun, Failed> {
    let uri: Uri = format!("http://{address}{}", outgoing.path_and_query).parse().map_err(|error| Failed::Reset(told(&error)))?;
    let mut request = Request::new(Full::new(outgoing.body.clone()));
    (*request.method_mut(), *request.uri_mut(), *request.headers_mut()) = (Method::POST, uri, outgoing.headers.clone());
    let response = match engines.request(request).await {
        Ok(response) => response,
        Err(error) if error.is_connect() => return Err(Failed::Connect(told(&error))),
        Err(error) => return Err(Failed::Reset(told(&error))),
    };
    let (head, mut body) = response.into_parts();
    if matches!(head.status, StatusCode::BAD_GATEWAY | StatusCode::SERVICE_UNAVAILABLE) {
        let body = read(&mut body, PREAMBLE_BYTES_MAX).await?;
        return Err(Failed::Status { head: Box::new(head), body: body.bytes });
    }
    if is_event_stream(&head.headers) && outgoing.route.generates() {
        first_event(head, body).await
    } else {
        whole(head, body).await
    }
}

fn is_event_stream(headers: &HeaderMap) -> bool {
    headers.get(CONTENT_TYPE).is_some_and(|kind| kind.as_bytes().starts_with(b"text/event-stream"))
}

struct ReadSoFar {
    bytes: Bytes,
    /// Whether the body ended within the limit.
    ended: bool,
}

async fn read(body: &mut Incoming, bytes_max: usize) -> Result<ReadSoFar, Failed> {
    let mut first = Bytes::new();
    let mut joined = BytesMut::new();
    while first.len() + joined.len() <= bytes_max {
        let Some(frame) = body.frame().await.transpose().map_err(|error| Failed::Reset(told(&error)))? else {
            let bytes = if joined.is_empty() { first } else { joined.freeze() };
            return Ok(ReadSoFar { bytes, ended: true });
        };
        let Ok(data) = frame.into_data() else { continue };
        // Most answers come in one frame and need no copy.
        if first.is_empty() && joined.is_empty() {
            first = data;
        } else {
            joined.extend_from_slice(&std::mem::take(&mut first));
            joined.extend_from_slice(&data);
        }
    }
    let bytes = if joined.is_empty() { first } else { joined.freeze() };
    Ok(ReadSoFar { bytes, ended: false })
}

async fn whole(head: Parts, mut body: Incoming) -> Result<Begun, Failed> {
    let read = read(&mut body, WHOLE_BYTES_MAX).await?;
    Ok(if read.ended {
        Begun::Whole { head, body: read.bytes }
    } else {
        Begun::Streaming { head, begun: VecDeque::from([read.bytes]), rest: body, manner: Manner::Bytes }
    })
}

async fn first_event(head: Parts, mut body: Incoming) -> Result<Begun, Failed> {
    let mut events = Events::default();
    let mut begun = VecDeque::new();
    let mut bytes = 0;
    while !events.has_begun() && bytes <= PREAMBLE_BYTES_MAX {
        let Some(frame) = body.frame().await.transpose().map_err(|error| Failed::Reset(told(&error)))? else {
            return Err(Failed::Reset("the stream ended before its first event".to_owned()));
        };
        let Ok(data) = frame.into_data() else { continue };
        bytes += data.len();
        let passed = events.push(data);
        if !passed.is_empty() {
            begun.push_back(passed);
        }
    }
    Ok(Begun::Streaming { head, begun, rest: body, manner: Manner::Events(events) })
}
