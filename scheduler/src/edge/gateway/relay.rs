//! The body of an answer: whole, or passed on as it comes.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use http_body_util::Full;
use hyper::body::Incoming;

use super::events::Events;
use crate::edge::metrics::{Metrics, Outcome};
use crate::edge::openai::Problem;
use crate::fleet::engine::OpenStream;

/// Counts how a request ended, once, whatever ended it: what nobody called otherwise was cancelled.
pub struct Ticket {
    metrics: Arc<Metrics>,
    outcome: Outcome,
}

impl Ticket {
    pub fn new(metrics: Arc<Metrics>) -> Self {
        metrics.open_streams.inc();
        Self { metrics, outcome: Outcome::Cancelled }
    }

    pub fn end(&mut self, outcome: Outcome) {
        self.outcome = outcome;
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.metrics.open_streams.dec();
        self.metrics.ended(self.outcome);
    }
}

/// Body of every answer the gateway gives.
pub enum AnswerBody {
    Whole(Full<Bytes>),
    Relay(Box<Relay>),
}

impl AnswerBody {
    pub fn whole(bytes: impl Into<Bytes>) -> Self {
        Self::Whole(Full::new(bytes.into()))
    }
}

/// An answer that is too long to withhold broke off: the client's connection must show it.
#[derive(Debug, thiserror::Error)]
#[error("the engine broke off its answer")]
pub struct BrokenOff;

impl Body for AnswerBody {
    type Data = Bytes;
    type Error = BrokenOff;

    fn poll_frame(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BrokenOff>>> {
        match self.get_mut() {
            Self::Whole(body) => Pin::new(body).poll_frame(context).map_err(|never| match never {}),
            Self::Relay(relay) => relay.poll_data(context).map(|next| next.map(|data| data.map(Frame::data))),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Whole(body) => body.is_end_stream(),
            Self::Relay(relay) => relay.ended && relay.ready.is_empty(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Whole(body) => body.size_hint(),
            Self::Relay(_) => SizeHint::default(),
        }
    }
}

/// How the rest of an answer is passed on.
pub enum Manner {
    /// OpenAI's event stream: it has ended only when it says so.
    Events(Events),
    /// Anything else, byte for byte.
    Bytes,
}

/// An answer under way. Dropping it, when the client is gone, drops the engine's connection, which ends the request there.
pub struct Relay {
    upstream: Incoming,
    manner: Manner,
    ready: VecDeque<Bytes>,
    ended: bool,
    open: OpenStream,
    ticket: Ticket,
}

impl Relay {
    pub fn new(begun: VecDeque<Bytes>, upstream: Incoming, manner: Manner, open: OpenStream, ticket: Ticket) -> Self {
        Self { upstream, manner, ready: begun, ended: false, open, ticket }
    }

    fn poll_data(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<Bytes, BrokenOff>>> {
        loop {
            if let Some(bytes) = self.ready.pop_front() {
                return Poll::Ready(Some(Ok(bytes)));
            }
            if self.ended {
                return Poll::Ready(None);
            }
            match Pin::new(&mut self.upstream).poll_frame(context) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Some(Ok(frame))) => {
                    // Trailers of a plain answer mean nothing to an OpenAI client.
                    let Ok(data) = frame.into_data() else { continue };
                    let data = match &mut self.manner {
                        Manner::Events(events) => events.push(data),
                        Manner::Bytes => data,
                    };
                    if !data.is_empty() {
                        self.ready.push_back(data);
                    }
                }
                Poll::Ready(end) => {
                    self.ended = true;
                    let broken = end.is_some();
                    match &mut self.manner {
                        // The engine may close a connection without error in the middle of an answer.
                        Manner::Events(events) if !events.is_done() => {
                            let message = format!("Engine {} ended the stream before it was complete.", self.open.engine().id);
                            let problem = Problem::new(502, "EngineLostError", message);
                            self.ready.push_back(events.broken_off(&problem.body()));
                            self.ticket.end(Outcome::Broken);
                        }
                        Manner::Bytes if broken => {
                            self.ticket.end(Outcome::Broken);
                            return Poll::Ready(Some(Err(BrokenOff)));
                        }
                        _ => self.ticket.end(Outcome::Ok),
                    }
                }
            }
        }
    }
}
