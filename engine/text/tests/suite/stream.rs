//! Streamed text is the text: for any tokens, pushed one by one, for byte-level and SentencePiece vocabularies.

use std::sync::LazyLock;

use engine_text::{Detokenizer, Text};
use proptest::prelude::*;

use crate::golden::{model, sentence_piece, text};

static BYTE_LEVEL: LazyLock<Text> = LazyLock::new(|| text(&model("llama")));
static SENTENCE_PIECE: LazyLock<Text> = LazyLock::new(sentence_piece);

fn stream(mut detokenizer: Detokenizer, ids: &[u32]) -> String {
    let mut out: String = ids.iter().map(|id| detokenizer.push(*id).to_owned()).collect();
    out.push_str(detokenizer.finish());
    out
}

/// The ids of bytes in the byte-level vocabulary of the tiny model.
fn byte_ids(text: &Text, bytes: &[u8]) -> Vec<u32> {
    let id =
        |byte: u8| (0..text.vocab_size() as u32).find(|id| text.token_bytes(*id) == Some(&[byte])).expect("all bytes are tokens");
    bytes.iter().map(|byte| id(*byte)).collect()
}

#[test]
fn a_character_comes_whole() {
    let text = text(&model("llama"));
    let mut detokenizer = text.detokenizer(&[], true);
    let ids = byte_ids(&text, "é🚂x".as_bytes());
    let pieces: Vec<String> = ids.iter().map(|id| detokenizer.push(*id).to_owned()).collect();
    assert_eq!(pieces, ["", "é", "", "", "", "🚂", "x"]);
}

#[test]
fn bytes_that_are_no_text() {
    let text = text(&model("llama"));
    for bytes in
        [&b"a\xFFb"[..], b"\xE4\xB8", b"\xF0\x9F\x9A", b"\xE4a", b"\x80\x80", b"\xF0\x9F\xFF\xE4\xB8\xAD\xC3", b"\xC3\xA9\xC3"]
    {
        let ids = byte_ids(&text, bytes);
        assert_eq!(stream(text.detokenizer(&[], true), &ids), String::from_utf8_lossy(bytes), "{bytes:?}");
        assert_eq!(text.decode(&ids, true).unwrap(), String::from_utf8_lossy(bytes), "{bytes:?}");
    }
}

/// A prompt of token ids can end inside a character: its other half, the first output, brings the whole of it.
#[test]
fn a_prompt_that_ends_inside_a_character() {
    let text = text(&model("llama"));
    let (prompt, output) = (byte_ids(&text, b"abc\xF0\x9F"), byte_ids(&text, b"\x9A\x82!"));
    assert_eq!(stream(text.detokenizer(&prompt, true), &output), "🚂!");
    assert_eq!(stream(text.detokenizer(&byte_ids(&text, b"\xE4\xB8\xAD"), true), &byte_ids(&text, b"x")), "x");
}

#[test]
fn special_tokens_are_skipped_or_shown() {
    let text = text(&model("llama"));
    let ids = text.encode("a<|im_end|>b", false).unwrap();
    assert_eq!(ids.len(), 3, "a special token in a text is one token");
    assert_eq!(stream(text.detokenizer(&[], true), &ids), "ab");
    assert_eq!(stream(text.detokenizer(&[], false), &ids), "a<|im_end|>b");
    assert!(text.is_special(ids[1]) && !text.is_special(ids[0]));
}

#[test]
fn sentence_piece_round_trips() {
    for input in ["the signals", "stands 中 é1", "  the", "🚂", "a\nb"] {
        let ids = SENTENCE_PIECE.encode(input, true).unwrap();
        assert_eq!(ids[0], 1, "bos comes first");
        assert_eq!(SENTENCE_PIECE.decode(&ids, true).unwrap(), input, "{ids:?}");
        assert_eq!(stream(SENTENCE_PIECE.detokenizer(&[], true), &ids), input, "{ids:?}");
    }
    // "▁the" is one token, and as output it begins with its space, which the beginning of a text has not.
    let prompt = SENTENCE_PIECE.encode("the", true).unwrap();
    assert_eq!(prompt.len(), 2);
    assert_eq!(stream(SENTENCE_PIECE.detokenizer(&prompt, true), &prompt[1..]), " the");
}

/// Byte tokens that make no character are shown once enough came that they cannot, or at the end.
#[test]
fn sentence_piece_bytes_that_are_no_text() {
    let byte = |byte: u8| 3 + u32::from(byte);
    let replaced = stream(SENTENCE_PIECE.detokenizer(&[], true), &[byte(0xFF); 20]);
    assert_eq!(replaced, "\u{fffd}".repeat(20));
    let mut detokenizer = SENTENCE_PIECE.detokenizer(&[], true);
    assert_eq!([0xE4, 0xB8, 0xAD].map(|part| detokenizer.push(byte(part)).to_owned()), ["", "", "中"]);
    assert_eq!(
        (detokenizer.push(byte(0xE4)).to_owned(), detokenizer.finish().to_owned()),
        (String::new(), "\u{fffd}".to_owned())
    );
}

proptest! {
    #[test]
    fn a_stream_is_its_decoding(ids in prop::collection::vec(0u32..800, 0..40), skip: bool) {
        let whole = BYTE_LEVEL.decode(&ids, skip).unwrap();
        prop_assert_eq!(stream(BYTE_LEVEL.detokenizer(&[], skip), &ids), whole);
    }

    /// Prompt and output decoded together are the prompt's text and the streamed output, where the prompt ends with a character.
    #[test]
    fn a_stream_goes_on_from_its_prompt(prompt in "[a-zé 🚂]{0,8}", output in "[a-zé 🚂]{0,8}") {
        for text in [&BYTE_LEVEL, &SENTENCE_PIECE] {
            let (prompt, output) = (text.encode(&prompt, true).unwrap(), text.encode(&output, false).unwrap());
            let both = text.decode(&[&prompt[..], &output[..]].concat(), true).unwrap();
            let before = text.decode(&prompt, true).unwrap();
            prop_assert_eq!(before.clone() + &stream(text.detokenizer(&prompt, true), &output), both);
        }
    }
}

/// The surfaces of a text's tokens, end to end, are its bytes: what a grammar sees is what a client reads.
#[test]
fn surfaces_of_tokens_make_the_text() {
    for text in [crate::golden::sentence_piece(), crate::golden::text(&crate::golden::model("llama"))] {
        for input in ["a b  c", "Grüße, 🚂\n\tx", "\u{0} \u{7f}", "don't 123 x <s>"] {
            let ids = text.encode(input, false).expect("a text");
            let mut bytes = Vec::new();
            for id in ids {
                match text.surface(id) {
                    engine_text::Surface::Text(surface) => bytes.extend(surface),
                    engine_text::Surface::Special(token) => bytes.extend(token.into_bytes()),
                    engine_text::Surface::None => panic!("token {id} of {input:?} is none"),
                }
            }
            let made = String::from_utf8(bytes).expect("UTF-8");
            assert_eq!(made.strip_prefix(' ').filter(|_| !input.starts_with(' ')).unwrap_or(&made), input);
        }
        assert_eq!(text.surface(u32::MAX), engine_text::Surface::None);
    }
}
