//! Texts from memory, cut into pieces, and by the faster ways are what the library makes of them whole, for all kinds of tokenizers.

use std::path::Path;

use engine_assets::TokenizerSource;
use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::tokenizer::splits::{PRE, Splitting};
use crate::tokenizer::{Built, build};

fn root() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../.."))
}

/// The encoder of a file, with pieces of a few bytes and memory for a few dozen.
fn of_gguf(path: &str) -> Encoder {
    let assets = engine_assets::open(&root().join(path)).expect("a model").text;
    let Built { encoder: Encoder { tokenizer, words, special, .. }, .. } = build(&assets).expect("its tokenizer");
    small(tokenizer, words, special)
}

fn small(tokenizer: Tokenizer, words: Option<Words>, special: Option<Special>) -> Encoder {
    let borders = Borders::new(&tokenizer, 16);
    Encoder::cutting(tokenizer, words, special, borders, Remembered::with_bytes_max(16 << 10))
}

/// The tiny byte-level tokenizer with other parts.
fn changed(change: impl FnOnce(&mut Value)) -> Encoder {
    let assets = engine_assets::open(&root().join("tests/fixtures/models/llama")).expect("a model").text;
    let TokenizerSource::HuggingFace(json) = &assets.tokenizer else { panic!("a folder has a tokenizer.json") };
    let mut json: Value = serde_json::from_slice(json).expect("JSON");
    change(&mut json);
    of_json(&json)
}

fn of_json(json: &Value) -> Encoder {
    small(Tokenizer::from_bytes(json.to_string().as_bytes()).expect("a tokenizer"), None, None)
}

