//! Kinds of tokenizers against Hugging Face's library: ids, text, and text token by token, from `tokenizer.json` and from GGUF metadata.
//! `tests/parity/tokenizer_families.py` makes the answers.

use std::path::{Path, PathBuf};

use engine_assets::{GgufTokenizer, TextAssets, TokenKind, TokenizerSource};
use engine_text::Text;
use proptest::prelude::*;
use serde_json::{Map, Value, json};

struct Family {
    name: String,
    text: Text,
    /// The same as GGUF metadata describe it, where there is a name for it.
    gguf: Option<Text>,
    cases: Vec<Value>,
    streams: Vec<Value>,
}

fn assets(tokenizer: TokenizerSource) -> TextAssets {
    TextAssets {
        tokenizer,
        chat_template: None,
        tool_template: None,
        template_kwargs: None,
        content_parts: None,
        bos: None,
        eos: None,
        pad: None,
        unk: None,
        add_bos: Some(false),
        add_eos: None,
    }
}

fn families() -> Vec<Family> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/goldens/tokenizers.json");
    let golden: Value = serde_json::from_slice(&std::fs::read(path).expect("the goldens")).expect("goldens are JSON");
    let tokens: Vec<String> = serde_json::from_value(golden["tokens"].clone()).expect("a vocabulary");
    let merges: Vec<(String, String)> = serde_json::from_value(golden["merges"].clone()).expect("merges");
    let vocab: Map<String, Value> = tokens.iter().zip(0..).map(|(token, id)| (token.clone(), json!(id))).collect();
    let mut models: Map<String, Value> = Map::new();
    let list = |value: &Value| value.as_array().expect("a list").clone();
    let family = |case: &Value| {
        let name = case["name"].as_str().expect("a name").to_owned();
        let mut json = case["json"].clone();
        if let Some(other) = json["model"].as_str() {
            json["model"] = models[other].clone();
        } else if json["model"]["vocab"].is_null() {
            json["model"]["vocab"] = Value::Object(vocab.clone());
            json["model"]["merges"] = golden["merges"].clone();
        }
        models.insert(name.clone(), json["model"].clone());
        let text = Text::new(&assets(TokenizerSource::HuggingFace(json.to_string().into_bytes()))).expect(&name);
        let special = list(&json["added_tokens"]).len();
        let gguf = case["pre"].as_str().map(|pre| {
            let kind = |id: usize| if id < special { TokenKind::Control } else { TokenKind::Normal };
            let tokenizer = GgufTokenizer {
                model: "gpt2".to_owned(),
                pre: Some(pre.to_owned()),
                tokens: tokens.clone(),
                kinds: (0..tokens.len()).map(kind).collect(),
                merges: merges.iter().map(|(left, right)| format!("{left} {right}")).collect(),
                ..GgufTokenizer::default()
            };
            Text::new(&assets(TokenizerSource::Gguf(tokenizer))).expect(&name)
        });
        Family { name, text, gguf, cases: list(&case["cases"]), streams: list(&case["streams"]) }
    };
    list(&golden["cases"]).iter().map(family).collect()
}

fn ids(value: &Value) -> Vec<u32> {
    serde_json::from_value(value.clone()).expect("ids are numbers")
}

fn streamed(text: &Text, ids: &[u32], skip_special: bool) -> String {
    let mut detokenizer = text.detokenizer(&[], skip_special);
    let mut out: String = ids.iter().map(|id| detokenizer.push(*id).to_owned()).collect();
    out.push_str(detokenizer.finish());
    out
}

#[test]
fn families_are_as_the_library_has_them() {
    for Family { name, text, gguf, cases, streams } in families() {
        for case in cases {
            let input = case["text"].as_str().expect("a text");
            let expected = ids(&case["ids"]);
            let around = case.get("around").map_or_else(|| expected.clone(), ids);
            let decoded = case["decoded"].as_str().unwrap_or(input);
            let shown = case["shown"].as_str().unwrap_or(decoded);
            assert_eq!(text.encode(input, false).expect("ids"), expected, "{name}: {input:?}");
            assert_eq!(text.encode(input, true).expect("ids"), around, "{name}: {input:?} with special tokens");
            for (skip, decoded) in [(false, decoded), (true, shown)] {
                assert_eq!(text.decode(&expected, skip).expect("a text"), decoded, "{name}: {input:?}");
                assert_eq!(streamed(&text, &expected, skip), decoded, "{name}: {input:?} streamed");
            }
            if let Some(gguf) = &gguf {
                assert_eq!(gguf.encode(input, false).expect("ids"), expected, "{name} from GGUF: {input:?}");
                assert_eq!(gguf.decode(&expected, false).expect("a text"), decoded, "{name} from GGUF: {input:?}");
            }
        }
        for case in streams {
            let random = ids(&case["ids"]);
            assert_eq!(
                text.decode(&random, false).expect("a text"),
                case["decoded"].as_str().expect("a text"),
                "{name}: {random:?}"
            );
        }
    }
}

