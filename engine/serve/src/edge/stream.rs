//! Answers as server-sent events, a chunk per token that makes text. What is ready together leaves in one write.
//!
//! The head of an answer leaves at once where the first token takes longer than [`HEAD_PATIENCE`], so that clients and balancers with
//! a short fuse see life during a long prefill; whatever fails before is an error with a status. The first event, and with it the role
//! of a chat, comes with the first piece: until then a gateway may send the request elsewhere.

use std::convert::Infallible;
use std::time::Duration;

use axum::body::Body;
use axum::response::Response;
use bytes::{BufMut, Bytes, BytesMut};
use futures_util::stream;
use http::HeaderValue;
use http::header::{CACHE_CONTROL, CONTENT_TYPE};
use serde::Serialize;

use super::answer::ApiError;
use super::choice::Piece;
use super::generation::{Generation, Indexed, gone};

/// A write is closed once it has this many bytes, so that a fast engine does not grow it without end.
const WRITE_BYTES: usize = 16 << 10;
/// How long the head of an answer waits for the first token.
const HEAD_PATIENCE: Duration = Duration::from_millis(100);

/// How one endpoint writes its answer as events.
pub trait Events: Send + 'static {
    /// Writes a piece of the choice `index`.
    fn piece(&mut self, out: &mut BytesMut, generation: &Generation, index: u32, piece: Piece);
    /// Writes what comes after the last piece, to the stream's last byte.
    fn end(&mut self, out: &mut BytesMut, generation: &Generation);
    /// Writes an error after which nothing comes, to the stream's last byte.
    fn fail(&mut self, out: &mut BytesMut, error: &ApiError);
}

pub async fn answer(mut generation: Generation, events: impl Events) -> Result<Response, ApiError> {
    let first = match tokio::time::timeout(HEAD_PATIENCE, generation.next()).await {
        Ok(first) => Some(first.unwrap_or_else(|| Err(gone()))?),
        Err(_) => None,
    };
    let writer = Writer { generation, events, first, done: false };
    let frames = stream::unfold(writer, |mut writer| async move {
        let frame = writer.frame().await?;
        Some((Ok::<_, Infallible>(frame), writer))
    });
    let mut response = Response::new(Body::from_stream(frames));
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/event-stream; charset=utf-8"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    Ok(response)
}

struct Writer<E> {
    generation: Generation,
    events: E,
    first: Option<Indexed>,
    done: bool,
}

impl<E: Events> Writer<E> {
    /// The next write; `None` behind the end.
    async fn frame(&mut self) -> Option<Bytes> {
        if self.done {
            return None;
        }
        let mut out = BytesMut::with_capacity(512);
        // A piece may leave nothing to write: an empty frame is none.
        while out.is_empty() && !self.done {
            let next = match self.first.take() {
                Some(first) => Some(Ok(first)),
                None => self.generation.next().await,
            };
            self.fill(&mut out, next);
        }
        Some(out.freeze())
    }

    /// Writes `next` and what is there behind it.
    fn fill(&mut self, out: &mut BytesMut, mut next: Option<Result<Indexed, ApiError>>) {
        loop {
            match next {
                Some(Ok((index, piece))) => self.events.piece(out, &self.generation, index, piece),
                Some(Err(error)) => {
                    self.events.fail(out, &error);
                    self.done = true;
                }
                None if self.generation.ended() => {
                    self.events.end(out, &self.generation);
                    self.done = true;
                }
                // Nothing more is there right now.
                None => return,
            }
            if self.done || out.len() >= WRITE_BYTES {
                return;
            }
            next = self.generation.next_now();
        }
    }
}

/// One event without a name.
pub fn event(out: &mut BytesMut, body: &impl Serialize) {
    out.put_slice(b"data: ");
    serde_json::to_writer((&mut *out).writer(), body).expect("plain data into memory");
    out.put_slice(b"\n\n");
}

/// OpenAI's last event.
pub fn done(out: &mut BytesMut) {
    out.put_slice(b"data: ");
    out.put_slice(proto::openai::DONE.as_bytes());
    out.put_slice(b"\n\n");
}

#[cfg(test)]
mod tests;
