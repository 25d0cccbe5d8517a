//! Formats that are named, switched off or detected, and what the template is given: over HTTP.

use engine_serve::{Parsers, Progress};
use serde_json::{Value, json};

use crate::script::Script;
use crate::server::{Server, cpu, path, scripted};

const CALL: &str = "{\"name\": \"now\", \"arguments\": {\"zone\": \"UTC\"}}";

fn tools() -> Value {
    json!([{"type": "function", "function": {"name": "now", "parameters": {"type": "object"}}}])
}

/// The message that a server with these parsers makes of a reply that thinks and calls.
async fn message(tools_by: Option<&str>, reasoning_by: Option<&str>) -> Value {
    let script = Script::new(&[&["Q", "<think>", "hm", "</think>", "<tool_call>", CALL, "</tool_call>"]], &[]);
    let mut config = cpu(script.assets());
    config.parsers = Parsers::named(tools_by, reasoning_by, false).expect("names that are known");
    let server = Server::start(config).await;
    let body = json!({"messages": [{"role": "user", "content": "Q"}], "tools": tools(), "temperature": 0});
    let answer = server.post(path("chat"), &body).await.json();
    server.stop().await.expect("a clean end");
    answer["choices"][0]["message"].clone()
}

#[tokio::test]
async fn a_reply_is_read_in_the_formats_that_are_named() {
    let all = format!("<think>hm</think><tool_call>{CALL}</tool_call>");
    let check = async |tools_by, reasoning_by, content: Value, reasoning: Value, calls: usize| {
        let message = message(tools_by, reasoning_by).await;
        assert_eq!((&message["content"], &message["reasoning"]), (&content, &reasoning), "{message}");
        assert_eq!(message["tool_calls"].as_array().map_or(0, Vec::len), calls, "{message}");
    };
    // The template says nothing of either.
    check(None, None, json!(all), Value::Null, 0).await;
    check(Some("hermes"), Some("qwen3"), Value::Null, json!("hm"), 1).await;
    check(Some("qwen3_json"), Some("none"), json!("<think>hm</think>"), Value::Null, 1).await;
    check(Some("none"), Some("deepseek_r1"), json!(format!("<tool_call>{CALL}</tool_call>")), json!("hm"), 0).await;
}

#[tokio::test]
async fn names_that_are_none_are_refused_with_all_that_are() {
    let check = |tools, reasoning, flag: &str, lists: &[&str]| {
        let fault = Parsers::named(tools, reasoning, false).expect_err("no such parser").to_string();
        assert!(fault.contains(flag), "{fault}");
        lists.iter().for_each(|name| assert!(fault.contains(name), "{fault} lists {name}"));
    };
    check(
        Some("gpt9"),
        None,
        "--tool-call-parser gpt9",
        &["hermes", "llama3_json", "mistral", "qwen3_coder", "deepseek_v31", "glm45"],
    );
    check(None, Some("hermes"), "--reasoning-parser hermes", &["qwen3", "deepseek_r1", "mistral", "granite"]);
    let mut config = cpu(scripted());
    config.parsers = Parsers::named(None, None, true).expect("no name");
    let fault = engine_serve::bind(config).await.err().expect("nothing says how tools are called").to_string();
    assert!(fault.contains("--enable-auto-tool-choice"), "{fault}");
    let mut config = cpu(scripted());
    config.parsers = Parsers::named(Some("hermes"), None, true).expect("a name");
    let mut server = Server::begin(config).await;
    server.reach(|progress| progress == Progress::Ready).await;
    server.stop().await.expect("a clean end");
}

#[tokio::test]
async fn a_template_has_its_variables_from_the_operator_then_from_the_request() {
    let script = Script::new(&[], &[]);
    let mut assets = engine_assets::open(script.path()).expect("a good model");
    assets.text.chat_template = Some("{{ mood }}|{{ messages[0].content }}|{{ reasoning_effort }}|{{ enable_thinking }}".into());
    assets.text.template_kwargs = Some(json!({"mood": "calm"}).to_string());
    assets.text.content_parts = Some(true);
    let server = Server::start(cpu(assets.into())).await;
    let check = async |extra: Value, prompt: &str| {
        let mut body = json!({"messages": [{"role": "user", "content": [{"type": "text", "text": "a"}]}], "max_tokens": 1, "return_prompt_text": true});
        body.as_object_mut().expect("an object").extend(extra.as_object().expect("an object").clone());
        let answer = server.post(path("chat"), &body).await.json();
        assert_eq!(answer["prompt_text"], prompt, "{extra}: {answer}");
    };
    let parts = "[{'type': 'text', 'text': 'a'}]";
    check(json!({}), &format!("calm|{parts}||")).await;
    check(json!({"chat_template_kwargs": {"mood": "gruff"}}), &format!("gruff|{parts}||")).await;
    // As vLLM: an effort asks for a thought where the template has a switch for it, and "none" for none.
    check(json!({"reasoning_effort": "low"}), &format!("calm|{parts}|low|True")).await;
    check(json!({"reasoning_effort": "none"}), &format!("calm|{parts}|none|False")).await;
    let own = json!({"reasoning_effort": "low", "chat_template_kwargs": {"enable_thinking": false}});
    check(own, &format!("calm|{parts}|low|False")).await;
    server.stop().await.expect("a clean end");
}

/// docs/configuration.md lists the names that are known, and no others.
#[test]
fn the_documented_names_are_those_of_the_tables() {
    const DOC: &str = include_str!("../../../../docs/configuration.md");
    let listed = |heading: &str| -> Vec<&str> {
        let (_, rest) = DOC.split_once(heading).expect("the list");
        rest.split_whitespace().take_while(|name| name.starts_with('`')).map(|name| name.trim_end_matches('.')).collect()
    };
    let known = |tools, reasoning| {
        let fault = Parsers::named(tools, reasoning, false).expect_err("no such parser").to_string();
        let (_, names) = fault.split_once("give one of ").expect("the names");
        names.split(';').next().expect("the names").split(", ").map(|name| format!("`{name}`")).collect::<Vec<_>>()
    };
    assert_eq!(listed("Tool-call parsers: "), known(Some("?"), None));
    assert_eq!(listed("Reasoning parsers: "), known(None, Some("?")));
}
