//! One sequence on its way from token ids to text: detokenised, searched for stop strings, counted, and aborted when nobody reads on.

use std::sync::Arc;
use std::time::Instant;

use engine::handle::Handle;
use engine::request::{FinishReason, Finished, Logprobs, Output, RequestId};
use engine_text::reply::{Delta, Reply};
use engine_text::{Detokenizer, StopMatcher};
use proto::openai::RequestMetrics;
use serde_json::Value;

use super::answer::ApiError;
use super::logprobs::Told;
use super::open::Open;
use super::plan::{Plan, Reads};
use super::prompt::Prompt;
use crate::adapters::Use;
use crate::in_flight::Entry;

/// A request that the engine holds. Dropped before its end, it is aborted, and its blocks are free in the next step.
pub struct Running {
    handle: Handle,
    id: RequestId,
    over: bool,
    /// Whoever aborts by the client's id finds it.
    _open: Option<Open>,
}

impl Running {
    pub fn new(handle: Handle, id: RequestId, open: Option<Open>) -> Self {
        Self { handle, id, over: false, _open: open }
    }

    /// The engine has ended it.
    pub fn ended(&mut self) {
        self.over = true;
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
    /// `None` until the engine has it.
    running: Option<Running>,
    in_flight: Entry,
    /// Counts it among those that have its adapter.
    adapter: Option<Use>,
    plan: Arc<Plan>,
    detokenizer: Detokenizer,
    stops: StopMatcher,
    /// Parts a chat's text into thought, content and calls; `None`: all is content.
    reply: Option<Reply>,
    prompt: Prompt,
    /// Of all tokens of the prompt but the first.
    prompt_logprobs: Vec<Logprobs>,
    cached: u32,
    generated: u32,
    /// Generated tokens within the thought, its markers not among them.
    thought: u32,
    times: Times,
    /// Pieces that wait for the chunk's interval to be full.
    held: Piece,
    /// A stop string was met; the engine's last word is awaited only for what it says of the KV transfer.
    stopped: Option<Value>,
    /// Whether [`Piece::end`] was given.
    ended: bool,
}

/// When what happened to a choice, as the edge saw it.
#[derive(Clone, Copy, Debug)]
struct Times {
    arrived: Instant,
    admitted: Option<Instant>,
    first_token: Option<Instant>,
    last_token: Option<Instant>,
}

/// What the engine's outputs add to a choice.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Piece {
    pub text: String,
    /// What the model says to itself.
    pub reasoning: String,
    /// Calls that begin, and pieces of their arguments.
    pub calls: Vec<Delta>,
    /// Filled where the answer shows ids.
    pub tokens: Vec<u32>,
    /// Filled where the answer shows log probabilities.
    pub logprobs: Vec<Told>,
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
    pub fn new(in_flight: Entry, plan: Arc<Plan>, detokenizer: Detokenizer, prompt: Prompt, arrived: Instant) -> Self {
        let stops = StopMatcher::new(&plan.stops, plan.include_stop);
        let times = Times { arrived, admitted: None, first_token: None, last_token: None };
        Self {
            running: None,
            in_flight,
            adapter: None,
            plan,
            detokenizer,
            stops,
            reply: None,
            prompt,
            prompt_logprobs: Vec::new(),
            cached: 0,
            generated: 0,
            thought: 0,
            times,
            held: Piece::default(),
            stopped: None,
            ended: false,
        }
    }

    /// The engine has it from now on.
    pub fn runs(&mut self, running: Running) {
        self.running = Some(running);
    }

    /// It is one of those that have an adapter.
    pub fn adapts(&mut self, adapter: Option<Use>) {
        self.adapter = adapter;
    }

    /// Its text is read by `reply` from now on.
    pub fn reads(&mut self, reply: Option<Reply>) {
        self.reply = reply;
    }

