//! What each token stands for, of every kind of vocabulary: byte-level ones, and those with `▁` for a space and tokens for single bytes.

use crate::Text;

/// What a token is to whoever writes text with tokens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Surface {
    /// These bytes; they need not be UTF-8.
    Text(Vec<u8>),
    /// No text, but a mark of this spelling, such as the end of a turn.
    Special(String),
    /// No token has this id.
    None,
}

pub(crate) fn surface(text: &Text, id: u32) -> Surface {
    let Some(token) = text.token_str(id) else { return Surface::None };
    if text.is_special(id) {
        return Surface::Special(token);
    }
    match text.token_bytes(id) {
        Some(bytes) => Surface::Text(bytes.to_vec()),
        None => Surface::Text(byte_token(&token).map_or_else(|| token.replace('▁', " ").into_bytes(), |byte| vec![byte])),
    }
}

/// The byte of `<0x0A>`.
fn byte_token(token: &str) -> Option<u8> {
    let digits = token.strip_prefix("<0x")?.strip_suffix('>')?;
    (digits.len() == 2).then(|| u8::from_str_radix(digits, 16).ok()).flatten()
}
