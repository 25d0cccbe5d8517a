//! Tokenizer, chat template and incremental detokenizer, shared by engine, gateway and scheduler.
//!
//! [`Text`] is made once per model from its [`TextAssets`](engine_assets::TextAssets) and cloned freely. Because router and engine
//! build it from the same bytes, both get the same token ids from the same request: prompt rendering, down to how a tool call's
//! arguments are read, lives here and nowhere else.
#![forbid(unsafe_code)]

mod chat;
mod detokenizer;
mod error;
mod marker;
mod python;
pub mod reasoning;
pub mod reply;
mod stop;
mod tokenizer;
pub mod tools;

use std::sync::Arc;

use engine_assets::TextAssets;

pub use crate::chat::{ChatRequest, call_arguments, with_effort};
pub use crate::detokenizer::Detokenizer;
pub use crate::error::TextError;
pub use crate::stop::{StopMatcher, StopStep};

pub use crate::tokenizer::{Recall, Surface};

use crate::chat::Templates;
use crate::tokenizer::{Bytes, Encoder, unpanicked};

/// A model's text side. Cloning shares everything.
#[derive(Clone)]
pub struct Text(Arc<Inner>);

struct Inner {
    encoder: Encoder,
    /// What each token stands for, where tokens are byte strings.
    bytes: Option<Bytes>,
    /// One past the largest id.
    vocab_size: usize,
    templates: Templates,
}

impl Text {
    /// Builds the tokenizer and compiles the templates. A template that does not compile is an error of chat requests, not of this.
    pub fn new(assets: &TextAssets) -> Result<Self, TextError> {
        let tokenizer::Built { encoder, bytes, vocab_size } = tokenizer::build(assets)?;
        let templates = Templates::new(assets);
        Ok(Self(Arc::new(Inner { encoder, bytes, vocab_size, templates })))
    }

    /// The token ids of a text. Special tokens written out in it count as special tokens, as in transformers.
    /// `add_special_tokens` adds what the model wants around a whole text, such as bos; a rendered chat brings its own.
    /// What a text shares with earlier ones, such as the turns of a chat, is remembered and not encoded again.
    pub fn encode(&self, text: &str, add_special_tokens: bool) -> Result<Vec<u32>, TextError> {
        self.0.encoder.encode(text, add_special_tokens)
    }

    /// How well remembering does.
    pub fn recall(&self) -> Recall {
        self.0.encoder.recall()
    }

    /// The text of token ids; bytes that are no UTF-8 become U+FFFD. Ids that no token has are skipped, as in transformers.
    pub fn decode(&self, ids: &[u32], skip_special_tokens: bool) -> Result<String, TextError> {
        match &self.0.bytes {
            Some(bytes) => Ok(bytes.decode(ids, skip_special_tokens)),
            None => unpanicked(|| {
                self.0.encoder.tokenizer.decode(ids, skip_special_tokens).map_err(|error| TextError::Tokenizer(error.to_string()))
            }),
        }
    }

    /// Decodes token by token what follows `prompt`. The concatenation of all that it gives is what [`Text::decode`] gives for the whole.
    pub fn detokenizer(&self, prompt: &[u32], skip_special_tokens: bool) -> Detokenizer {
        Detokenizer::new(self.clone(), prompt, skip_special_tokens)
    }

    /// A token as the vocabulary spells it (`Ġhello`), which is not its text. `None`: no token has this id.
    pub fn token_str(&self, id: u32) -> Option<String> {
        self.0.encoder.tokenizer.id_to_token(id)
    }

    /// The id of a token by its spelling in the vocabulary.
    pub fn token_id(&self, token: &str) -> Option<u32> {
        self.0.encoder.tokenizer.token_to_id(token)
    }

    /// Is the token one that `skip_special_tokens` skips?
    pub fn is_special(&self, id: u32) -> bool {
        match &self.0.bytes {
            Some(bytes) => bytes.is_special(id),
            None => {
                self.token_str(id).is_some_and(|token| self.0.encoder.tokenizer.get_added_vocabulary().is_special_token(&token))
            }
        }
    }

    /// The bytes that a token stands for, where tokens are byte strings (byte-level BPE); they need not be UTF-8.
    pub fn token_bytes(&self, id: u32) -> Option<&[u8]> {
        self.0.bytes.as_ref().map(|bytes| bytes.of(id))
    }

    /// What a token is to whoever writes text with tokens, such as a grammar.
    pub fn surface(&self, id: u32) -> Surface {
        tokenizer::surface(self, id)
    }

    /// One past the largest token id of the tokenizer. The model's own vocabulary may be padded beyond it.
    pub fn vocab_size(&self) -> usize {
        self.0.vocab_size
    }

    /// Does the model come with a chat template?
    pub fn has_chat_template(&self) -> bool {
        self.0.templates.has_default()
    }

    /// The prompt of a chat, as transformers' `apply_chat_template` renders it. Encode it without adding special tokens.
    pub fn render_chat(&self, request: &ChatRequest<'_>) -> Result<String, TextError> {
        chat::render(&self.0.templates, request)
    }
}
