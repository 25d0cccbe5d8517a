//! What turns text into tokens and back: tokenizer, special tokens, chat template, and the form in which a node uploads them.

mod wire;

use std::fmt;

use sha2::{Digest as _, Sha256};

use crate::error::AssetsError;

/// The largest upload of text assets.
pub const MAX_UPLOAD_BYTES: usize = 64 << 20;
/// The largest chat template.
pub(crate) const MAX_TEMPLATE_BYTES: usize = 1 << 20;
/// Most tokens of a vocabulary, and most merges.
pub(crate) const MAX_TOKENS: usize = 1 << 21;

/// Tokenizer, special tokens and templates of a model: all that a router needs to count and hash its prompts.
#[derive(Debug, Clone, PartialEq)]
pub struct TextAssets {
    pub tokenizer: TokenizerSource,
    /// Jinja source of the chat template, if the model has one.
    pub chat_template: Option<String>,
    /// The template to take when a request has tools, if the model has a separate one.
    pub tool_template: Option<String>,
    /// Variables of the templates where a request does not set them: a JSON object.
    pub template_kwargs: Option<String>,
    /// Whether templates see `content` as a list of parts. `None`: each as it reads.
    pub content_parts: Option<bool>,
    pub bos: Option<SpecialToken>,
    pub eos: Option<SpecialToken>,
    pub pad: Option<SpecialToken>,
    pub unk: Option<SpecialToken>,
    /// Whether encoding with special tokens begins with bos. `None`: the tokenizer's own post-processor decides.
    pub add_bos: Option<bool>,
    /// Whether encoding with special tokens ends with eos. `None`: the tokenizer's own post-processor decides.
    pub add_eos: Option<bool>,
}

/// A token with a role.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SpecialToken {
    pub text: String,
    /// Where the files say it outright; the tokenizer knows it by its text in any case.
    pub id: Option<u32>,
}

/// Where the tokenizer comes from.
#[derive(Debug, Clone, PartialEq)]
pub enum TokenizerSource {
    /// The bytes of `tokenizer.json`.
    HuggingFace(Vec<u8>),
    /// The tokenizer of a GGUF's metadata.
    Gguf(GgufTokenizer),
}

/// `tokenizer.ggml.*`.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct GgufTokenizer {
    /// `tokenizer.ggml.model`: `gpt2` (byte-level BPE) or `llama` (SentencePiece BPE).
    pub model: String,
    /// `tokenizer.ggml.pre`: which splitting comes before BPE.
    pub pre: Option<String>,
    /// By id.
    pub tokens: Vec<String>,
    /// By id; empty or as long as `tokens`.
    pub kinds: Vec<TokenKind>,
    /// By id; empty or as long as `tokens`.
    pub scores: Vec<f32>,
    /// `left right`, most important first.
    pub merges: Vec<String>,
    /// SentencePiece: does a leading space come before the text?
    pub add_space_prefix: Option<bool>,
}

/// `tokenizer.ggml.token_type`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum TokenKind {
    Normal = 1,
    Unknown = 2,
    Control = 3,
    UserDefined = 4,
    Unused = 5,
    Byte = 6,
}

impl TokenKind {
    pub(crate) fn from_number(number: u64) -> Option<Self> {
        Some(match number {
            1 => Self::Normal,
            2 => Self::Unknown,
            3 => Self::Control,
            4 => Self::UserDefined,
            5 => Self::Unused,
            6 => Self::Byte,
            _ => return None,
        })
    }
}

/// SHA-256 over the canonical serialisation of text assets: equal digests mean equal tokenisation.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Digest(pub [u8; 32]);

impl Digest {
    /// The digest of a canonical serialisation ([`TextAssets::to_bytes`]).
    pub fn of(bytes: &[u8]) -> Self {
        Self(Sha256::digest(bytes).into())
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Digest({self})")
    }
}

impl TextAssets {
    /// Tokens that the vocabulary lists; 0 where only the tokenizer itself can tell.
    pub(crate) fn vocabulary_len(&self) -> usize {
        match &self.tokenizer {
            TokenizerSource::Gguf(tokenizer) => tokenizer.tokens.len(),
            TokenizerSource::HuggingFace(_) => 0,
        }
    }

    /// Identity of tokenizer and template: SHA-256 of [`TextAssets::to_bytes`].
    pub fn digest(&self) -> Digest {
        Digest::of(&self.to_bytes())
    }

    /// The upload form: canonical (equal assets, equal bytes).
    pub fn to_bytes(&self) -> Vec<u8> {
        wire::write(self)
    }

    /// Reads the upload form. The bytes may come from anybody: lengths are checked before anything is allocated, and bytes that
    /// [`TextAssets::to_bytes`] would not have written are refused.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, AssetsError> {
        wire::read(bytes)
    }
}
