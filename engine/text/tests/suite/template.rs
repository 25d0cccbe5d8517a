//! Chat templates against transformers (`goldens/templates.py` makes the answers), and what a template must not be able to do.

use std::fs;
use std::path::Path;
use std::sync::LazyLock;
use std::time::{Duration, SystemTime};

use engine_assets::{SpecialToken, TextAssets};
use engine_text::{ChatRequest, Text, TextError};
use proptest::prelude::*;
use serde_json::{Map, Value, json};

use crate::golden::{cases, model};

/// The tiny model with these templates in place of its own.
pub fn with_templates(chat: Option<&str>, tool: Option<&str>) -> Text {
    let token = |text: &str| Some(SpecialToken { text: text.to_owned(), id: None });
    let tiny = engine_assets::open(&model("llama")).expect("the tiny model").text;
    let assets = TextAssets {
        chat_template: chat.map(str::to_owned),
        tool_template: tool.map(str::to_owned),
        bos: token("<s>"),
        eos: token("</s>"),
        ..tiny
    };
    Text::new(&assets).expect("its tokenizer")
}

/// The tiny model without templates, made once.
fn plain() -> &'static Text {
    static TEXT: LazyLock<Text> = LazyLock::new(|| with_templates(None, None));
    &TEXT
}

pub fn list<'a>(case: &'a Value, key: &str) -> &'a [Value] {
    case.get(key).and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

#[test]
fn renders_as_transformers_does() {
    let mut differences = Vec::new();
    for case in cases(&Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/goldens/templates.json")) {
        let flag = |key: &str| case.get(key).and_then(Value::as_bool).unwrap_or(false);
        let template = case["template"].as_str().expect("a template");
        let kwargs: &Map<String, Value> = case["kwargs"].as_object().expect("arguments");
        // Once as the model's own template, once as the client's.
        for own in [true, false] {
            let own_text;
            let text = if own {
                own_text = with_templates(Some(template), None);
                &own_text
            } else {
                plain()
            };
            let request = ChatRequest {
                tools: list(&case, "tools"),
                documents: list(&case, "documents"),
                add_generation_prompt: flag("add_generation_prompt"),
                continue_final_message: flag("continue_final_message"),
                template: (!own).then_some(template),
                kwargs: Some(kwargs),
                ..ChatRequest::new(list(&case, "messages"), SystemTime::UNIX_EPOCH)
            };
            let same = match (text.render_chat(&request), case["rendered"].as_str()) {
                (Ok(rendered), Some(expected)) => {
                    (rendered == expected).then_some(()).ok_or(format!("{rendered:?}\n  not {expected:?}"))
                }
                // How an error reads is our own affair, but what raise_exception says must be in it.
                (Err(error), None)
                    if case["name"] != "raise" || error.to_string().contains(case["error"].as_str().expect("an error")) =>
                {
                    Ok(())
                }
                (got, expected) => Err(format!("{got:?}\n  not {expected:?} ({})", case["error"])),
            };
            if let Err(difference) = same {
                differences.push(format!("{}: {difference}", case["name"]));
            }
        }
    }
    assert!(differences.is_empty(), "{}", differences.join("\n"));
}

#[test]
fn the_template_for_tools_is_taken_when_there_are_tools() {
    let text = with_templates(Some("plain"), Some("tools"));
    let messages = [json!({"role": "user", "content": "x"})];
    let plain = ChatRequest::new(&messages, SystemTime::UNIX_EPOCH);
    assert_eq!(text.render_chat(&plain).unwrap(), "plain");
    let tools = [json!({"type": "function", "function": {"name": "f"}})];
    assert_eq!(text.render_chat(&ChatRequest { tools: &tools, ..plain.clone() }).unwrap(), "tools");
    assert_eq!(with_templates(Some("plain"), None).render_chat(&ChatRequest { tools: &tools, ..plain }).unwrap(), "plain");
}

