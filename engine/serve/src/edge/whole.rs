//! Answers in one body: what a stream would have carried, joined.

use engine_text::reply::Delta;
use proto::openai::ToolCall;

use super::answer::ApiError;
use super::choice::{End, Piece};
use super::generation::{Generation, Indexed};
use super::logprobs::Told;

/// What became of one choice.
#[derive(Default)]
pub struct Grown {
    pub text: String,
    pub reasoning: String,
    pub calls: Vec<ToolCall>,
    pub token_ids: Vec<u32>,
    pub logprobs: Vec<Told>,
    pub end: Option<End>,
}

impl Grown {
    /// Appends a piece.
    pub fn add(&mut self, piece: Piece) {
        self.text.push_str(&piece.text);
        self.reasoning.push_str(&piece.reasoning);
        for delta in piece.calls {
            match (delta, self.calls.last_mut()) {
                (Delta::Call { name, .. }, _) => self.calls.push(ToolCall::new(String::new(), name, String::new())),
                (Delta::Arguments { fragment, .. }, Some(call)) => call.function.arguments.push_str(&fragment),
                _ => {}
            }
        }
        self.token_ids.extend(piece.tokens);
        self.logprobs.extend(piece.logprobs);
        self.end = self.end.take().or(piece.end);
    }

    pub fn finish_reason(&self) -> Option<&'static str> {
        self.end.as_ref().map(|end| end.finish_reason)
    }

    pub fn stop_reason(&self) -> Option<&serde_json::Value> {
        self.end.as_ref()?.stop_reason.as_ref()
    }

    pub fn kv_transfer(&self) -> Option<&serde_json::Value> {
        self.end.as_ref()?.kv_transfer.as_ref()
    }
}

/// Waits for the end of every choice.
pub async fn gather(generation: &mut Generation, first: Indexed) -> Result<Vec<Grown>, ApiError> {
    let mut grown: Vec<Grown> = generation.choices.iter().map(|_| Grown::default()).collect();
    let mut next = Some(Ok(first));
    while let Some(piece) = next {
        let (index, piece) = piece?;
        grown[index as usize].add(piece);
        next = generation.next().await;
    }
    Ok(grown)
}