    /// Parts the text of a piece.
    fn part(&mut self, piece: &mut Piece) {
        let Some(reply) = &mut self.reply else { return };
        let mut deltas = Vec::new();
        let thought = reply.thinks();
        reply.feed(&std::mem::take(&mut piece.text), &mut deltas);
        self.thought += u32::from(thought && reply.thinks() && piece.end.is_none());
        if let Some(end) = &mut piece.end {
            reply.finish(&mut deltas);
            // As in vLLM, a call that the client named ends as any text does.
            if reply.calls() > 0 && end.finish_reason == "stop" && !matches!(self.plan.reply.reads, Reads::Named(_)) {
                end.finish_reason = "tool_calls";
            }
        }
        for delta in deltas {
            match delta {
                Delta::Content(text) => piece.text.push_str(&text),
                Delta::Reasoning(text) if self.plan.reply.include_reasoning => piece.reasoning.push_str(&text),
                Delta::Reasoning(_) => {}
                call => piece.calls.push(call),
            }
        }
    }

    pub fn prompt(&self) -> &Prompt {
        &self.prompt
    }

    pub fn prompt_logprobs(&self) -> &[Logprobs] {
        &self.prompt_logprobs
    }

    pub fn prompt_tokens(&self) -> u32 {
        self.prompt.ids.len() as u32
    }

    pub fn cached_tokens(&self) -> u32 {
        self.cached
    }

    pub fn generated_tokens(&self) -> u32 {
        self.generated
    }

    /// Tokens of the thought; `None`: the model is not known to think.
    pub fn thought_tokens(&self) -> Option<u32> {
        self.reply.as_ref().and(self.plan.reply.format.reasoning).map(|_| self.thought)
    }

    pub fn ended(&self) -> bool {
        self.ended
    }

    /// Takes the engine's next output. `None`: nothing for the client yet.
    pub fn take(&mut self, output: Output) -> Result<Option<Piece>, ApiError> {
        if self.ended {
            return Ok(None);
        }
        let mut piece = match output {
            Output::Admitted { cached_tokens } => {
                self.cached = cached_tokens;
                self.in_flight.done(cached_tokens.into());
                self.times.admitted = Some(Instant::now());
                self.adapter.iter_mut().for_each(Use::run);
                return Ok(None);
            }
            Output::Token { .. } | Output::PromptLogprobs(_) if self.stopped.is_some() => return Ok(None),
            Output::PromptLogprobs(told) => {
                self.prompt_logprobs.extend(told);
                return Ok(None);
            }
            Output::Token { token, logprobs } => self.token(token, logprobs),
            // Of an engine that embeds, which has no choices.
            Output::Pooled(_) => return Ok(None),
            Output::Finished(finished) => self.finish(finished)?,
        };
        self.part(&mut piece);
        self.ended = piece.end.is_some();
        Ok(self.gather(piece))
    }

    /// The piece with what was held back before it, once an interval of tokens is full. The first and the last leave at once.
    fn gather(&mut self, piece: Piece) -> Option<Piece> {
        let piece = match self.plan.shape.interval {
            ..=1 => piece,
            interval => {
                self.held.text.push_str(&piece.text);
                self.held.reasoning.push_str(&piece.reasoning);
                self.held.calls.extend(piece.calls);
                self.held.tokens.extend(piece.tokens);
                self.held.logprobs.extend(piece.logprobs);
                self.held.end = piece.end;
                if !self.ended && self.generated > 1 && !self.generated.is_multiple_of(interval) {
                    return None;
                }
                std::mem::take(&mut self.held)
            }
        };
        let says_something = !piece.text.is_empty()
            || !piece.reasoning.is_empty()
            || !piece.calls.is_empty()
            || piece.end.is_some()
            || !piece.tokens.is_empty()
            || !piece.logprobs.is_empty();
        says_something.then_some(piece)
    }