#[test]
fn dates_are_told_as_python_tells_them() {
    let text = with_templates(Some("{{ strftime_now('%Y-%m-%d %H:%M:%S %A %a %B %b %j %I %p %y %-d %e %% %q') }}"), None);
    let messages = [json!({"role": "user", "content": "x"})];
    // From `date -u -d @N +...`.
    for (seconds, expected) in [
        (0, "1970-01-01 00:00:00 Thursday Thu January Jan 001 12 AM 70 1  1 % %q"),
        (951_825_599, "2000-02-29 11:59:59 Tuesday Tue February Feb 060 11 AM 00 29 29 % %q"),
        (1_795_564_800, "2026-11-25 00:00:00 Wednesday Wed November Nov 329 12 AM 26 25 25 % %q"),
        (4_102_444_799, "2099-12-31 23:59:59 Thursday Thu December Dec 365 11 PM 99 31 31 % %q"),
    ] {
        let request = ChatRequest::new(&messages, SystemTime::UNIX_EPOCH + Duration::from_secs(seconds));
        assert_eq!(text.render_chat(&request).unwrap(), expected);
    }
}

/// A request with a template of the client's own is refused, and says so.
#[track_caller]
fn refuses(template: &str, says: &str) {
    let shown: String = template.chars().take(60).collect();
    let messages = [json!({"role": "user", "content": "x"})];
    let request = ChatRequest { template: Some(template), ..ChatRequest::new(&messages, SystemTime::UNIX_EPOCH) };
    let error = plain().render_chat(&request).map(|prompt| prompt.len()).expect_err(&shown);
    assert!(error.is_client_error() && error.to_string().contains(says), "{shown}: {error}");
    assert!(!error.to_string().contains('\n'), "{error}");
}

#[test]
fn a_template_cannot_take_what_it_likes() {
    refuses("{% for i in range(100000) %}{% for j in range(100000) %}x{% endfor %}{% endfor %}", "fuel");
    refuses("{% set ns = namespace(s='x') %}{% for i in range(64) %}{% set ns.s = ns.s ~ ns.s %}{% endfor %}{{ ns.s }}", "fuel");
    refuses("{{ 'x' * 1000000000 }}", "");
    refuses("{% set x = 'x' * 1000000 %}{% for i in range(1000) %}{{ x }}{% endfor %}", "");
    refuses("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", "");
    refuses("{% include '/etc/passwd' %}", "");
    refuses("{% import 'chat_template' as x %}{{ x }}", "");
    refuses(&"x".repeat(300_000), "chat_template");
    refuses("{% for m in messages %}", "");
    refuses("{%}", "");
    refuses("a{% unclosed", "");
    refuses("{{ messages[0].content.nothing.more }}", "undefined");
    refuses("{{ ''.__class__.__mro__ }}", "undefined");
    refuses("{{ messages | tojson(indnt=4) }}", "indnt");
    refuses(&format!("{{{{ {} }}}}", "(".repeat(100_000)), "");
    refuses(&"{% if true %}".repeat(10_000), "");
    refuses(&format!("{{{{ {} }}}}", "-".repeat(250_000)), "");
    refuses(&format!("{{{{ 1{}", "+1".repeat(120_000)), "");
    refuses(&format!("{{% if 0 %}}{}", "{% elif 0 %}".repeat(20_000)), "");
    let nest = "{% set ns = namespace(s=[]) %}{% for i in range(9) %}{% for j in range(100000) %}{% set ns.s = [ns.s] %}{% endfor %}{% endfor %}";
    refuses(nest, "fuel");
    let compare = format!(
        "{}{{{{ ns.s == ns.s[0] }}}}{{{{ {{ns.s: 1}} }}}}{{{{ raise_exception(ns.s) }}}}",
        nest.replace("range(9)", "range(2)")
    );
    refuses(&compare, "");
}

