//! Replies in every format: what is content, thought and call, the same however the text is cut.

use engine_text::reasoning::{self, Opening, ReasoningFormat};
use engine_text::reply::{Delta, Reply, ReplyFormat};
use engine_text::tools::{self, ToolFormat};
use proptest::prelude::*;
use serde_json::{Value, json};

/// The request's tools in all cases.
fn request_tools() -> Vec<Value> {
    let tool = |name: &str, properties: Value| json!({"type": "function", "function": {"name": name, "parameters": {"type": "object", "properties": properties}}});
    vec![
        tool(
            "weather",
            json!({"city": {"type": "string"}, "days": {"type": "integer"}, "units": {"enum": ["C", "F"]}, "where": {"type": "object"}}),
        ),
        tool("now", json!({})),
    ]
}

/// A whole answer.
#[derive(Debug, Default, PartialEq, Clone)]
struct Answer {
    reasoning: String,
    content: String,
    calls: Vec<(String, String)>,
}

/// The deltas of a reply that comes in `pieces`, joined; what streams may not do is checked on the way.
fn read(format: ReplyFormat, opening: Opening, pieces: &[&str]) -> Answer {
    let mut reply = Reply::new(format, opening, &request_tools());
    let mut deltas = Vec::new();
    pieces.iter().for_each(|piece| reply.feed(piece, &mut deltas));
    reply.finish(&mut deltas);
    let mut answer = Answer::default();
    for delta in deltas {
        match delta {
            Delta::Content(text) => answer.content.push_str(&text),
            Delta::Reasoning(text) => answer.reasoning.push_str(&text),
            Delta::Call { index, name } => {
                assert_eq!(index as usize, answer.calls.len(), "calls begin in order");
                answer.calls.push((name, String::new()));
            }
            Delta::Arguments { index, fragment } => {
                assert_eq!(index as usize + 1, answer.calls.len(), "arguments belong to the call that began last");
                answer.calls[index as usize].1.push_str(&fragment);
            }
        }
    }
    assert_eq!(reply.calls() as usize, answer.calls.len());
    answer
}

/// Cuts `text` in two at every character, into single characters, and not at all: the answer is one.
fn read_in_every_cut(format: ReplyFormat, opening: Opening, text: &str) -> Answer {
    let whole = read(format, opening, &[text]);
    for (at, _) in text.char_indices() {
        let (left, right) = text.split_at(at);
        assert_eq!(read(format, opening, &[left, right]), whole, "{left:?} | {right:?}");
    }
    let letters: Vec<String> = text.chars().map(String::from).collect();
    let letters: Vec<&str> = letters.iter().map(String::as_str).collect();
    assert_eq!(read(format, opening, &letters), whole, "letter by letter: {text:?}");
    whole
}

fn format_of(tools: &str, reasoning: &str) -> ReplyFormat {
    ReplyFormat {
        tools: (!tools.is_empty())
            .then(|| if tools == "required" { tools::REQUIRED } else { ToolFormat::named(tools).expect(tools) }),
        reasoning: (!reasoning.is_empty()).then(|| ReasoningFormat::named(reasoning).expect(reasoning)),
    }
}

/// One transcript: the format, the text, and what is made of it. Calls are `name arguments`.
#[track_caller]
fn check(tools: &str, text: &str, content: &str, calls: &[(&str, &str)]) {
    let answer = read_in_every_cut(format_of(tools, ""), Opening::Unknown, text);
    let calls = calls.iter().map(|(name, arguments)| ((*name).to_owned(), (*arguments).to_owned())).collect();
    assert_eq!(answer, Answer { reasoning: String::new(), content: content.to_owned(), calls }, "{tools}: {text:?}");
}

