//! The engine's log probabilities in the words of each endpoint.

use std::collections::BTreeMap;

use engine::request::Logprobs;
use engine_text::Text;
use proto::openai::{ChatLogprob, ChatLogprobs, CompletionLogprobs, PromptLogprob, PromptLogprobs, TopLogprob};
use serde_json::{Map, Value};

use super::plan::{LogprobShape, Shown};

/// What JSON has instead of a probability of zero; OpenAI's and vLLM's choice.
const LOGPROB_MIN: f32 = -9999.0;

/// A generated token with what was told of it.
pub type Told = (u32, Logprobs);

/// Spells tokens and their log probabilities.
#[derive(Clone, Copy)]
pub struct Speller<'a> {
    pub text: &'a Text,
    pub shape: LogprobShape,
}

impl Speller<'_> {
    /// A token by itself. One that is a part of a character reads as U+FFFD.
    fn token(&self, id: u32) -> String {
        match self.shape.as_ids {
            true => format!("token_id:{id}"),
            false => self.text.decode(&[id], false).unwrap_or_default(),
        }
    }

    /// The bytes that the token adds to the text, whole characters or not.
    fn bytes(&self, id: u32, token: &str) -> Vec<u8> {
        match self.text.token_bytes(id) {
            Some(bytes) if !bytes.is_empty() && !self.shape.as_ids => bytes.to_vec(),
            _ => token.as_bytes().to_vec(),
        }
    }

    pub fn chat(&self, told: &[Told], shown: Shown) -> ChatLogprobs {
        let one = |(token, logprobs): &Told| {
            let spelled = self.token(*token);
            let top = candidates(logprobs).take(shown.max()).map(|(id, logprob)| {
                let token = self.token(id);
                TopLogprob { bytes: Some(self.bytes(id, &token)), token, logprob: finite(logprob) }
            });
            ChatLogprob {
                bytes: Some(self.bytes(*token, &spelled)),
                token: spelled,
                logprob: own(logprobs),
                top_logprobs: top.collect(),
            }
        };
        ChatLogprobs { content: told.iter().map(one).collect() }
    }

    /// `None`: nothing was told of the token, which is a prompt's first. `offset` counts the characters of the choice's tokens so far.
    pub fn completion<'b>(
        &self,
        told: impl Iterator<Item = (u32, Option<&'b Logprobs>)>,
        shown: Shown,
        offset: &mut usize,
    ) -> CompletionLogprobs {
        let mut out = CompletionLogprobs::default();
        for (token, logprobs) in told {
            let spelled = self.token(token);
            out.text_offset.push(*offset);
            *offset += spelled.chars().count();
            out.token_logprobs.push(logprobs.map(own));
            let top = |logprobs| -> Map<String, Value> {
                candidates(logprobs).take(shown.max()).map(|(id, logprob)| (self.token(id), finite(logprob).into())).collect()
            };
            out.top_logprobs.push(logprobs.map(top));
            out.tokens.push(spelled);
        }
        out
    }

    /// vLLM's own form, for all tokens of a prompt but the first.
    pub fn prompt(&self, told: &[Logprobs]) -> PromptLogprobs {
        let one = |logprobs: &Logprobs| {
            let entry = |rank: u32, id: u32, logprob: f32| {
                let decoded_token = Some(self.text.decode(&[id], false).unwrap_or_default());
                (id, PromptLogprob { logprob: finite(logprob), rank: Some(rank), decoded_token })
            };
            let others = logprobs.tokens.iter().skip(1);
            let mut entries: BTreeMap<_, _> = (1..).zip(others).map(|(rank, (id, logprob))| entry(rank, *id, *logprob)).collect();
            entries.extend(logprobs.tokens.first().map(|(id, logprob)| entry(logprobs.rank, *id, *logprob)));
            Some(entries)
        };
        std::iter::once(None).chain(told.iter().map(one)).collect()
    }
}

/// The token itself, then the others, each once.
fn candidates(logprobs: &Logprobs) -> impl Iterator<Item = (u32, f32)> {
    let own = logprobs.tokens.first().map(|(token, _)| *token);
    let others = logprobs.tokens.iter().skip(1).filter(move |(token, _)| Some(*token) != own);
    logprobs.tokens.iter().take(1).chain(others).copied()
}

fn own(logprobs: &Logprobs) -> f32 {
    finite(logprobs.tokens.first().map_or(LOGPROB_MIN, |(_, logprob)| *logprob))
}

fn finite(logprob: f32) -> f32 {
    if logprob.is_nan() { LOGPROB_MIN } else { logprob.max(LOGPROB_MIN) }
}
