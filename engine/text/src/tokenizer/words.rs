//! ASCII text to ids of byte-level BPE with GPT-2's splitting, word by word from memory.
//!
//! BPE turns each word of the splitting into tokens by itself, whatever stands around it, and prompts are made of the same words. The
//! tokenizers library spends most of its time on splitting (an expression with look-ahead) and on copies; here a scan finds the words and
//! a table their ids. A word that is not in the table goes through the library's model. Text beyond ASCII is left to the library as a
//! whole: what is a letter there is its tables' business. A property test holds both to the same ids.

use std::collections::HashMap;
use std::sync::{PoisonError, RwLock};

use aho_corasick::{AhoCorasick, MatchKind};
use tokenizers::{Model, Tokenizer};

use crate::error::TextError;

/// Most words that are remembered; English has about as many in use.
const WORDS_MAX: usize = 1 << 16;
/// Longest word that is remembered: longer ones are seldom seen twice.
const WORD_BYTES_MAX: usize = 64;

pub(crate) struct Words {
    /// Tokens that are found in text as they stand: the leftmost, of those the longest.
    added: AhoCorasick,
    added_ids: Vec<u32>,
    /// Whether each digit is split off before GPT-2's expression sees the text.
    single_digits: bool,
    known: RwLock<HashMap<Box<str>, Box<[u32]>>>,
}

impl Words {
    /// `None` where the added tokens make no search: then the library does all.
    pub fn new(added: impl Iterator<Item = (String, u32)>, single_digits: bool) -> Option<Self> {
        let (texts, added_ids): (Vec<String>, Vec<u32>) = added.unzip();
        let added = AhoCorasick::builder().match_kind(MatchKind::LeftmostLongest).build(texts).ok()?;
        Some(Self { added, added_ids, single_digits, known: RwLock::default() })
    }

    /// The ids of `text`, which must be ASCII. `tokenizer` is the one that this was made for.
    pub fn encode(&self, tokenizer: &Tokenizer, text: &str) -> Result<Vec<u32>, TextError> {
        debug_assert!(text.is_ascii());
        let mut ids = Vec::with_capacity(text.len() / 3);
        let mut from = 0;
        for token in self.added.find_iter(text) {
            self.stretch(tokenizer, &text[from..token.start()], &mut ids)?;
            ids.push(self.added_ids[token.pattern()]);
            from = token.end();
        }
        self.stretch(tokenizer, &text[from..], &mut ids)?;
        Ok(ids)
    }

    /// Text between added tokens.
    fn stretch(&self, tokenizer: &Tokenizer, text: &str, ids: &mut Vec<u32>) -> Result<(), TextError> {
        let mut rest = text;
        while !rest.is_empty() {
            let whole = if self.single_digits {
                let digit = rest.bytes().position(|byte| byte.is_ascii_digit());
                digit.map_or(rest.len(), |at| at.max(1))
            } else {
                rest.len()
            };
            let (mut part, behind) = rest.split_at(whole);
            while !part.is_empty() {
                let (word, more) = part.split_at(word_len(part.as_bytes()));
                self.word(tokenizer, word, ids)?;
                part = more;
            }
            rest = behind;
        }
        Ok(())
    }

    fn word(&self, tokenizer: &Tokenizer, word: &str, ids: &mut Vec<u32>) -> Result<(), TextError> {
        if let Some(known) = self.known.read().unwrap_or_else(PoisonError::into_inner).get(word) {
            ids.extend_from_slice(known);
            return Ok(());
        }
        let spelled: String = word.bytes().map(spelling).collect();
        let tokens = tokenizer.get_model().tokenize(&spelled).map_err(|error| TextError::Tokenizer(error.to_string()))?;
        let found: Box<[u32]> = tokens.iter().map(|token| token.id).collect();
        ids.extend_from_slice(&found);
        if word.len() <= WORD_BYTES_MAX {
            let mut known = self.known.write().unwrap_or_else(PoisonError::into_inner);
            if known.len() < WORDS_MAX {
                known.insert(word.into(), found);
            }
        }
        Ok(())
    }
}

/// How byte-level vocabularies spell an ASCII byte: itself where it can be seen, else one of the letters from U+0100 on.
fn spelling(byte: u8) -> char {
    match byte {
        b'!'..=b'~' => char::from(byte),
        0..=b' ' => char::from_u32(0x100 + u32::from(byte)).unwrap_or_default(),
        _ => '\u{121}',
    }
}

/// Length of the first match of `'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+` in ASCII text that is not
/// empty; GPT-2's expression, and it matches everywhere.
fn word_len(text: &[u8]) -> usize {
    const CONTRACTIONS: [&[u8]; 7] = [b"'s", b"'t", b"'re", b"'ve", b"'m", b"'ll", b"'d"];
    if let Some(contraction) = CONTRACTIONS.into_iter().find(|contraction| text.starts_with(contraction)) {
        return contraction.len();
    }
    let start = usize::from(text[0] == b' ');
    let class = text.get(start).map_or(Class::Space, |byte| Class::of(*byte));
    if class != Class::Space {
        return run(text, start, class);
    }
    let spaces = run(text, 0, Class::Space);
    // The last space before a word belongs to the word.
    if spaces == text.len() || spaces == 1 { spaces } else { spaces - 1 }
}

/// Where the run of `class` that goes on at `start` ends.
fn run(text: &[u8], start: usize, class: Class) -> usize {
    text[start..].iter().position(|byte| Class::of(*byte) != class).map_or(text.len(), |length| start + length)
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Class {
    Letter,
    Digit,
    Space,
    Other,
}

impl Class {
    fn of(byte: u8) -> Self {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' => Self::Letter,
            b'0'..=b'9' => Self::Digit,
            // What Unicode calls white space, of ASCII: the vertical tab too.
            b'\t'..=b'\r' | b' ' => Self::Space,
            _ => Self::Other,
        }
    }
}