const BERLIN: (&str, &str) = ("weather", r#"{"city": "Berlin", "days": 2}"#);
const NOW: (&str, &str) = ("now", "{}");

#[test]
fn hermes() {
    let call = r#"<tool_call>
{"name": "weather", "arguments": {"city": "Berlin", "days": 2}}
</tool_call>"#;
    check("hermes", call, "", &[BERLIN]);
    check(
        "hermes",
        &format!("\n\n{call}\n<tool_call>\n{{\"arguments\": {{}}, \"name\": \"now\"}}\n</tool_call>\n"),
        "",
        &[BERLIN, NOW],
    );
    check("hermes", &format!("I look.\n{call}"), "I look.\n", &[BERLIN]);
    check("hermes", &format!("{call}\nDone."), "\nDone.", &[BERLIN]);
    check("hermes", "no call", "no call", &[]);
    check("hermes", " \n x <tool x> < <tool_ca", " \n x <tool x> < <tool_ca", &[]);
    check("hermes", "  \n", "  \n", &[]);
    // Without arguments; null, empty and quoted ones.
    check("hermes", r#"<tool_call>{"name": "now"}</tool_call>"#, "", &[NOW]);
    check("hermes", r#"<tool_call>{"name": "now", "arguments": null}</tool_call>"#, "", &[NOW]);
    check("hermes", r#"<tool_call>{"name": "now", "arguments": ""}</tool_call>"#, "", &[NOW]);
    check(
        "hermes",
        r#"<tool_call>{"name": "now", "arguments": "{\"a\": \"\\\"\"}"}</tool_call>"#,
        "",
        &[("now", r#"{"a": "\""}"#)],
    );
    // A newline within a string is written as JSON has it.
    check(
        "hermes",
        "<tool_call>{\"name\": \"now\", \"arguments\": {\"a\": \"x\ny\"}}</tool_call>",
        "",
        &[("now", r#"{"a": "x\ny"}"#)],
    );
    // The end is missing, or half there.
    check("hermes", r#"<tool_call>{"name": "now", "arguments": {"a": 1}}"#, "", &[("now", r#"{"a": 1}"#)]);
    check("hermes", r#"<tool_call>{"name": "now", "arguments": {"a": 1}}</tool_"#, "", &[("now", r#"{"a": 1}"#)]);
    check("hermes", r#"<tool_call>{"name": "now", "arguments": {"a": 1"#, "", &[("now", r#"{"a": 1"#)]);
    // What is no call is text; what breaks behind the name stays in the arguments.
    for text in [
        "<tool_call>get_time()</tool_call>",
        r#"<tool_call>{"nam": "now"}</tool_call>"#,
        r#"<tool_call>{"name": "no w", "arguments": {}}</tool_call>"#,
        r#"<tool_call>{"name": "now", "arguments": [1]}</tool_call>"#,
        r#"<tool_call>{"name": "now", "argum"#,
        "<tool_call>",
        "a <tool_call> b",
        r#"{"name": "now", "arguments": {}}"#,
    ] {
        check("hermes", text, text, &[]);
    }
    check("hermes", r#"<tool_call>{"name": "now", "arguments": {"a": 1,}}</tool_call>x"#, "x", &[("now", r#"{"a": 1,}}"#)]);
}

#[test]
fn qwen3_coder() {
    let call = "<tool_call>\n<function=weather>\n<parameter=city>\nBerlin\n</parameter>\n<parameter=days>\n2\n</parameter>\n</function>\n</tool_call>";
    check("qwen3_coder", call, "", &[BERLIN]);
    check("qwen3_xml", &format!("So:\n{call}\n<tool_call>\n<function=now>\n</function>\n</tool_call>"), "So:\n", &[BERLIN, NOW]);
    // Text stays text even where it looks like JSON, and keeps its lines; objects are objects.
    check(
        "qwen3_coder",
        "<tool_call>\n<function=weather>\n<parameter=city>\n42\n\"a\\\n\n</parameter>\n<parameter=where>\n{\"a\": [1]}\n</parameter></function></tool_call>",
        "",
        &[("weather", r#"{"city": "42\n\"a\\\n", "where": {"a":[1]}}"#)],
    );
    check(
        "qwen3_coder",
        "<function=weather><parameter=units>C</parameter><parameter=x>True</parameter></function>",
        "",
        &[("weather", r#"{"units": "C", "x": true}"#)],
    );
    // Forgotten and missing ends: the JSON is whole all the same.
    check(
        "qwen3_coder",
        "<tool_call><function=weather><parameter=city>A<parameter=days>1</function></tool_call>",
        "",
        &[("weather", r#"{"city": "A", "days": 1}"#)],
    );
    check("qwen3_coder", "<tool_call><function=weather><parameter=city>Ber</para", "", &[("weather", r#"{"city": "Ber"}"#)]);
    check("qwen3_coder", "<tool_call><function=weather>\n<parameter=ci", "", &[("weather", "{}")]);
    for text in ["<tool_call>\nfoo", "<tool_call><function=a b>", "<function=", "<tool_call>", "x < y"] {
        check("qwen3_coder", text, text, &[]);
    }
}

#[test]
fn llama3_json() {
    let object = r#"{"name": "weather", "parameters": {"city": "Berlin", "days": 2}}"#;
    check("llama3_json", object, "", &[BERLIN]);
    check("llama3_json", &format!("<|python_tag|>{object}; {{\"name\": \"now\", \"parameters\": {{}}}}"), "", &[BERLIN, NOW]);
    check("llama3_json", &format!("  {object}"), "", &[BERLIN]);
    check("llama3_json", r#"{"type": "function", "name": "now", "parameters": {}}"#, "", &[NOW]);
    // JSON that is no call is the answer, and so are objects within text.
    for text in [
        r#"{"name": "Ada", "born": 1815}"#,
        r#"{"name": "Ada"}"#,
        r#"Here: {"name": "now", "parameters": {}}"#,
        "{",
        r#"{"a": 1}"#,
    ] {
        check("llama3_json", text, text, &[]);
    }
}

#[test]
fn mistral() {
    check(
        "mistral",
        r#"[TOOL_CALLS][{"name": "weather", "arguments": {"city": "Berlin", "days": 2}}, {"name": "now", "arguments": {}}]"#,
        "",
        &[BERLIN, NOW],
    );
    check("mistral", r#"[TOOL_CALLS] [{"name": "now", "arguments": {}, "id": "a1"}]"#, "", &[NOW]);
    check(
        "mistral",
        r#"Look.[TOOL_CALLS]weather[ARGS]{"city": "Berlin", "days": 2}[TOOL_CALLS]now[CALL_ID]abc[ARGS]{}"#,
        "Look.",
        &[BERLIN, NOW],
    );
    check("mistral", r#"[TOOL_CALLS]now{}"#, "", &[NOW]);
    for text in ["[TOOL_CALLS]", "[TOOL_CALLS]no call", "[TOOL_CALLS][1]", "[TOOL_"] {
        check("mistral", text, text, &[]);
    }
    assert!(ToolFormat::named("mistral").unwrap().short_ids);
}

#[test]
fn pythonic() {
    check("pythonic", r#"[weather(city="Berlin", days=2), now()]"#, "", &[BERLIN, NOW]);
    check(
        "pythonic",
        r#"[f(a='it\'s', b=[1, 2.5, -3], c={'k': (True, None), "l": {}}, d="a, b) = c")]"#,
        "",
        &[("f", r#"{"a": "it's", "b": [1,2.5,-3], "c": {"k":[true,null],"l":{}}, "d": "a, b) = c"}"#)],
    );
    check("llama4_pythonic", r#"<|python_start|>[weather(city="Berlin", days=2)]<|python_end|>"#, "", &[BERLIN]);
    for text in ["[1] says so", "[link](http://x)", "[see(this) now]", "[f(a=b)]", "[f(1)]", "[", "[f(", "[]", "text [f()]"] {
        check("pythonic", text, text, &[]);
    }
}

#[test]
fn deepseek() {
    let begin = "<｜tool▁calls▁begin｜>";
    let v3 = |name: &str, arguments: &str| {
        format!("<｜tool▁call▁begin｜>function<｜tool▁sep｜>{name}\n```json\n{arguments}\n```<｜tool▁call▁end｜>")
    };
    let text = format!("Ok.{begin}{}\n{}<｜tool▁calls▁end｜>", v3("weather", BERLIN.1), v3("now", "{}"));
    check("deepseek_v3", &text, "Ok.", &[BERLIN, NOW]);
    let v31 = |name: &str, arguments: &str| format!("<｜tool▁call▁begin｜>{name}<｜tool▁sep｜>{arguments}<｜tool▁call▁end｜>");
    let text = format!("{begin}{}{}<｜tool▁calls▁end｜>", v31("weather", BERLIN.1), v31("now", "{}"));
    check("deepseek_v31", &text, "", &[BERLIN, NOW]);
    check("deepseek_v31", &format!("{begin}{}", v31("now", "{1}")), "", &[("now", "{1}")]);
    check("deepseek_v31", &format!("{begin}x"), &format!("{begin}x"), &[]);
}

#[test]
fn others() {
    check(
        "granite",
        r#"<|tool_call|>[{"name": "weather", "arguments": {"city": "Berlin", "days": 2}}, {"name": "now", "arguments": {}}]"#,
        "",
        &[BERLIN, NOW],
    );
    check("granite", r#"<tool_call>[{"name": "now", "arguments": {}}]"#, "", &[NOW]);
    check(
        "granite-20b-fc",
        r#"<function_call> {"name": "now", "arguments": {}} <function_call> {"name": "now", "arguments": {}}"#,
        "",
        &[NOW, NOW],
    );
    check("phi4_mini_json", r#"functools[{"name": "weather", "arguments": {"city": "Berlin", "days": 2}}]"#, "", &[BERLIN]);
    check("phi4_mini_json", "functools are nice", "functools are nice", &[]);
    check("jamba", r#"<tool_calls>[{"name": "now", "arguments": {}}]</tool_calls>"#, "", &[NOW]);
    check("internlm", r#"Hm<|action_start|><|plugin|>{"name": "now", "parameters": {}}<|action_end|>"#, "Hm", &[NOW]);
    check(
        "kimi_k2",
        r#"<|tool_calls_section_begin|><|tool_call_begin|>functions.weather:0<|tool_call_argument_begin|>{"city": "Berlin", "days": 2}<|tool_call_end|><|tool_call_begin|>functions.now:1<|tool_call_argument_begin|>{}<|tool_call_end|><|tool_calls_section_end|>"#,
        "",
        &[BERLIN, NOW],
    );
    check(
        "glm45",
        "<tool_call>weather\n<arg_key>city</arg_key>\n<arg_value>Berlin</arg_value>\n<arg_key>days</arg_key>\n<arg_value>2</arg_value>\n</tool_call>",
        "",
        &[("weather", r#"{"city":"Berlin","days":2}"#)],
    );
    check(
        "functiongemma",
        "<start_function_call>call:weather{city:<escape>Berlin<escape>,days:2}<end_function_call>",
        "",
        &[("weather", r#"{"city":"Berlin","days":2}"#)],
    );
    check(
        "required",
        r#"[{"name": "weather", "parameters": {"city": "Berlin", "days": 2}}, {"name": "now", "parameters": {}}]"#,
        "",
        &[BERLIN, NOW],
    );
}

#[test]
fn a_named_function_gets_all_of_the_content() {
    let mut reply = Reply::named(None, Opening::Unknown, "now");
    let mut deltas = Vec::new();
    for piece in ["{\"a\"", ": 1}"] {
        reply.feed(piece, &mut deltas);
    }
    reply.finish(&mut deltas);
    let expected = [Delta::Call { index: 0, name: "now".into() }, Delta::Arguments { index: 0, fragment: "{\"a\": 1}".into() }];
    assert_eq!(deltas, expected);
}

/// One thought: the format, where the prompt leaves the reply, the text, and its two parts.
#[track_caller]
fn check_thought(reasoning: &str, prompt: &str, text: &str, thought: &str, content: &str) {
    let format = format_of("hermes", reasoning);
    let opening = format.reasoning.expect("a format").opening(prompt);
    let answer = read_in_every_cut(format, opening, text);
    assert_eq!(
        (answer.reasoning.as_str(), answer.content.as_str()),
        (thought, content),
        "{reasoning} after {prompt:?}: {text:?}"
    );
}

#[test]
fn thoughts() {
    check_thought("deepseek_r1", "", "<think>hm</think>Yes", "hm", "Yes");
    check_thought("deepseek_r1", "", "hm</think>\n\nYes", "hm", "\n\nYes");
    check_thought("deepseek_r1", "", "hm", "hm", "");
    check_thought("deepseek_r1", "", "hm</thi", "hm</thi", "");
    check_thought("deepseek_r1", "", "  </think>x", "  ", "x");
    check_thought("deepseek_r1", "", "", "", "");
    check_thought("qwen3", "", "\n<think>\nhm\n</think>\nYes", "\nhm\n", "\nYes");
    check_thought("qwen3", "", "Yes <think>x</think>", "", "Yes <think>x</think>");
    check_thought("qwen3", "<think>\n", "hm</think>Yes", "hm", "Yes");
    check_thought("qwen3", "<think>\n\n</think>\n\n", "<think>no", "", "<think>no");
    check_thought("mistral", "", "[THINK]a[/THINK]b", "a", "b");
    check_thought("granite", "", "Here is my thought process: a Here's my response: b", " a ", " b");
    check_thought("granite", "", "Here is the thing.", "", "Here is the thing.");
    check_thought("seed_oss", "", "a</seed:think>b", "a", "b");
    // A call ends the thought.
    let format = format_of("hermes", "qwen3");
    let text = "<think>I call <tool_call>{\"name\": \"now\", \"arguments\": {}}</tool_call>";
    let answer = read_in_every_cut(format, Opening::Unknown, text);
    let expected = Answer { reasoning: "I call ".into(), content: String::new(), calls: vec![("now".into(), "{}".into())] };
    assert_eq!(answer, expected);
}

#[test]
fn formats_are_guessed_from_templates() {
    for (template, tools, reasoning) in [
        ("{{ '<tool_call>\\n{\"name\": ' }} </think> enable_thinking", "hermes", "qwen3"),
        ("<tool_call><function=x><parameter=y>", "qwen3_coder", ""),
        ("<|start_header_id|> {\"name\": function name, \"parameters\": dictionary}", "llama3_json", ""),
        ("[AVAILABLE_TOOLS] [TOOL_CALLS] [THINK]", "mistral", "mistral"),
        ("<|start_of_role|> <|tool_call|>", "granite", ""),
        ("<｜tool▁call▁begin｜> ```json <think> </think>", "deepseek_v3", "deepseek_r1"),
        ("<|im_start|>", "", ""),
    ] {
        assert_eq!(ToolFormat::of_template(template).map_or("", |format| format.names[0]), tools, "{template}");
        assert_eq!(ReasoningFormat::of_template(template).map_or("", |format| format.names[0]), reasoning, "{template}");
    }
    let mut names: Vec<&str> = tools::FORMATS.iter().flat_map(|format| format.names).copied().collect();
    names.sort_unstable();
    let count = names.len();
    names.dedup();
    assert_eq!(names.len(), count, "a name means one format");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4_000))]

    /// Of any text, made of what the formats turn on: nothing panics, cuts do not matter, and what is neither marker nor call is content.
    #[test]
    fn any_text_in_any_cuts(
        format in 0..tools::FORMATS.len(),
        thought in 0..6usize,
        pieces in proptest::collection::vec(piece(), 0..12),
        cuts in proptest::collection::vec(any::<prop::sample::Index>(), 0..6),
    ) {
        let format = ReplyFormat {
            tools: Some(tools::FORMATS[format]),
            reasoning: ["deepseek_r1", "qwen3", "mistral", "granite"].get(thought).and_then(|name| ReasoningFormat::named(name)),
        };
        let text = pieces.concat();
        let whole = read(format, Opening::Unknown, &[&text]);
        let bounds: Vec<usize> = text.char_indices().map(|(at, _)| at).collect();
        let mut at: Vec<usize> = if bounds.is_empty() { vec![] } else { cuts.iter().map(|cut| bounds[cut.index(bounds.len())]).collect() };
        at.extend([0, text.len()]);
        at.sort_unstable();
        let parts: Vec<&str> = at.windows(2).map(|pair| &text[pair[0]..pair[1]]).collect();
        prop_assert_eq!(read(format, Opening::Unknown, &parts), whole.clone());
        // An empty section of calls is nothing.
        let section = text.contains("<｜tool▁calls▁end｜>");
        if whole.calls.is_empty() && format.reasoning.is_none() && !section {
            prop_assert_eq!(whole.content, text, "without a call all is content");
        }
    }
}

fn piece() -> impl Strategy<Value = String> {
    let markers: Vec<&str> = tools::FORMATS.iter().flat_map(|format| format.markers()).collect();
    let rest = [
        "</tool_call>",
        "{\"name\": \"f\", \"arguments\": {\"a\": [1, \"}\"]}}",
        "{\"name\": \"f\"",
        ", \"arguments\": {",
        "{}",
        "}",
        "]",
        "[",
        ", ",
        ";",
        "\"",
        "<parameter=a>",
        "</parameter>",
        "</function>",
        "<function=f>",
        "f(a=1",
        ")",
        "[ARGS]",
        "<｜tool▁sep｜>",
        "<｜tool▁call▁end｜>",
        "<｜tool▁calls▁end｜>",
        "<|tool_call_argument_begin|>",
        "<|tool_call_end|>",
        "call:f{a:<escape>",
        "<escape>}",
        "<end_function_call>",
        "<arg_key>a</arg_key><arg_value>1</arg_value>",
        "<think>",
        "</think>",
        "[THINK]",
        "\n",
        " ",
        "é🚂",
        "text",
        "functions.f:0",
        "\\",
    ];
    let all: Vec<String> = markers.into_iter().chain(rest).map(str::to_owned).collect();
    prop_oneof![4 => proptest::sample::select(all), 1 => "[ -~]{0,4}"]
}

/// The fuzzer's seeds and finds (`tests/fuzz/fuzz_targets/reply.rs`): format of tools, format of thoughts, opening, text.
#[test]
fn the_fuzzers_corpus_reads_alike_in_every_cut() {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fuzz/corpus/reply");
    let mut count = 0;
    for entry in std::fs::read_dir(folder).expect("the corpus") {
        let bytes = std::fs::read(entry.expect("an entry").path()).expect("a seed");
        let [tool, thought, opening, text @ ..] = &bytes[..] else { panic!("a seed has a head of three bytes") };
        let format = ReplyFormat {
            tools: tools::FORMATS.get(*tool as usize % (tools::FORMATS.len() + 1)).copied(),
            reasoning: reasoning::FORMATS.get(*thought as usize % (reasoning::FORMATS.len() + 1)),
        };
        let opening = [Opening::Unknown, Opening::Inside, Opening::Outside][*opening as usize % 3];
        if let Ok(text) = std::str::from_utf8(text) {
            read_in_every_cut(format, opening, text);
            count += 1;
        }
    }
    assert!(count > 10, "{count} seeds");
}
