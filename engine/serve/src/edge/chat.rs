//! `/v1/chat/completions`.

use std::sync::Arc;

use axum::response::Response;
use bytes::BytesMut;
use engine_text::reply::Delta as Call;
use http::StatusCode;
use proto::openai::{
    CHAT_COMPLETION, CHAT_COMPLETION_CHUNK, ChatChoice, ChatChunk, ChatChunkChoice, ChatCompletion, Delta, FunctionDelta,
    Message, RequestMetrics, ToolCallDelta, Usage,
};

use super::answer::{ApiError, json};
use super::choice::Piece;
use super::generate::{self, Begun, Head};
use super::generation::Generation;
use super::plan::Plan;
use super::stream::{self, Events, done, event};
use super::whole::{self, Grown};

/// Answers a request that has begun, in one body or as a stream.
pub async fn answer(begun: Begun) -> Result<Response, ApiError> {
    let Begun { head, plan, mut generation } = begun;
    generation.part();
    if plan.shape.stream {
        return stream::answer(generation, ChatEvents { head, plan, begun: false }).await;
    }
    let first = generate::first(&mut generation).await?;
    let grown = whole::gather(&mut generation, first).await?;
    Ok(render(&head, &plan, &generation, grown))
}

pub fn render(head: &Head, plan: &Plan, generation: &Generation, mut grown: Vec<Grown>) -> Response {
    if !head.spoken.is_empty() {
        grown.iter_mut().for_each(|grown| grown.text.insert_str(0, &head.spoken));
    }
    for call in grown.iter_mut().flat_map(|grown| &mut grown.calls) {
        call.id = plan.reply.call_id();
    }
    let ids = |ids| plan.shape.token_ids.then_some(ids);
    let choices = (0..).zip(&grown).map(|(index, grown)| ChatChoice {
        index,
        message: message(&head.role, grown),
        logprobs: plan.logprobs.generated.map(|shown| head.speller(plan).chat(&grown.logprobs, shown)),
        finish_reason: grown.finish_reason(),
        stop_reason: grown.stop_reason(),
        token_ids: ids(&grown.token_ids[..]),
        routed_experts: (),
        weight_versions: (),
    });
    let first = generation.choices.first();
    let prompt = first.map(|choice| choice.prompt());
    let told = first.filter(|_| plan.logprobs.prompt).map(|choice| head.speller(plan).prompt(choice.prompt_logprobs()));
    let body = ChatCompletion {
        id: &head.id,
        object: CHAT_COMPLETION,
        created: head.created,
        model: &head.model,
        choices: choices.collect(),
        service_tier: (),
        system_fingerprint: Some(&head.fingerprint),
        usage: generation.usage(),
        prompt_logprobs: told.as_ref(),
        prompt_token_ids: prompt.and_then(|prompt| ids(&prompt.ids)),
        prompt_text: prompt.filter(|_| plan.shape.returns_prompt_text).and_then(|prompt| prompt.text.as_deref()),
        kv_transfer_params: grown.iter().find_map(Grown::kv_transfer),
        ec_transfer_params: (),
        metrics: generation.metrics(),
    };
    json(StatusCode::OK, &body)
}

/// A choice's message. As in vLLM, content that is not there is `null` where there is something else.
pub fn message<'a>(role: &'a str, grown: &'a Grown) -> Message<'a> {
    let alone = grown.calls.is_empty() && grown.reasoning.is_empty();
    let content = Some(grown.text.as_str()).filter(|text| alone || !text.is_empty());
    let reasoning = Some(grown.reasoning.as_str()).filter(|text| !text.is_empty());
    Message { tool_calls: &grown.calls, reasoning, ..Message::new(role, content) }
}

struct ChatEvents {
    head: Head,
    plan: Arc<Plan>,
    /// Whether the chunks that name the role were written.
    begun: bool,
}

/// What of a chunk is not its choice.
#[derive(Default)]
struct Rest<'a> {
    usage: Option<Usage>,
    fingerprint: bool,
    prompt_token_ids: Option<&'a [u32]>,
    prompt_text: Option<&'a str>,
    metrics: Option<RequestMetrics>,
    kv_transfer_params: Option<&'a serde_json::Value>,
}