/// The model's own template comes from a file, and files come from strangers, too.
#[test]
fn the_models_template_cannot_take_what_it_likes_either() {
    let messages = [json!({"role": "user", "content": "x"})];
    let request = ChatRequest::new(&messages, SystemTime::UNIX_EPOCH);
    let nest = "{% set ns = namespace(s=[]) %}{% for i in range(9) %}{% for j in range(100000) %}{% set ns.s = [ns.s] %}{% endfor %}{% endfor %}";
    let render = |template: &str| with_templates(Some(template), None).render_chat(&request).map_err(|error| error.to_string());
    assert!(render(nest).unwrap_err().contains("fuel"));
    assert_eq!(render(&format!("{{{{ {}1 }}}}", "not ".repeat(60_000))).unwrap(), "True");
    assert!(render(&"x".repeat(300_000)).unwrap_err().contains("300000 bytes"));
    // What needs more than the first helping of fuel gets it.
    let long: Vec<Value> = (0..2000).map(|n| json!({"role": "user", "content": format!("{n}")})).collect();
    let each = with_templates(Some("{% for m in messages %}{{ m.content }},{% endfor %}"), None);
    let rendered = each.render_chat(&ChatRequest::new(&long, SystemTime::UNIX_EPOCH)).unwrap();
    assert!(rendered.starts_with("0,1,2,") && rendered.ends_with(",1998,1999,"));
}

#[test]
fn without_a_template_chat_is_refused_and_nothing_else() {
    let text = with_templates(None, None);
    let messages = [json!({"role": "user", "content": "x"})];
    let error = text.render_chat(&ChatRequest::new(&messages, SystemTime::UNIX_EPOCH)).unwrap_err();
    assert_eq!(error, TextError::NoChatTemplate);
    assert!(!text.has_chat_template() && !text.encode("x", true).unwrap().is_empty());
}

#[test]
fn a_broken_template_of_the_model_breaks_chat_only() {
    let text = with_templates(Some("{% if %}"), None);
    let messages = [json!({"role": "user", "content": "x"})];
    let error = text.render_chat(&ChatRequest::new(&messages, SystemTime::UNIX_EPOCH)).unwrap_err();
    assert!(matches!(&error, TextError::Template(what) if what.contains("line 1")), "{error}");
    assert!(!text.encode("x", true).unwrap().is_empty());
}

/// The fuzzers' seeds.
fn seeds() -> Vec<String> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fuzz/corpus/chat_template");
    let mut files: Vec<_> = fs::read_dir(folder).expect("seeds").map(|entry| entry.expect("a seed").path()).collect();
    files.sort();
    files.iter().map(|file| fs::read_to_string(file).expect("seeds are text")).collect()
}

#[test]
fn the_fuzzers_corpus_is_harmless() {
    let messages = [json!({"role": "user", "content": "x"})];
    for seed in seeds() {
        let request = ChatRequest { template: Some(&seed), ..ChatRequest::new(&messages, SystemTime::UNIX_EPOCH) };
        assert!(plain().render_chat(&request).map_or_else(|error| error.is_client_error(), |_| true), "{seed}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    /// The fuzzers' seeds, damaged: a prompt or an error of the client's, never a panic.
    #[test]
    fn damaged_templates(seed in any::<prop::sample::Index>(), cut in any::<prop::sample::Index>(), insert in "[{}%#|()'\\[\\]a-z .~*-]{0,4}") {
        let seeds: Vec<String> = seeds().into_iter().filter(|seed| !seed.contains("range(100000)")).collect();
        let seed = &seeds[seed.index(seeds.len())];
        let at = seed.floor_char_boundary(cut.index(seed.len()));
        let template = format!("{}{insert}{}", &seed[..at], &seed[at..]);
        let messages = [json!({"role": "user", "content": "x"})];
        let request = ChatRequest { template: Some(&template), ..ChatRequest::new(&messages, SystemTime::UNIX_EPOCH) };
        if let Err(error) = plain().render_chat(&request) {
            prop_assert!(error.is_client_error());
        }
    }
}
