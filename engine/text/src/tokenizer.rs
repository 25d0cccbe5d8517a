//! A tokenizer out of text assets: `tokenizer.json` as it is, or the one that a GGUF's metadata describes.

mod borders;
mod bytes;
mod encoder;
mod gguf;
mod remembered;
mod splits;
mod surface;
mod words;

use std::panic::{AssertUnwindSafe, catch_unwind};

use engine_assets::{SpecialToken, TextAssets, TokenizerSource};
use tokenizers::{DecoderWrapper, Tokenizer};

pub(crate) use self::bytes::{Bytes, push_lossy};
pub(crate) use self::encoder::Encoder;
pub use self::remembered::Recall;
pub use self::surface::Surface;
pub(crate) use self::surface::surface;
use crate::error::TextError;

/// Most tokens of a vocabulary. Ids are indices of tables, so a tokenizer with one token of id 4 billion must not make one.
const MAX_VOCAB: usize = 1 << 22;

/// What there is of a tokenizer once it is built.
pub(crate) struct Built {
    pub encoder: Encoder,
    pub bytes: Option<Bytes>,
    pub vocab_size: usize,
}

/// Ids around a whole text.
#[derive(Debug, Clone, Default)]
pub(crate) struct Special {
    first: Vec<u32>,
    last: Vec<u32>,
}

impl Special {
    /// What a tokenizer's post-processor puts around any text, found out by two. `None`: it does something else, such as a second text.
    fn of_post_processor(tokenizer: &Tokenizer) -> Option<Self> {
        if tokenizer.get_post_processor().is_none() {
            return Some(Self::default());
        }
        let ids = |text: &str, special| Some(tokenizer.encode_fast(text, special).ok()?.get_ids().to_vec());
        let around = |text: &str| {
            let (bare, whole) = (ids(text, false)?, ids(text, true)?);
            let at = (0..=whole.len().checked_sub(bare.len())?).find(|at| whole[*at..].starts_with(&bare))?;
            Some((whole[..at].to_vec(), whole[at + bare.len()..].to_vec()))
        };
        let (first, last) = around("a")?;
        (around("The 2nd text.")? == (first.clone(), last.clone())).then_some(Self { first, last })
    }

    fn around(&self, mut ids: Vec<u32>) -> Vec<u32> {
        ids.splice(..0, self.first.iter().copied());
        ids.extend(&self.last);
        ids
    }
}

pub(crate) fn build(assets: &TextAssets) -> Result<Built, TextError> {
    unpanicked(|| build_trusting(assets))
}

fn build_trusting(assets: &TextAssets) -> Result<Built, TextError> {
    let (mut tokenizer, words, special) = match &assets.tokenizer {
        // The post-processor in the file adds what is to be added.
        TokenizerSource::HuggingFace(json) => {
            (Tokenizer::from_bytes(json).map_err(|error| TextError::Tokenizer(format!("tokenizer.json: {error}")))?, None, None)
        }
        TokenizerSource::Gguf(gguf) => {
            let built = gguf::build(gguf, assets)?;
            let id = |wanted: bool, role: &str, token: &Option<SpecialToken>| match (wanted, token) {
                (false, _) => Ok(None),
                (true, Some(token)) => Ok(token.id),
                (true, None) => Err(TextError::Tokenizer(format!("it is to add a {role} token and names none"))),
            };
            let first = id(built.add_bos, "bos", &assets.bos)?.into_iter().collect();
            let last = id(built.add_eos, "eos", &assets.eos)?.into_iter().collect();
            (built.tokenizer, built.words, Some(Special { first, last }))
        }
    };
    // Files may ask for truncation and padding, which transformers applies only when the caller asks, too.
    tokenizer.with_padding(None);
    tokenizer.with_truncation(None).map_err(|error| TextError::Tokenizer(error.to_string()))?;
    let vocab_size = vocab_size(&tokenizer)?;
    let bytes = matches!(tokenizer.get_decoder(), Some(DecoderWrapper::ByteLevel(_))).then(|| Bytes::new(&tokenizer, vocab_size));
    Ok(Built { encoder: Encoder::new(tokenizer, words, special), bytes, vocab_size })
}

/// Calls the tokenizers library, which panics on some malformed files (0.23: a decoder of a type that does not exist), and may on
/// what it made of others. A stranger's file must end neither this process nor anybody else's request.
pub(crate) fn unpanicked<T>(call: impl FnOnce() -> Result<T, TextError>) -> Result<T, TextError> {
    catch_unwind(AssertUnwindSafe(call))
        .unwrap_or_else(|_| Err(TextError::Tokenizer("the tokenizers library panicked".to_owned())))
}

fn vocab_size(tokenizer: &Tokenizer) -> Result<usize, TextError> {
    // Most vocabularies have no gaps, and then the number of tokens is the answer, without a copy of the vocabulary.
    let count = tokenizer.get_vocab_size(true);
    let dense = count > 0 && tokenizer.id_to_token(count as u32 - 1).is_some() && tokenizer.id_to_token(count as u32).is_none();
    let size = if dense { count } else { tokenizer.get_vocab(true).values().max().map_or(0, |largest| *largest as usize + 1) };
    match size {
        0 => Err(TextError::Tokenizer("it has no tokens".to_owned())),
        size if size > MAX_VOCAB => {
            Err(TextError::Tokenizer(format!("its largest token id is {}; at most {MAX_VOCAB} are supported", size - 1)))
        }
        size => Ok(size),
    }
}
