//! Answers as server-sent events, a chunk per token that makes text. What is ready together leaves in one write.

use std::convert::Infallible;
use std::sync::Arc;

use axum::body::Body;
use axum::response::Response;
use bytes::{BufMut, Bytes, BytesMut};
use futures_util::stream;
use http::HeaderValue;
use http::header::{CACHE_CONTROL, CONTENT_TYPE};
use proto::openai::{
    CHAT_COMPLETION_CHUNK, ChatChunk, ChatChunkChoice, Completion, CompletionChoice, DONE, Delta, TEXT_COMPLETION, Usage,
};
use serde::Serialize;

use super::answer::ApiError;
use super::choice::Piece;
use super::generate::{Generation, Head, Indexed};
use super::plan::{Endpoint, Plan};

/// A write is closed once it has this many bytes, so that a fast engine does not grow it without end.
const WRITE_BYTES: usize = 16 << 10;

pub fn answer(head: Head, plan: Arc<Plan>, generation: Generation, first: Indexed) -> Response {
    let writer = Writer { head, plan, generation, begun: Vec::new(), first: Some(first), done: false };
    let frames = stream::unfold(writer, |mut writer| async move {
        let frame = writer.frame().await?;
        Some((Ok::<_, Infallible>(frame), writer))
    });
    let mut response = Response::new(Body::from_stream(frames));
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/event-stream; charset=utf-8"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    response
}

struct Writer {
    head: Head,
    plan: Arc<Plan>,
    generation: Generation,
    /// Choices whose first chunk was written.
    begun: Vec<u32>,
    first: Option<Indexed>,
    done: bool,
}

impl Writer {
    /// The next write; `None` behind the end.
    async fn frame(&mut self) -> Option<Bytes> {
        if self.done {
            return None;
        }
        let mut out = BytesMut::with_capacity(512);
        let mut next = match self.first.take() {
            Some(first) => Some(Ok(first)),
            None => self.generation.next().await,
        };
        loop {
            match next {
                Some(Ok((index, piece))) => self.piece(&mut out, index, &piece),
                Some(Err(error)) => {
                    self.fail(&mut out, &error);
                    break;
                }
                None if self.generation.ended() => {
                    self.end(&mut out);
                    break;
                }
                // Nothing more is there right now.
                None => break,
            }
            if out.len() >= WRITE_BYTES {
                break;
            }
            next = self.generation.next_now();
        }
        Some(out.freeze())
    }

    fn piece(&mut self, out: &mut BytesMut, index: u32, piece: &Piece) {
        let choice = &self.generation.choices[index as usize];
        let begins = !self.begun.contains(&index);
        if begins {
            self.begun.push(index);
        }
        let usage = |generated| self.plan.shape.continuous_usage.then(|| Usage::new(choice.prompt_tokens(), generated));
        let prompt_ids = (begins && self.plan.shape.token_ids).then(|| choice.prompt());
        let token_ids = self.plan.shape.token_ids.then_some(piece.token.as_slice());
        let finish_reason = piece.end.as_ref().map(|end| end.finish_reason);
        let stop_reason = piece.end.as_ref().and_then(|end| end.stop_reason.as_ref());
        let kv_transfer_params = piece.end.as_ref().and_then(|end| end.kv_transfer.as_ref());
        let Head { endpoint, id, created, model } = &self.head;
        let created = *created;
        match endpoint {
            Endpoint::Chat => {
                let chunk = |choices: &[ChatChunkChoice<'_>], prompt_token_ids, usage| {
                    let object = CHAT_COMPLETION_CHUNK;
                    event(out, &ChatChunk { id, object, created, model, choices, usage, prompt_token_ids, kv_transfer_params });
                };
                chat_chunks(
                    chunk,
                    index,
                    piece,
                    begins,
                    [usage(0), usage(choice.generated_tokens())],
                    ChatParts { prompt_ids, token_ids, finish_reason, stop_reason },
                );
            }
            Endpoint::Completion => {
                let text = piece.text.as_str();
                let choices = [CompletionChoice {
                    index,
                    text,
                    logprobs: (),
                    finish_reason,
                    stop_reason,
                    token_ids,
                    prompt_token_ids: prompt_ids,
                }];
                let usage = usage(choice.generated_tokens());
                event(
                    out,
                    &Completion { id, object: TEXT_COMPLETION, created, model, choices: &choices, usage, kv_transfer_params },
                );
            }
        }
    }

    /// The usage chunk, where it is asked for, and the end.
    fn end(&mut self, out: &mut BytesMut) {
        if self.plan.shape.include_usage {
            let usage = Some(self.generation.usage());
            let Head { endpoint, id, created, model } = &self.head;
            let created = *created;
            match endpoint {
                Endpoint::Chat => {
                    let object = CHAT_COMPLETION_CHUNK;
                    let (prompt_token_ids, kv_transfer_params) = (None, None);
                    event(
                        out,
                        &ChatChunk { id, object, created, model, choices: &[], usage, prompt_token_ids, kv_transfer_params },
                    );
                }
                Endpoint::Completion => {
                    let object = TEXT_COMPLETION;
                    event(out, &Completion { id, object, created, model, choices: &[], usage, kv_transfer_params: None });
                }
            }
        }
        self.close(out);
    }

    /// Headers are out, so an error is an event.
    fn fail(&mut self, out: &mut BytesMut, error: &ApiError) {
        event(out, &error.body);
        self.close(out);
    }

    fn close(&mut self, out: &mut BytesMut) {
        out.put_slice(b"data: ");
        out.put_slice(DONE.as_bytes());
        out.put_slice(b"\n\n");
        self.done = true;
    }
}

/// What of a piece goes into a chat chunk's choice.
struct ChatParts<'a> {
    prompt_ids: Option<&'a [u32]>,
    token_ids: Option<&'a [u32]>,
    finish_reason: Option<&'a str>,
    stop_reason: Option<&'a serde_json::Value>,
}

/// The chunk of a piece, with the one that names the role before the first.
fn chat_chunks<'a>(
    mut chunk: impl FnMut(&[ChatChunkChoice<'_>], Option<&'a [u32]>, Option<Usage>),
    index: u32,
    piece: &Piece,
    begins: bool,
    [usage_before, usage]: [Option<Usage>; 2],
    parts: ChatParts<'a>,
) {
    let bare = |delta| ChatChunkChoice { index, delta, logprobs: (), finish_reason: None, stop_reason: None, token_ids: None };
    if begins {
        let role = bare(Delta { role: Some("assistant"), content: Some("") });
        chunk(&[role], parts.prompt_ids, usage_before);
    }
    let ChatParts { token_ids, finish_reason, stop_reason, .. } = parts;
    let choice =
        ChatChunkChoice { finish_reason, stop_reason, token_ids, ..bare(Delta { role: None, content: Some(&piece.text) }) };
    chunk(&[choice], None, usage);
}

fn event(out: &mut BytesMut, body: &impl Serialize) {
    out.put_slice(b"data: ");
    serde_json::to_writer((&mut *out).writer(), body).expect("plain data into memory");
    out.put_slice(b"\n\n");
}

#[cfg(test)]
mod tests;