    fn token(&mut self, token: u32, logprobs: Option<Logprobs>) -> Piece {
        if self.generated == 0 {
            // The prompt is computed.
            self.in_flight.done(u64::MAX);
        }
        self.generated += 1;
        if self.plan.shape.metrics {
            let now = Instant::now();
            self.times.first_token.get_or_insert(now);
            self.times.last_token = Some(now);
        }
        let mut piece = Piece::default();
        if self.plan.shape.token_ids {
            piece.tokens.push(token);
        }
        if self.plan.logprobs.generated.is_some() {
            piece.logprobs.extend(logprobs.map(|logprobs| (token, logprobs)));
        }
        let ends_sequence = self.plan.eos.contains(&token) || self.plan.stop_ids.contains(&token);
        if ends_sequence && !self.plan.include_stop {
            return piece;
        }
        let text = self.detokenizer.push(token);
        // As vLLM: a stop string may end only behind the fewest tokens.
        let step = match self.generated > self.plan.min_tokens() {
            true => self.stops.push(text),
            false => self.stops.push_unarmed(text),
        };
        piece.text = step.text;
        if let Some(index) = step.stop {
            let stop = Value::from(self.plan.stops[index].as_str());
            if let Some(running) = &mut self.running {
                running.end(FinishReason::Stop);
            }
            match self.plan.kv_transfer {
                None => piece.end = Some(End::stop(Some(stop), None)),
                Some(_) => self.stopped = Some(stop),
            }
        }
        piece
    }

    fn finish(&mut self, finished: Finished) -> Result<Piece, ApiError> {
        if let Some(running) = &mut self.running {
            running.ended();
        }
        let kv_transfer = finished.kv_transfer.as_deref().and_then(|text| serde_json::from_str(text).ok());
        if let Some(stop) = self.stopped.take() {
            return Ok(Piece { end: Some(End::stop(Some(stop), kv_transfer)), ..Piece::default() });
        }
        let mut end = match finished.reason {
            FinishReason::Eos | FinishReason::Stop | FinishReason::MaskEnded | FinishReason::Pooled => {
                End::stop(None, kv_transfer)
            }
            FinishReason::StopId(id) => End::stop(Some(id.into()), kv_transfer),
            FinishReason::Length => End { finish_reason: "length", stop_reason: None, kv_transfer },
            FinishReason::Aborted => End { finish_reason: "abort", stop_reason: None, kv_transfer },
            FinishReason::Repetition => {
                let why = Some(Value::from("repetition_detected"));
                End { finish_reason: "repetition", stop_reason: why, kv_transfer }
            }
            FinishReason::AdapterGone(name) => {
                let message = format!("The adapter {name} was unloaded or replaced while the request was on its way.");
                return Err(ApiError::unavailable(message));
            }
            FinishReason::Error(what) => return Err(ApiError::new(http::StatusCode::INTERNAL_SERVER_ERROR, what)),
        };
        // What was held back is text after all, unless it completes a stop string.
        let step = self.stops.push(self.detokenizer.finish());
        let mut text = step.text;
        match step.stop {
            Some(index) => end = End::stop(Some(Value::from(self.plan.stops[index].as_str())), end.kv_transfer),
            None => text.push_str(&self.stops.finish()),
        }
        Ok(Piece { text, end: Some(end), ..Piece::default() })
    }

    /// Where the choice's time went.
    pub fn metrics(&self) -> RequestMetrics {
        let Times { arrived, admitted, first_token, last_token } = self.times;
        let ms = |from: Option<Instant>, to: Option<Instant>| Some(to?.saturating_duration_since(from?).as_secs_f64() * 1e3);
        let generation_time_ms = ms(first_token, last_token);
        let inference_ms = ms(admitted, last_token).filter(|ms| *ms > 0.0);
        RequestMetrics {
            time_to_first_token_ms: ms(admitted, first_token),
            generation_time_ms,
            queue_time_ms: ms(Some(arrived), admitted),
            mean_itl_ms: generation_time_ms
                .filter(|_| self.generated > 1)
                .map(|ms| ms / f64::from(self.generated.saturating_sub(1))),
            tokens_per_second: inference_ms.map(|ms| f64::from(self.generated) * 1e3 / ms),
            speculative_decoding: (),
        }
    }
}