/// Whatever the ids, and wherever the prompt ends and the output begins.
#[test]
fn any_ids_streamed_are_their_text() {
    for Family { name, text, .. } in families() {
        // Tokens of other kinds read by their neighbours: runs of bytes that are no text come out as they came in.
        let bytes = text.token_bytes(0).is_some();
        let size = text.vocab_size() as u32 + 3;
        proptest!(ProptestConfig::with_cases(128), |(ids in prop::collection::vec(0..size, 0..40), skip: bool)| {
            let whole = text.decode(&ids, skip).expect("a text");
            let streamed = streamed(&text, &ids, skip);
            if bytes || !whole.contains(char::REPLACEMENT_CHARACTER) {
                prop_assert_eq!(streamed, whole, "{}: {:?}", name, ids);
            }
        });
    }
}

#[test]
fn what_is_not_known_is_refused_by_name() {
    let refused = |model: &str, pre: &str| {
        let tokenizer = GgufTokenizer {
            model: model.to_owned(),
            pre: Some(pre.to_owned()),
            tokens: vec!["a".to_owned()],
            kinds: vec![TokenKind::Normal],
            ..GgufTokenizer::default()
        };
        Text::new(&assets(TokenizerSource::Gguf(tokenizer))).map(|_| ()).expect_err(pre).to_string()
    };
    for model in ["bert", "t5", "rwkv", "plamo2", "none", ""] {
        assert!(refused(model, "default").contains(&format!("tokenizer.ggml.model {model:?} is not supported")));
    }
    for pre in ["kimi-k2", "superbpe", "afmoe", "of the future"] {
        assert!(refused("gpt2", pre).contains(&format!("tokenizer.ggml.pre {pre:?} is not supported")));
    }
}

/// llama.cpp's own vocabularies, with the ids that it gives its test texts. They are not ours to commit; `tests/parity/vocabularies.py` reads
/// them out of its source.
#[test]
fn vocabularies_of_llama_cpp() {
    let Some(folder) = std::env::var_os("TRACKSIDE_VOCABULARIES").map(PathBuf::from) else {
        eprintln!("skipped: TRACKSIDE_VOCABULARIES names no folder that tests/parity/vocabularies.py made");
        return;
    };
    let mut wrong = Vec::new();
    for entry in std::fs::read_dir(&folder).expect("the folder") {
        let path = entry.expect("an entry").path();
        let golden: Value = serde_json::from_slice(&std::fs::read(&path).expect("a file")).expect("JSON");
        let tokenizer = &golden["tokenizer"];
        let kinds = [
            TokenKind::Normal,
            TokenKind::Unknown,
            TokenKind::Control,
            TokenKind::UserDefined,
            TokenKind::Unused,
            TokenKind::Byte,
        ];
        let list = |key: &str| tokenizer[key].as_array().map_or(&[][..], Vec::as_slice).iter();
        let text = |value: &Value| value.as_str().expect("a text").to_owned();
        let tokenizer = GgufTokenizer {
            model: text(&tokenizer["model"]),
            pre: tokenizer["pre"].as_str().map(str::to_owned),
            tokens: list("tokens").map(text).collect(),
            kinds: list("kinds").map(|kind| kinds[kind.as_u64().expect("a kind") as usize - 1]).collect(),
            scores: list("scores").map(|score| score.as_f64().expect("a score") as f32).collect(),
            merges: list("merges").map(text).collect(),
            add_space_prefix: tokenizer["space"].as_bool(),
        };
        match Text::new(&assets(TokenizerSource::Gguf(tokenizer))) {
            Ok(made) => {
                // Qwen's own tokenizer composes letters and their marks first; llama.cpp does not.
                let composes = golden["tokenizer"]["pre"].as_str().is_some_and(|pre| pre.starts_with("qwen"));
                let apart = |case: &&Value| {
                    case["text"].as_str().is_some_and(|text| text.contains(|c| matches!(c, '\u{300}'..='\u{36f}')))
                };
                for case in golden["cases"].as_array().expect("cases").iter().filter(|case| !composes || !apart(case)) {
                    let got = made.encode(case["text"].as_str().expect("a text"), false).expect("ids");
                    if got != ids(&case["ids"]) {
                        wrong.push(format!("{}: {}\n  {got:?}\n  {}", path.display(), case["text"], case["ids"]));
                    }
                }
            }
            Err(error) => eprintln!("{}: {error}", path.display()),
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
