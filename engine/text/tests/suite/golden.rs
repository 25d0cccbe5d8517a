//! Against transformers: token ids, decoded text and rendered chats of the committed tiny models (`tests/parity` regenerates them).

use std::path::{Path, PathBuf};
use std::time::SystemTime;

use engine_assets::{GgufTokenizer, SpecialToken, TextAssets, TokenKind, TokenizerSource};
use engine_text::{ChatRequest, Text};
use serde_json::Value;

pub fn model(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures/models").join(name)
}

pub fn text(path: &Path) -> Text {
    let assets = engine_assets::open(path).unwrap_or_else(|error| panic!("{error}"));
    Text::new(&assets.text).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

pub fn cases(path: &Path) -> Vec<Value> {
    let content = std::fs::read(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let mut golden: Value = serde_json::from_slice(&content).expect("goldens are JSON");
    let cases: Vec<Value> = serde_json::from_value(golden["cases"].take()).expect("goldens have cases");
    assert!(!cases.is_empty(), "{}: no cases", path.display());
    cases
}

fn ids(value: &Value) -> Vec<u32> {
    serde_json::from_value(value.clone()).expect("ids are numbers")
}

/// One golden of `tokenize.json`: both encodings, both decodings, and the same text streamed token by token.
fn check_tokenize(text: &Text, case: &Value) {
    let input = case["text"].as_str().expect("a text");
    assert_eq!(text.encode(input, false).expect("as in the golden"), ids(&case["ids"]), "ids of {input:?}");
    assert_eq!(
        text.encode(input, true).expect("as in the golden"),
        ids(&case["ids_with_special"]),
        "ids with special tokens of {input:?}"
    );
    for (key, skip) in [("decoded", false), ("decoded_skip_special", true)] {
        let decoded = case[key].as_str().expect("a text");
        let ids = ids(&case["ids"]);
        assert_eq!(text.decode(&ids, skip).expect("as in the golden"), decoded, "{key} of {input:?}");
        let mut detokenizer = text.detokenizer(&[], skip);
        let mut streamed: String = ids.iter().map(|id| detokenizer.push(*id).to_owned()).collect();
        streamed.push_str(detokenizer.finish());
        assert_eq!(streamed, decoded, "{key} of {input:?}, streamed");
    }
}

/// One golden of `chat.json`: the prompt and its ids.
fn check_chat(text: &Text, case: &Value) {
    let messages: Vec<Value> = serde_json::from_value(case["messages"].clone()).expect("as in the golden");
    let add_generation_prompt = case["add_generation_prompt"].as_bool().expect("as in the golden");
    let request = ChatRequest { add_generation_prompt, ..ChatRequest::new(&messages, SystemTime::UNIX_EPOCH) };
    let rendered = text.render_chat(&request).expect("as in the golden");
    assert_eq!(rendered, case["rendered"].as_str().expect("as in the golden"));
    assert_eq!(text.encode(&rendered, false).expect("as in the golden"), ids(&case["ids"]));
}

#[test]
fn tokenizes_and_decodes_as_transformers_does() {
    for name in ["llama", "llama31"] {
        let text = text(&model(name));
        cases(&model(name).join("tokenize.json")).iter().for_each(|case| check_tokenize(&text, case));
    }
}

#[test]
fn gguf_holds_the_same_tokenizer_as_the_folder() {
    for name in ["gguf-f32", "gguf-q4_1"] {
        let text = text(&model(name).join("model.gguf"));
        cases(&model("llama").join("tokenize.json")).iter().for_each(|case| check_tokenize(&text, case));
    }
}

#[test]
fn renders_chats_as_transformers_does() {
    for name in ["llama", "llama31"] {
        let text = text(&model(name));
        cases(&model(name).join("chat.json")).iter().for_each(|case| check_chat(&text, case));
    }
}

/// The vocabulary of `goldens/sentence_piece.json`, as GGUF metadata would give it.
pub fn sentence_piece() -> Text {
    let golden = sentence_piece_golden();
    let list = |key: &str| golden[key].as_array().expect("a list").iter();
    let kind = |number: &Value| match number.as_u64() {
        Some(2) => TokenKind::Unknown,
        Some(3) => TokenKind::Control,
        Some(4) => TokenKind::UserDefined,
        Some(6) => TokenKind::Byte,
        _ => TokenKind::Normal,
    };
    let tokenizer = GgufTokenizer {
        model: "llama".to_owned(),
        tokens: list("tokens").map(|token| token.as_str().expect("a token").to_owned()).collect(),
        kinds: list("kinds").map(kind).collect(),
        scores: list("scores").map(|score| score.as_f64().expect("a score") as f32).collect(),
        ..GgufTokenizer::default()
    };
    let special = |text: &str, id| Some(SpecialToken { text: text.to_owned(), id: Some(id) });
    let assets = TextAssets {
        tokenizer: TokenizerSource::Gguf(tokenizer),
        chat_template: None,
        tool_template: None,
        template_kwargs: None,
        content_parts: None,
        bos: special("<s>", 1),
        eos: special("</s>", 2),
        pad: None,
        unk: special("<unk>", 0),
        add_bos: None,
        add_eos: None,
    };
    Text::new(&assets).expect("a tokenizer")
}

fn sentence_piece_golden() -> Value {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/goldens/sentence_piece.json");
    serde_json::from_slice(&std::fs::read(path).expect("the golden")).expect("goldens are JSON")
}

#[test]
fn sentence_piece_from_metadata_is_as_transformers_builds_it() {
    let text = sentence_piece();
    for case in sentence_piece_golden()["cases"].as_array().unwrap() {
        let input = case["text"].as_str().unwrap();
        let expected = ids(&case["ids"]);
        assert_eq!(text.encode(input, false).unwrap(), expected, "{input:?}");
        assert_eq!(text.encode(input, true).unwrap(), [&[1], &expected[..]].concat(), "{input:?} with bos");
        assert_eq!(text.decode(&expected, false).unwrap(), case["decoded"].as_str().unwrap(), "{input:?}");
    }
}

/// The real SmolLM2: its lane sets `TRACKSIDE_SMOLLM2` to the GGUF, which is not committed.
#[test]
fn smollm2_tokenizes_as_its_original() {
    let Some(path) = std::env::var_os("TRACKSIDE_SMOLLM2").map(PathBuf::from) else {
        eprintln!("skipped: TRACKSIDE_SMOLLM2 does not name SmolLM2-135M-Instruct.Q4_1.gguf");
        return;
    };
    let text = text(&path);
    let goldens = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures/smollm2");
    cases(&goldens.join("tokenize.json")).iter().for_each(|case| check_tokenize(&text, case));
    cases(&goldens.join("chat.json")).iter().for_each(|case| check_chat(&text, case));
}

/// The real Gemma 3 270M, a SentencePiece vocabulary of 262144: its lane sets `TRACKSIDE_GEMMA3` to the GGUF, which is not committed.
#[test]
fn gemma3_tokenizes_as_transformers_does() {
    let Some(path) = std::env::var_os("TRACKSIDE_GEMMA3").map(PathBuf::from) else {
        eprintln!("skipped: TRACKSIDE_GEMMA3 does not name gemma-3-270m-q4_k_m.gguf");
        return;
    };
    let text = text(&path);
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures/gemma3/tokenize.json");
    cases(&golden).iter().for_each(|case| check_tokenize(&text, case));
}
