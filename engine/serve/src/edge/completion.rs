//! `/v1/completions`.

use std::sync::Arc;

use axum::response::Response;
use bytes::BytesMut;
use http::StatusCode;
use proto::openai::{
    Completion, CompletionChoice, CompletionChunk, CompletionChunkChoice, RequestMetrics, TEXT_COMPLETION, Usage,
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
    if plan.shape.stream {
        return stream::answer(generation, CompletionEvents::new(head, plan)).await;
    }
    let first = generate::first(&mut generation).await?;
    let grown = whole::gather(&mut generation, first).await?;
    Ok(render(&head, &plan, &generation, grown))
}

fn render(head: &Head, plan: &Plan, generation: &Generation, mut grown: Vec<Grown>) -> Response {
    let ids = |ids| plan.shape.token_ids.then_some(ids);
    if plan.shape.echo {
        grown
            .iter_mut()
            .zip(&generation.choices)
            .for_each(|(grown, choice)| grown.text.insert_str(0, echoed(plan, choice.prompt())));
    }
    let speller = head.speller(plan);
    let told = |choice: &super::choice::Choice| plan.logprobs.prompt.then(|| speller.prompt(choice.prompt_logprobs()));
    let prompts: Vec<_> = (0..generation.choices.len() as u32).map(|index| told(generation.first_of(index))).collect();
    let choices = (0..).zip(&grown).zip(&generation.choices).map(|((index, grown), choice)| CompletionChoice {
        index,
        text: &grown.text,
        logprobs: plan.logprobs.generated.map(|shown| {
            let prompt = if plan.shape.echo { prompt_told(generation, index) } else { Vec::new() };
            let told = prompt.into_iter().chain(grown.logprobs.iter().map(|(token, logprobs)| (*token, Some(logprobs))));
            speller.completion(told, shown, &mut 0)
        }),
        finish_reason: grown.finish_reason(),
        stop_reason: grown.stop_reason(),
        token_ids: ids(&grown.token_ids[..]),
        prompt_logprobs: prompts[index as usize].as_ref(),
        prompt_token_ids: ids(&choice.prompt().ids),
        routed_experts: (),
        weight_versions: (),
    });
    let body = Completion {
        id: &head.id,
        object: TEXT_COMPLETION,
        created: head.created,
        model: &head.model,
        choices: choices.collect(),
        service_tier: (),
        system_fingerprint: Some(&head.fingerprint),
        usage: generation.usage(),
        kv_transfer_params: grown.iter().find_map(Grown::kv_transfer),
        ec_transfer_params: (),
        metrics: generation.metrics(),
    };
    json(StatusCode::OK, &body)
}

/// The prompt's tokens with what was told of them, for an answer that echoes them.
fn prompt_told(generation: &Generation, index: u32) -> Vec<(u32, Option<&engine::request::Logprobs>)> {
    let first = generation.first_of(index);
    let told = std::iter::once(None).chain(first.prompt_logprobs().iter().map(Some));
    first.prompt().ids.iter().copied().zip(told).collect()
}

/// What of the prompt stands before the text; as in vLLM nothing where ids are shown.
fn echoed<'a>(plan: &Plan, prompt: &'a super::prompt::Prompt) -> &'a str {
    prompt.text.as_deref().filter(|_| plan.shape.echo && !plan.shape.token_ids).unwrap_or_default()
}

pub struct CompletionEvents {
    head: Head,
    plan: Arc<Plan>,
    /// Choices whose first chunk was written, in ascending order.
    begun: Vec<u32>,
    /// Characters of the tokens whose log probabilities were told, by choice.
    offsets: Vec<usize>,
}

impl CompletionEvents {
    pub fn new(head: Head, plan: Arc<Plan>) -> Self {
        Self { head, plan, begun: Vec::new(), offsets: Vec::new() }
    }

    fn chunk(
        &self,
        out: &mut BytesMut,
        choices: &[CompletionChunkChoice<'_>],
        usage: Option<Usage>,
        last: bool,
        metrics: Option<RequestMetrics>,
        kv_transfer_params: Option<&serde_json::Value>,
    ) {
        let Head { id, created, model, fingerprint, .. } = &self.head;
        let system_fingerprint = last.then_some(&**fingerprint);
        let (object, created) = (TEXT_COMPLETION, *created);
        event(
            out,
            &CompletionChunk { id, object, created, model, choices, usage, system_fingerprint, metrics, kv_transfer_params },
        );
    }
}

impl Events for CompletionEvents {
    fn piece(&mut self, out: &mut BytesMut, generation: &Generation, index: u32, piece: Piece) {
        let choice = &generation.choices[index as usize];
        let begins = match self.begun.binary_search(&index) {
            Ok(_) => false,
            Err(at) => {
                self.begun.insert(at, index);
                true
            }
        };
        let shape = &self.plan.shape;
        let mut text = piece.text;
        if begins && shape.echo {
            text.insert_str(0, echoed(&self.plan, choice.prompt()));
        }
        let logprobs = self.plan.logprobs.generated.filter(|_| begins && shape.echo || !piece.logprobs.is_empty()).map(|shown| {
            let prompt = if begins && shape.echo { prompt_told(generation, index) } else { Vec::new() };
            let told = prompt.into_iter().chain(piece.logprobs.iter().map(|(token, logprobs)| (*token, Some(logprobs))));
            self.offsets.resize(generation.choices.len(), 0);
            self.head.speller(&self.plan).completion(told, shown, &mut self.offsets[index as usize])
        });
        let end = piece.end.as_ref();
        let chunk = CompletionChunkChoice {
            index,
            text: &text,
            logprobs,
            finish_reason: end.map(|end| end.finish_reason),
            stop_reason: end.and_then(|end| end.stop_reason.as_ref()),
            token_ids: shape.token_ids.then_some(&piece.tokens),
            prompt_token_ids: (begins && shape.token_ids).then_some(&choice.prompt().ids),
        };
        let usage = shape.continuous_usage.then(|| Usage::new(choice.prompt_tokens(), choice.generated_tokens()));
        let last = end.is_some() && !shape.include_usage;
        self.chunk(out, &[chunk], usage, last, None, end.and_then(|end| end.kv_transfer.as_ref()));
    }

    fn end(&mut self, out: &mut BytesMut, generation: &Generation) {
        if self.plan.shape.include_usage {
            self.chunk(out, &[], Some(generation.usage()), true, generation.metrics(), None);
        }
        done(out);
    }

    fn fail(&mut self, out: &mut BytesMut, error: &ApiError) {
        event(out, &error.body);
        done(out);
    }
}