fn split_by(regexes: &[&str]) -> Value {
    let split = |regex: &&str| json!({"type": "Split", "pattern": {"Regex": regex}, "behavior": "Isolated", "invert": false});
    let mut steps: Vec<Value> = regexes.iter().map(split).collect();
    steps.push(json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": false}));
    json!({"type": "Sequence", "pretokenizers": steps})
}

fn added(id: u32, content: &str, flags: &[&str]) -> Value {
    let mut token = json!({"id": id, "content": content, "single_word": false, "lstrip": false, "rstrip": false, "normalized": false, "special": true});
    for flag in flags {
        token[flag] = json!(true);
    }
    token
}

/// Letters, pieces of words, and SentencePiece's mark for a space, in the forms of two models.
fn sentence_piece(model: &str, more: &[&str], normalizer: Value, pre_tokenizer: Value) -> Encoder {
    let mut tokens: Vec<String> = ["<unk>", "<s>", "</s>", "<|im_start|>", "<|im_end|>"].map(str::to_owned).to_vec();
    tokens.extend((0..=255).map(|byte: u8| format!("<0x{byte:02X}>")));
    tokens.extend(('a'..='z').map(String::from));
    tokens.extend(["▁", "▁▁", "th", "▁t", "▁th", "he", "▁the", "in", "er", "▁a", "an", "and", "▁and"].map(str::to_owned));
    tokens.extend(more.iter().map(|token| (*token).to_owned()));
    let model = match model {
        "Unigram" => {
            let vocab: Vec<Value> = tokens.iter().map(|token| json!([token, -10.0 + token.chars().count() as f64])).collect();
            json!({"type": "Unigram", "unk_id": 0, "byte_fallback": true, "vocab": vocab})
        }
        _ => {
            let merges = ["▁ ▁", "t h", "▁ t", "▁ th", "h e", "▁t h", "▁t he", "i n", "e r", "▁ a", "a n", "an d", "▁ and"];
            let more = more.iter().map(|token| token.split_at(1)).map(|(left, right)| format!("{left} {right}"));
            let vocab: serde_json::Map<String, Value> =
                tokens.iter().zip(0..).map(|(token, id)| (token.clone(), json!(id))).collect();
            json!({"type": "BPE", "dropout": null, "unk_token": "<unk>", "fuse_unk": true, "byte_fallback": true, "vocab": vocab,
                "merges": merges.into_iter().map(str::to_owned).chain(more).filter(|merge| vocab.contains_key(&merge.replace(' ', ""))).collect::<Vec<_>>()})
        }
    };
    of_json(&json!({
        "version": "1.0", "truncation": null, "padding": null,
        "added_tokens": [added(1, "<s>", &[]), added(2, "</s>", &[]), added(3, "<|im_start|>", &[]), added(4, "<|im_end|>", &[])],
        "normalizer": normalizer, "pre_tokenizer": pre_tokenizer, "post_processor": null, "decoder": null, "model": model,
    }))
}

/// What splitting and cutting turn on: words, digits, all white space, marks, contractions, added tokens and their halves.
fn text() -> impl Strategy<Value = String> {
    let piece = prop_oneof![
        "[a-zA-Z]{1,12}",
        "[0-9]{1,5}",
        "[ \t\n\r\x0b\x0c]{1,4}",
        "[\x00-\x7f]{1,6}",
        "( [a-z]{1,6}){1,8}",
        "[é中文ノ가\u{301}\u{308}Жß▁ \u{a0}\u{2003}]{1,5}",
        proptest::sample::select(vec![
            "'s",
            "'ll",
            "'LL",
            "don't",
            "<|im_start|>",
            "<|im_end|>",
            "<|im_",
            "|>",
            " ",
            "\n\n",
            "<|im_end|> ",
            " <|im_end|>",
            "a b",
            "e \u{301}",
            "<|im_end|>\n"
        ])
        .prop_map(str::to_owned),
    ];
    proptest::collection::vec(piece, 0..32).prop_map(|pieces| pieces.concat())
}

/// A text, texts that begin as it does up to any place, and it again; each is what the library makes of it.
fn check(what: &str, encoder: &Encoder, must_cut: bool) {
    assert_eq!(encoder.borders.is_some(), must_cut, "{what}");
    proptest!(ProptestConfig::with_cases(64), |(first in text(), cut in any::<prop::sample::Index>(), behind in text())| {
        let shared = &first[..first.floor_char_boundary(cut.index(first.len() + 1))];
        for text in [first.as_str(), &format!("{shared}{behind}"), &format!("{behind}{shared}"), shared, first.as_str()] {
            let ids = encoder.plain(text).expect("ids");
            prop_assert_eq!(ids, encoder.by_library(text, false).expect("ids"), "{}: {:?}", what, text);
        }
    });
    let recall = encoder.recall();
    assert!(recall.held_bytes <= 16 << 10, "{what}: {recall:?}");
    assert_eq!(recall.hit_bytes > 0, must_cut, "{what}: {recall:?}");
}

#[test]
fn every_splitting_of_the_table() {
    for pre in PRE {
        match pre.splitting {
            Splitting::Regexes(regexes) => {
                let encoder = changed(|json| {
                    json["pre_tokenizer"] = split_by(regexes);
                    if pre.composes {
                        json["normalizer"] = json!({"type": "NFC"});
                    }
                });
                check(pre.names[0], &encoder, true);
            }
            Splitting::Gpt2 { .. } => {}
        }
    }
}

#[test]
fn words_from_memory() {
    for gguf in ["cli/builtin/trackside-builtin.gguf", "tests/fixtures/models/gguf-q8_0/model.gguf"] {
        let encoder = of_gguf(gguf);
        assert!(encoder.words.is_some(), "{gguf} is split as GPT-2 splits");
        check(gguf, &encoder, true);
    }
    check("a folder", &changed(|_| {}), true);
    check("with a space before", &changed(|json| json["pre_tokenizer"]["add_prefix_space"] = json!(true)), true);
}

#[test]
fn tokens_that_look_around() {
    let with = |tokens: Vec<Value>| changed(move |json| json["added_tokens"].as_array_mut().expect("a list").extend(tokens));
    check("strips to the left", &with(vec![added(761, "<|l|>", &["lstrip"]), added(762, "a b", &[])]), true);
    check("strips to the right", &with(vec![added(761, "|>", &["rstrip"]), added(762, "\n\n", &[])]), true);
    check("found in normal form", &with(vec![added(761, "an", &["normalized"]), added(762, "e f", &["normalized"])]), true);
    check("longer ones", &with(vec![added(761, "<|im_end|>\n", &[]), added(762, "<|im_end|> ", &["lstrip"])]), true);
    check("words only", &with(vec![added(761, "<|im_", &["single_word"])]), false);
}

#[test]
fn sentence_piece_kinds() {
    let marks = || json!({"type": "Replace", "pattern": {"String": " "}, "content": "▁"});
    let metaspace =
        |scheme: &str, split: bool| json!({"type": "Metaspace", "replacement": "▁", "prepend_scheme": scheme, "split": split});
    for scheme in ["first", "always", "never"] {
        check(scheme, &sentence_piece("Unigram", &[], Value::Null, metaspace(scheme, true)), true);
        check(scheme, &sentence_piece("BPE", &["e▁"], Value::Null, metaspace(scheme, false)), true);
    }
    check("gemma", &sentence_piece("BPE", &[], marks(), Value::Null), true);
    check("reaching over a word's end", &sentence_piece("BPE", &["e▁", "n▁"], marks(), Value::Null), true);
    let prefixed = json!({"type": "Sequence", "normalizers": [{"type": "Prepend", "prepend": "▁"}, marks()]});
    check("llama 2", &sentence_piece("BPE", &[], prefixed, Value::Null), true);
}

#[test]
fn what_goes_around_a_text() {
    for (processor, first, last) in [
        (
            json!({"type": "TemplateProcessing", "single": [{"SpecialToken": {"id": "<|begin|>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
            "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
            "special_tokens": {"<|begin|>": {"id": "<|begin|>", "ids": [0], "tokens": ["<|begin|>"]}}}),
            vec![0],
            vec![],
        ),
        (
            json!({"type": "RobertaProcessing", "cls": ["<|begin|>", 0], "sep": ["<|end|>", 1], "trim_offsets": true, "add_prefix_space": false}),
            vec![0],
            vec![1],
        ),
        (Value::Null, vec![], vec![]),
    ] {
        let encoder = changed(|json| json["post_processor"] = processor);
        for text in ["", "a", "The signals of one line", &"a line and the next ".repeat(9)] {
            let plain = encoder.by_library(text, false).expect("ids");
            let expected = [first.clone(), plain, last.clone()].concat();
            assert_eq!(encoder.encode(text, true).expect("ids"), expected, "{text:?}");
            assert_eq!(encoder.by_library(text, true).expect("ids"), expected, "{text:?}");
        }
    }
}

/// The next turn of a chat encodes its last piece and what is new, however long what is before.
#[test]
fn the_next_turn_is_read_from_memory() {
    let Encoder { tokenizer, words, special, .. } = changed(|_| {});
    let encoder = Encoder::new(tokenizer, words, special);
    let turn = |n: usize| format!("<|im_start|>user\nquestion {n} and what follows it<|im_end|>\n<|im_start|>assistant\n");
    let mut chat: String = (0..500).map(turn).collect();
    encoder.encode(&chat, false).expect("ids");
    let before = encoder.recall();
    assert_eq!((before.hit_bytes, before.miss_bytes), (0, chat.len() as u64));
    chat.push_str(&turn(500));
    assert_eq!(encoder.encode(&chat, false).expect("ids"), encoder.by_library(&chat, false).expect("ids"));
    let after = encoder.recall();
    let encoded = after.miss_bytes - before.miss_bytes;
    assert!(encoded < 2 * PIECE_BYTES as u64, "{encoded} bytes encoded again of {}", chat.len());
    assert_eq!(after.hit_bytes - before.hit_bytes, chat.len() as u64 - encoded);
}
