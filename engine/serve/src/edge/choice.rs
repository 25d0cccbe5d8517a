//! One sequence on its way from token ids to text: detokenised, searched for stop strings, counted, and aborted when nobody reads on.

use std::sync::Arc;

use engine::handle::Handle;
use engine::request::{FinishReason, Finished, Output, RequestId};
use engine_text::{Detokenizer, StopMatcher};
use serde_json::Value;

use super::answer::ApiError;
use super::plan::Plan;
use crate::in_flight::Entry;

/// A request that the engine holds. Dropped before its end, it is aborted, and its blocks are free in the next step.
pub struct Running {
    handle: Handle,
    id: RequestId,
    over: bool,
}

impl Running {
    pub fn new(handle: Handle, id: RequestId) -> Self {
        Self { handle, id, over: false }
    }

    fn end(&mut self, reason: FinishReason) {
        self.over = true;
        self.handle.abort(self.id, reason);
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if !self.over {
            self.handle.abort(self.id, FinishReason::Aborted);
        }
    }
}

/// A choice of the answer while it grows.
pub struct Choice {
    running: Running,
    in_flight: Entry,
    plan: Arc<Plan>,
    detokenizer: Detokenizer,
    stops: StopMatcher,
    prompt: Arc<[u32]>,
    cached: u32,
    generated: u32,
    /// A stop string was met; the engine's last word is awaited only for what it says of the KV transfer.
    stopped: Option<Value>,
    /// Whether [`Piece::end`] was given.
    ended: bool,
}

/// What one output of the engine adds to a choice.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Piece {
    pub text: String,
    pub token: Option<u32>,
    pub end: Option<End>,
}

/// How a choice ended.
#[derive(Clone, Debug, PartialEq)]
pub struct End {
    pub finish_reason: &'static str,
    /// The stop string or stop id; `None` for end of sequence and length.
    pub stop_reason: Option<Value>,
    pub kv_transfer: Option<Value>,
}

impl End {
    fn stop(stop_reason: Option<Value>, kv_transfer: Option<Value>) -> Self {
        Self { finish_reason: "stop", stop_reason, kv_transfer }
    }
}

impl Choice {
    pub fn new(running: Running, in_flight: Entry, plan: Arc<Plan>, detokenizer: Detokenizer, prompt: Arc<[u32]>) -> Self {
        let stops = StopMatcher::new(&plan.stops, plan.include_stop);
        Self { running, in_flight, plan, detokenizer, stops, prompt, cached: 0, generated: 0, stopped: None, ended: false }
    }

    pub fn prompt(&self) -> &[u32] {
        &self.prompt
    }

    pub fn prompt_tokens(&self) -> u32 {
        self.prompt.len() as u32
    }

    pub fn cached_tokens(&self) -> u32 {
        self.cached
    }

    pub fn generated_tokens(&self) -> u32 {
        self.generated
    }

    pub fn ended(&self) -> bool {
        self.ended
    }

    /// Takes the engine's next output. `None`: nothing for the client yet.
    pub fn take(&mut self, output: Output) -> Result<Option<Piece>, ApiError> {
        if self.ended {
            return Ok(None);
        }
        let piece = match output {
            Output::Admitted { cached_tokens } => {
                self.cached = cached_tokens;
                self.in_flight.done(cached_tokens.into());
                return Ok(None);
            }
            Output::Token(_) if self.stopped.is_some() => return Ok(None),
            Output::Token(token) => self.token(token),
            Output::Finished(finished) => self.finish(finished)?,
        };
        self.ended = piece.end.is_some();
        let says_something =
            !piece.text.is_empty() || piece.end.is_some() || (self.plan.shape.token_ids && piece.token.is_some());
        Ok(says_something.then_some(piece))
    }

    fn token(&mut self, token: u32) -> Piece {
        if self.generated == 0 {
            // The prompt is computed.
            self.in_flight.done(u64::MAX);
        }
        self.generated += 1;
        let ends_sequence = self.plan.eos.contains(&token) || self.plan.stop_ids.contains(&token);
        if ends_sequence && !self.plan.include_stop {
            return Piece { token: Some(token), ..Piece::default() };
        }
        let step = self.stops.push(self.detokenizer.push(token));
        let mut piece = Piece { text: step.text, token: Some(token), end: None };
        if let Some(index) = step.stop {
            let stop = Value::from(self.plan.stops[index].as_str());
            self.running.end(FinishReason::Stop);
            match self.plan.kv_transfer {
                None => piece.end = Some(End::stop(Some(stop), None)),
                Some(_) => self.stopped = Some(stop),
            }
        }
        piece
    }

    fn finish(&mut self, finished: Finished) -> Result<Piece, ApiError> {
        self.running.over = true;
        let kv_transfer = finished.kv_transfer.as_deref().and_then(|text| serde_json::from_str(text).ok());
        if let Some(stop) = self.stopped.take() {
            return Ok(Piece { end: Some(End::stop(Some(stop), kv_transfer)), ..Piece::default() });
        }
        let mut end = match finished.reason {
            FinishReason::Eos | FinishReason::Stop => End::stop(None, kv_transfer),
            FinishReason::StopId(id) => End::stop(Some(id.into()), kv_transfer),
            FinishReason::Length => End { finish_reason: "length", stop_reason: None, kv_transfer },
            FinishReason::Aborted => End { finish_reason: "abort", stop_reason: None, kv_transfer },
            FinishReason::Error(what) => return Err(ApiError::new(http::StatusCode::INTERNAL_SERVER_ERROR, what)),
        };
        // What was held back is text after all, unless it completes a stop string.
        let step = self.stops.push(self.detokenizer.finish());
        let mut text = step.text;
        match step.stop {
            Some(index) => end = End::stop(Some(Value::from(self.plan.stops[index].as_str())), end.kv_transfer),
            None => text.push_str(&self.stops.finish()),
        }
        Ok(Piece { text, token: None, end: Some(end) })
    }
}