impl ChatEvents {
    fn chunk(&self, out: &mut BytesMut, choices: &[ChatChunkChoice<'_>], rest: Rest<'_>) {
        let Head { id, created, model, fingerprint, .. } = &self.head;
        let Rest { usage, fingerprint: last, prompt_token_ids, prompt_text, metrics, kv_transfer_params } = rest;
        let chunk = ChatChunk {
            id,
            object: CHAT_COMPLETION_CHUNK,
            created: *created,
            model,
            choices,
            usage,
            system_fingerprint: last.then_some(&**fingerprint),
            prompt_token_ids,
            prompt_text,
            metrics,
            kv_transfer_params,
        };
        event(out, &chunk);
    }

    /// The chunks that name the role, one a choice, and those that repeat what was said.
    fn begin(&self, out: &mut BytesMut, generation: &Generation) {
        let usage = |index: u32| {
            self.plan.shape.continuous_usage.then(|| Usage::new(generation.choices[index as usize].prompt_tokens(), 0))
        };
        let indices = 0..generation.choices.len() as u32;
        for index in indices.clone() {
            let prompt = generation.choices[index as usize].prompt();
            let delta = Delta { role: Some(&self.head.role), content: Some(""), ..Delta::default() };
            let rest = Rest {
                usage: usage(index),
                prompt_token_ids: self.plan.shape.token_ids.then_some(&prompt.ids),
                prompt_text: prompt.text.as_deref().filter(|_| self.plan.shape.returns_prompt_text),
                ..Rest::default()
            };
            self.chunk(out, &[bare(index, delta)], rest);
        }
        for index in indices.filter(|_| !self.head.spoken.is_empty()) {
            let delta = Delta { content: Some(&self.head.spoken), ..Delta::default() };
            self.chunk(out, &[bare(index, delta)], Rest { usage: usage(index), ..Rest::default() });
        }
    }
}

/// One entry of a delta's calls.
struct Called<'a> {
    index: u32,
    id: Option<String>,
    name: Option<&'a str>,
    arguments: &'a str,
}

impl Called<'_> {
    fn delta(&self) -> ToolCallDelta<'_> {
        let kind = self.id.as_ref().map(|_| "function");
        let function = FunctionDelta { name: self.name, arguments: self.arguments };
        ToolCallDelta { id: self.id.as_deref(), kind, index: self.index, function }
    }
}

fn calls<'a>(plan: &Plan, piece: &'a Piece) -> Vec<Called<'a>> {
    let called = |call: &'a Call| match call {
        Call::Call { index, name } => {
            Some(Called { index: *index, id: Some(plan.reply.call_id()), name: Some(name), arguments: "" })
        }
        Call::Arguments { index, fragment } => Some(Called { index: *index, id: None, name: None, arguments: fragment }),
        Call::Content(_) | Call::Reasoning(_) => None,
    };
    piece.calls.iter().filter_map(called).collect()
}

fn bare(index: u32, delta: Delta<'_>) -> ChatChunkChoice<'_> {
    ChatChunkChoice { index, delta, logprobs: None, finish_reason: None, stop_reason: None, token_ids: None }
}

impl Events for ChatEvents {
    fn piece(&mut self, out: &mut BytesMut, generation: &Generation, index: u32, piece: Piece) {
        if !std::mem::replace(&mut self.begun, true) {
            self.begin(out, generation);
        }
        let shape = &self.plan.shape;
        let choice = &generation.choices[index as usize];
        let end = piece.end.as_ref();
        let calls = calls(&self.plan, &piece);
        let deltas: Vec<_> = calls.iter().map(Called::delta).collect();
        let parted = !piece.reasoning.is_empty() || !deltas.is_empty();
        let delta = Delta {
            content: Some(piece.text.as_str()).filter(|text| !parted || !text.is_empty()),
            reasoning: Some(piece.reasoning.as_str()).filter(|text| !text.is_empty()),
            tool_calls: &deltas,
            ..Delta::default()
        };
        let chunk = ChatChunkChoice {
            finish_reason: end.map(|end| end.finish_reason),
            stop_reason: end.and_then(|end| end.stop_reason.as_ref()),
            logprobs: self
                .plan
                .logprobs
                .generated
                .filter(|_| !piece.logprobs.is_empty())
                .map(|shown| self.head.speller(&self.plan).chat(&piece.logprobs, shown)),
            token_ids: shape.token_ids.then_some(&piece.tokens),
            ..bare(index, delta)
        };
        let rest = Rest {
            usage: shape.continuous_usage.then(|| Usage::new(choice.prompt_tokens(), choice.generated_tokens())),
            fingerprint: end.is_some() && !shape.include_usage,
            kv_transfer_params: end.and_then(|end| end.kv_transfer.as_ref()),
            ..Rest::default()
        };
        self.chunk(out, &[chunk], rest);
    }

    fn end(&mut self, out: &mut BytesMut, generation: &Generation) {
        if self.plan.shape.include_usage {
            let (usage, metrics) = (Some(generation.usage()), generation.metrics());
            self.chunk(out, &[], Rest { usage, metrics, fingerprint: true, ..Rest::default() });
        }
        done(out);
    }

    fn fail(&mut self, out: &mut BytesMut, error: &ApiError) {
        event(out, &error.body);
        done(out);
    }
}
