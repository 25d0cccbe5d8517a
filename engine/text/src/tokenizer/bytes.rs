//! What each token of a byte-level vocabulary stands for, as one table: decoding is copying.

use tokenizers::Tokenizer;

/// The bytes of all tokens end to end, where each ends, and which ones are special.
pub(crate) struct Bytes {
    bytes: Vec<u8>,
    /// By id: where its bytes end; they begin where those of the id before end.
    ends: Vec<u32>,
    special: Vec<bool>,
}

impl Bytes {
    /// Tabulates a vocabulary of ids below `vocab_size`.
    pub fn new(tokenizer: &Tokenizer, vocab_size: usize) -> Self {
        let added = tokenizer.get_added_vocabulary();
        let mut table = Self {
            bytes: Vec::with_capacity(vocab_size * 8),
            ends: Vec::with_capacity(vocab_size),
            special: Vec::with_capacity(vocab_size),
        };
        for id in 0..vocab_size as u32 {
            let token = tokenizer.id_to_token(id);
            table.special.push(token.as_deref().is_some_and(|token| added.is_special_token(token)));
            table.push_token(token.as_deref().unwrap_or_default());
            table.ends.push(table.bytes.len() as u32);
        }
        table
    }

    fn push_token(&mut self, token: &str) {
        let start = self.bytes.len();
        for c in token.chars() {
            let Some(byte) = byte_of(c) else {
                // An added token that is written as it reads, not in the byte alphabet.
                self.bytes.truncate(start);
                self.bytes.extend(token.as_bytes());
                return;
            };
            self.bytes.push(byte);
        }
    }

    /// The bytes of a token; of an id that no token has, none.
    pub fn of(&self, id: u32) -> &[u8] {
        let id = id as usize;
        let Some(&end) = self.ends.get(id) else { return &[] };
        let start = if id == 0 { 0 } else { self.ends[id - 1] };
        &self.bytes[start as usize..end as usize]
    }

    pub fn is_special(&self, id: u32) -> bool {
        self.special.get(id as usize).copied().unwrap_or(false)
    }

    /// The bytes of a token, none if it is skipped.
    pub fn visible(&self, id: u32, skip_special: bool) -> &[u8] {
        if skip_special && self.is_special(id) { &[] } else { self.of(id) }
    }

    pub fn decode(&self, ids: &[u32], skip_special: bool) -> String {
        let mut bytes = Vec::with_capacity(ids.len() * 4);
        ids.iter().for_each(|id| bytes.extend(self.visible(*id, skip_special)));
        match String::from_utf8(bytes) {
            Ok(text) => text,
            Err(error) => String::from_utf8_lossy(error.as_bytes()).into_owned(),
        }
    }
}

/// Appends `bytes` to `text`, with U+FFFD for what is no UTF-8, and returns how many bytes at the end are the beginning of a
/// character that may still become whole. Fed piece by piece, with those bytes put before the next piece, it writes what
/// [`String::from_utf8_lossy`] would write for all pieces at once.
pub(crate) fn push_lossy(text: &mut String, mut bytes: &[u8]) -> usize {
    loop {
        match std::str::from_utf8(bytes) {
            Ok(valid) => {
                text.push_str(valid);
                return 0;
            }
            Err(error) => {
                let (valid, rest) = bytes.split_at(error.valid_up_to());
                text.push_str(std::str::from_utf8(valid).unwrap_or_default());
                let Some(broken) = error.error_len() else { return rest.len() };
                text.push(char::REPLACEMENT_CHARACTER);
                bytes = &rest[broken..];
            }
        }
    }
}

/// The byte that a character of GPT-2's byte alphabet stands for: printable Latin-1 characters stand for themselves, the other 68
/// bytes, in order, are the characters from U+0100.
fn byte_of(c: char) -> Option<u8> {
    const fn is_printable(byte: u8) -> bool {
        matches!(byte, b'!'..=b'~' | 0xA1..=0xAC | 0xAE..=0xFF)
    }
    const SHIFTED: [u8; 68] = {
        let mut shifted = [0; 68];
        let (mut byte, mut n) = (0u8, 0);
        loop {
            if !is_printable(byte) {
                shifted[n] = byte;
                n += 1;
            }
            if byte == u8::MAX {
                break;
            }
            byte += 1;
        }
        assert!(n == 68, "188 of 256 bytes are printable");
        shifted
    };
    match u32::from(c) {
        code @ 0..=0xFF => Some(code as u8).filter(|byte| is_printable(*byte)),
        code => SHIFTED.get((code - 0x100) as usize).copied(),
    }
}
