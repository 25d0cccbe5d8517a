//! Tokens to text, one at a time: what has been given is never taken back, and never ends inside a character.

use std::collections::VecDeque;

use crate::Text;
use crate::tokenizer::push_lossy;

/// The longest character has four bytes, so three wait at most.
const MAX_PENDING_BYTES: usize = 3;
/// How many tokens of the prompt say how the first output token reads (vLLM 0.33 takes as many).
const PROMPT_TOKENS: usize = 5;
/// Where tokens are not byte strings: a character takes four byte tokens at most, so more that do not make one are no character.
const MAX_HELD_TOKENS: usize = 8;

/// Decodes a growing sequence. See [`Text::detokenizer`].
pub struct Detokenizer {
    text: Text,
    skip_special: bool,
    state: State,
    /// What the last push gave; kept so that pushing does not allocate.
    out: String,
}

enum State {
    /// Tokens are byte strings: only the beginning of a character has to wait.
    Bytes { pending: Vec<u8> },
    /// How a token reads depends on its neighbours: the tail is decoded again and compared.
    Whole { ids: VecDeque<u32>, given: usize },
}

impl Detokenizer {
    pub(crate) fn new(text: Text, prompt: &[u32], skip_special: bool) -> Self {
        let mut out = String::new();
        let state = match &text.0.bytes {
            Some(bytes) => {
                // Walk back until a whole character's worth of bytes is there, then keep what of it is unfinished.
                let mut enough = 0;
                let start = prompt.iter().rposition(|id| {
                    enough += bytes.visible(*id, skip_special).len();
                    enough > MAX_PENDING_BYTES
                });
                let tail: Vec<u8> =
                    prompt[start.unwrap_or(0)..].iter().flat_map(|id| bytes.visible(*id, skip_special)).copied().collect();
                let unfinished = push_lossy(&mut out, &tail);
                out.clear();
                State::Bytes { pending: tail[tail.len() - unfinished..].to_vec() }
            }
            None => {
                let ids: VecDeque<u32> = prompt[prompt.len().saturating_sub(PROMPT_TOKENS)..].iter().copied().collect();
                State::Whole { given: ids.len(), ids }
            }
        };
        Self { text, skip_special, state, out }
    }

    /// Takes the next token and gives the text that is certain now: often its own, sometimes nothing, sometimes with what waited.
    pub fn push(&mut self, token: u32) -> &str {
        self.out.clear();
        match &mut self.state {
            State::Bytes { pending } => {
                let bytes = self.text.0.bytes.as_ref().map_or(&[][..], |bytes| bytes.visible(token, self.skip_special));
                if pending.is_empty() {
                    let unfinished = push_lossy(&mut self.out, bytes);
                    pending.extend_from_slice(&bytes[bytes.len() - unfinished..]);
                } else {
                    pending.extend_from_slice(bytes);
                    let unfinished = push_lossy(&mut self.out, pending);
                    pending.drain(..pending.len() - unfinished);
                }
            }
            State::Whole { ids, given } => {
                ids.push_back(token);
                settle(&self.text, self.skip_special, ids, given, &mut self.out, false);
            }
        }
        &self.out
    }

    /// Ends the sequence and gives what still waited: an unfinished character becomes U+FFFD.
    pub fn finish(&mut self) -> &str {
        self.out.clear();
        match &mut self.state {
            State::Bytes { pending } => {
                if !pending.is_empty() {
                    self.out.push(char::REPLACEMENT_CHARACTER);
                    pending.clear();
                }
            }
            State::Whole { ids, given } => settle(&self.text, self.skip_special, ids, given, &mut self.out, true),
        }
        &self.out
    }
}

/// Decodes the tail with and without the tokens that wait; the difference is new text, unless it ends inside a character.
fn settle(text: &Text, skip_special: bool, ids: &mut VecDeque<u32>, given: &mut usize, out: &mut String, finish: bool) {
    let tail: &[u32] = ids.make_contiguous();
    let decode = |ids: &[u32]| text.decode(ids, skip_special).unwrap_or_default();
    let (before, now) = (decode(&tail[..*given]), decode(tail));
    let waits = now.ends_with(char::REPLACEMENT_CHARACTER) && tail.len() - *given < MAX_HELD_TOKENS;
    if !finish && (waits || now.len() <= before.len()) {
        return;
    }
    match now.strip_prefix(before.as_str()) {
        Some(new) => out.push_str(new),
        // A run of bytes that turned out to be no text reads differently as a whole. What was given stays; the rest is read alone.
        None => out.push_str(&decode(&tail[*given..])),
    }
    // What was given last is the context of what comes next.
    ids.drain(..*given);
    *given = ids.len();
}
