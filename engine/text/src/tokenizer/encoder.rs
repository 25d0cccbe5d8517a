//! Text to ids: by the tokenizers library, by faster ways that give the same, and from memory.

use tokenizers::Tokenizer;

use super::borders::{Borders, PIECE_BYTES};
use super::remembered::{Recall, Remembered};
use super::words::Words;
use super::{Special, unpanicked};
use crate::error::TextError;

pub(crate) struct Encoder {
    pub tokenizer: Tokenizer,
    /// The same for ASCII, faster, where there is such a way.
    words: Option<Words>,
    /// What `add_special_tokens` puts around a text. `None`: the library does something else than that.
    special: Option<Special>,
    /// Where there are no certain borders, texts are encoded whole.
    borders: Option<Borders>,
    remembered: Remembered,
}

impl Encoder {
    /// `special`: what goes around a text, where the library's post-processor does not put it.
    pub fn new(tokenizer: Tokenizer, words: Option<Words>, special: Option<Special>) -> Self {
        let borders = Borders::new(&tokenizer, PIECE_BYTES);
        Self::cutting(tokenizer, words, special, borders, Remembered::new())
    }

    fn cutting(
        tokenizer: Tokenizer,
        words: Option<Words>,
        special: Option<Special>,
        borders: Option<Borders>,
        remembered: Remembered,
    ) -> Self {
        let special = special.or_else(|| Special::of_post_processor(&tokenizer));
        Self { tokenizer, words, special, borders, remembered }
    }

    pub fn encode(&self, text: &str, add_special_tokens: bool) -> Result<Vec<u32>, TextError> {
        let Some(special) = &self.special else {
            return if add_special_tokens { self.by_library(text, true) } else { self.plain(text) };
        };
        let ids = self.plain(text)?;
        Ok(if add_special_tokens { special.around(ids) } else { ids })
    }

    fn plain(&self, text: &str) -> Result<Vec<u32>, TextError> {
        let pieces = self.borders.as_ref().map(|borders| borders.cut(text)).unwrap_or_default();
        if pieces.len() < 2 { self.piece(text) } else { self.remembered.ids(&pieces, |piece| self.piece(piece)) }
    }

    fn piece(&self, text: &str) -> Result<Vec<u32>, TextError> {
        match &self.words {
            Some(words) if text.is_ascii() => unpanicked(|| words.encode(&self.tokenizer, text)),
            _ => self.by_library(text, false),
        }
    }

    /// The library's own way, of the whole text; what all others must agree with.
    pub fn by_library(&self, text: &str, add_special_tokens: bool) -> Result<Vec<u32>, TextError> {
        unpanicked(|| {
            let encoding = self.tokenizer.encode_fast(text, add_special_tokens);
            Ok(encoding.map_err(|error| TextError::Tokenizer(error.to_string()))?.get_ids().to_vec())
        })
    }

    pub fn recall(&self) -> Recall {
        self.remembered.recall()
    }
}

#[cfg(test)]
mod tests;
