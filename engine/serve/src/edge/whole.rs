//! Answers in one body: the text that a stream would have carried, joined.

use axum::response::Response;
use http::StatusCode;
use proto::openai::{CHAT_COMPLETION, ChatChoice, ChatCompletion, Completion, CompletionChoice, Message, TEXT_COMPLETION};

use super::answer::{ApiError, json};
use super::choice::End;
use super::generate::{Generation, Head, Indexed};
use super::plan::{Endpoint, Plan};

/// What became of one choice.
#[derive(Default)]
struct Grown {
    text: String,
    token_ids: Vec<u32>,
    end: Option<End>,
}

pub async fn answer(head: &Head, plan: &Plan, mut generation: Generation, first: Indexed) -> Result<Response, ApiError> {
    let mut grown: Vec<Grown> = generation.choices.iter().map(|_| Grown::default()).collect();
    let mut next = Some(Ok(first));
    while let Some(piece) = next {
        let (index, piece) = piece?;
        let grown = &mut grown[index as usize];
        grown.text.push_str(&piece.text);
        grown.token_ids.extend(piece.token.filter(|_| plan.shape.token_ids));
        grown.end = grown.end.take().or(piece.end);
        next = generation.next().await;
    }
    Ok(render(head, plan, &generation, &grown))
}

fn render(head: &Head, plan: &Plan, generation: &Generation, grown: &[Grown]) -> Response {
    let Head { endpoint, id, created, model } = head;
    let (created, usage) = (*created, generation.usage());
    let ids = |ids| plan.shape.token_ids.then_some(ids);
    let reason = |grown: &Grown| grown.end.as_ref().map(|end| end.finish_reason);
    let kv_transfer_params = grown.iter().find_map(|grown| grown.end.as_ref()?.kv_transfer.as_ref());
    match endpoint {
        Endpoint::Chat => {
            let choices = (0..).zip(grown).map(|(index, grown)| ChatChoice {
                index,
                message: Message::assistant(&grown.text),
                logprobs: (),
                finish_reason: reason(grown),
                stop_reason: grown.end.as_ref().and_then(|end| end.stop_reason.as_ref()),
                token_ids: ids(&grown.token_ids[..]),
            });
            let body = ChatCompletion {
                id,
                object: CHAT_COMPLETION,
                created,
                model,
                choices: choices.collect(),
                service_tier: (),
                system_fingerprint: (),
                usage,
                prompt_logprobs: (),
                prompt_token_ids: generation.choices.first().and_then(|choice| ids(choice.prompt())),
                kv_transfer_params,
            };
            json(StatusCode::OK, &body)
        }
        Endpoint::Completion => {
            let choices = (0..).zip(grown).zip(&generation.choices).map(|((index, grown), choice)| CompletionChoice {
                index,
                text: &grown.text,
                logprobs: (),
                finish_reason: reason(grown),
                stop_reason: grown.end.as_ref().and_then(|end| end.stop_reason.as_ref()),
                token_ids: ids(&grown.token_ids[..]),
                prompt_token_ids: ids(choice.prompt()),
            });
            let choices: Vec<_> = choices.collect();
            let (object, usage) = (TEXT_COMPLETION, Some(usage));
            json(StatusCode::OK, &Completion { id, object, created, model, choices: &choices, usage, kv_transfer_params })
        }
    }
}
