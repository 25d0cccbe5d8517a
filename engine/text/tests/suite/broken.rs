//! Tokenizers that cannot be used are refused with the reason.

use std::fs;
use std::path::Path;

use engine_assets::{GgufTokenizer, SpecialToken, TextAssets, TokenKind, TokenizerSource};
use engine_text::{Text, TextError};

use crate::golden::model;

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
        add_bos: None,
        add_eos: None,
    }
}

fn gguf() -> GgufTokenizer {
    let tokens: Vec<String> = ["a", "b", "ab", "<e>"].map(str::to_owned).to_vec();
    GgufTokenizer {
        model: "gpt2".into(),
        pre: Some("gpt-2".into()),
        kinds: vec![TokenKind::Normal; 4],
        tokens,
        merges: vec!["a b".into()],
        ..GgufTokenizer::default()
    }
}

#[track_caller]
fn refuses(assets: &TextAssets, says: &str) {
    match Text::new(assets).map(|_| ()) {
        Err(error @ TextError::Tokenizer(_)) => assert!(error.to_string().contains(says) && !error.is_client_error(), "{error}"),
        other => panic!("{other:?}"),
    }
}

#[test]
fn tokenizer_json() {
    let json = |text: &str| assets(TokenizerSource::HuggingFace(text.as_bytes().to_vec()));
    refuses(&json(""), "tokenizer.json");
    refuses(&json("{}"), "tokenizer.json");
    refuses(&json(r#"{"model": {"type": "Martian"}}"#), "tokenizer.json");
    refuses(&json(r#"{"version": "1.0", "model": {"type": "BPE", "vocab": {}, "merges": []}}"#), "no tokens");
    refuses(&json(r#"{"version": "1.0", "model": {"type": "BPE", "vocab": {"a": 4000000000}, "merges": []}}"#), "4000000000");
    refuses(
        &json(r#"{"version": "1.0", "model": {"type": "BPE", "vocab": {"a": 0}, "merges": [["a", "z"]]}}"#),
        "tokenizer.json",
    );
}

/// The fuzzers' seeds and finds: a tokenizer that works, or an error, never a panic.
#[test]
fn uploads_of_the_fuzzers_corpus() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fuzz/corpus/text_assets");
    let mut usable = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let Ok(assets) = TextAssets::from_bytes(&fs::read(&path).unwrap()) else { continue };
        if let Ok(text) = Text::new(&assets) {
            text.encode("ab a", true).and_then(|ids| text.decode(&ids, false)).unwrap();
            usable.push(path.file_name().unwrap().to_owned());
        }
    }
    usable.sort();
    assert_eq!(usable, ["folder", "gguf", "sentence-piece"], "the good seeds are good");
    refuses(&assets(TokenizerSource::HuggingFace(br#"{"decoder": {"type": "Martian"}, "model": {"type": "BPE"}}"#.to_vec())), "");
}

#[test]
fn gguf_metadata() {
    let of = |change: &dyn Fn(&mut GgufTokenizer)| {
        let mut tokenizer = gguf();
        change(&mut tokenizer);
        assets(TokenizerSource::Gguf(tokenizer))
    };
    assert_eq!(Text::new(&of(&|_| {})).expect("is good").encode("ab", true).unwrap(), [2]);
    refuses(&of(&|t| t.pre = Some("martian".into())), "tokenizer.ggml.pre \"martian\"");
    refuses(&of(&|t| t.model = "t5".into()), "tokenizer.ggml.model \"t5\"");
    refuses(&of(&|t| t.merges.push("ab".into())), "\"ab\"");
    refuses(&of(&|t| t.merges.push("a z".into())), "");
    refuses(&of(&|t| t.model = "llama".into()), "scores");
    let long = |t: &mut GgufTokenizer| {
        t.model = "llama".into();
        t.tokens.push("x".repeat(257));
        t.scores = vec![0.0; 5];
    };
    refuses(&of(&long), "token 4 is 257 bytes");
    refuses(&TextAssets { add_bos: Some(true), ..of(&|_| {}) }, "bos");
    let eos = Some(SpecialToken { text: "<e>".into(), id: Some(3) });
    let with_eos = TextAssets { add_eos: Some(true), eos, ..of(&|_| {}) };
    assert_eq!(Text::new(&with_eos).expect("is good").encode("a", true).unwrap(), [0, 3]);
}

/// llama.cpp's pre-tokenizers differ in how they cut digits and words.
#[test]
fn every_pre_tokenizer_splits_as_its_name_says() {
    let tokens: Vec<String> =
        "1 2 3 4 12 123 1234 x X 'S 's Ġ Ċ ĠĠ ! !! 'x".split(' ').chain(["'", "s", "S"]).map(str::to_owned).collect();
    let merges = ["1 2", "12 3", "123 4", "' s", "' S", "! !", "Ġ Ġ"].map(str::to_owned).to_vec();
    for (pre, input, expected) in [
        ("gpt-2", "1234", vec!["1234"]),
        ("smollm", "1234", vec!["1", "2", "3", "4"]),
        ("llama-bpe", "1234", vec!["123", "4"]),
        ("qwen2", "1234", vec!["1", "2", "3", "4"]),
        ("default", "1234", vec!["123", "4"]),
        ("gpt-2", "x's", vec!["x", "'s"]),
        ("gpt-2", "x'S", vec!["x", "'", "S"]),
        ("llama-bpe", "x'S", vec!["x", "'S"]),
        ("llama-bpe", "!!\n", vec!["!!", "Ċ"]),
        ("gpt-2", "x   x", vec!["x", "ĠĠ", "Ġ", "x"]),
    ] {
        let tokenizer =
            GgufTokenizer { pre: Some(pre.into()), kinds: vec![], tokens: tokens.clone(), merges: merges.clone(), ..gguf() };
        let text =
            Text::new(&TextAssets { add_bos: Some(false), ..assets(TokenizerSource::Gguf(tokenizer)) }).expect("a tokenizer");
        let got: Vec<String> = text.encode(input, true).unwrap().into_iter().map(|id| text.token_str(id).unwrap()).collect();
        assert_eq!(got, expected, "{pre}: {input:?}");
    }
}

#[test]
fn tokens_by_id_and_spelling() {
    let text = Text::new(&engine_assets::open(&model("llama")).unwrap().text).unwrap();
    assert_eq!(text.token_id("<|im_end|>"), Some(3));
    assert_eq!(text.token_str(3).as_deref(), Some("<|im_end|>"));
    assert_eq!(text.token_bytes(text.token_id("Ġ").unwrap()), Some(&b" "[..]));
    let beyond = text.vocab_size() as u32;
    assert_eq!((text.token_str(beyond), text.decode(&[beyond, u32::MAX], false).unwrap()), (None, String::new()));
}
