//! Forms of whole replies, thoughts and calls among them: required and named tools, strict ones, structural tags, and where a grammar
//! begins. The scripted model says what it likes, so that what holds is the grammar's doing. Whole and streamed answers are compared.

use engine_serve::Parsers;
use serde_json::{Value, json};

use crate::script::Script;
use crate::server::{Server, cpu, path};

const RESPONSES: &str = "/v1/responses";
const MESSAGES: &str = "/v1/messages";

fn with(mut body: Value, extra: &Value) -> Value {
    body.as_object_mut().expect("an object").extend(extra.as_object().expect("an object").clone());
    body
}

async fn server(script: &Script, in_reasoning: bool) -> Server {
    let mut config = cpu(script.assets());
    config.parsers = Parsers::named(Some("hermes"), Some("qwen3"), false).expect("names that are known");
    config.answers.structured_in_reasoning = in_reasoning;
    Server::start(config).await
}

/// A chat's message and finish reason, asked for whole and streamed, which say the same.
async fn message(server: &Server, body: &Value) -> (Value, Value) {
    let answer = server.post(path("chat"), body).await;
    assert_eq!(answer.status, 200, "{body}: {}", answer.text());
    let answer = answer.json();
    let choice = &answer["choices"][0];
    let mut whole = choice["message"].clone();
    let events = server.post(path("chat"), &with(body.clone(), &json!({"stream": true}))).await.events();
    let (mut content, mut reasoning, mut finish) = (String::new(), String::new(), Value::Null);
    let mut calls: Vec<(String, String)> = Vec::new();
    for event in &events[..events.len() - 1] {
        let chunk: Value = serde_json::from_str(event).expect("JSON");
        let choice = &chunk["choices"][0];
        content += choice["delta"]["content"].as_str().unwrap_or_default();
        reasoning += choice["delta"]["reasoning"].as_str().unwrap_or_default();
        for call in choice["delta"]["tool_calls"].as_array().into_iter().flatten() {
            let index = call["index"].as_u64().expect("an index") as usize;
            if let Some(name) = call["function"]["name"].as_str() {
                assert_eq!(index, calls.len(), "{chunk}");
                calls.push((name.to_owned(), String::new()));
            }
            calls[index].1 += call["function"]["arguments"].as_str().unwrap_or_default();
        }
        finish = if choice["finish_reason"].is_null() { finish } else { choice["finish_reason"].clone() };
    }
    let said: Vec<(String, String)> = whole["tool_calls"]
        .as_array()
        .into_iter()
        .flatten()
        .map(|call| {
            let text = |key: &str| call["function"][key].as_str().expect("a text").to_owned();
            (text("name"), text("arguments"))
        })
        .collect();
    assert_eq!((said, &finish), (calls, &choice["finish_reason"]), "{body}");
    assert_eq!(whole["content"].as_str().unwrap_or_default(), content, "{body}");
    assert_eq!(whole["reasoning"].as_str().unwrap_or_default(), reasoning, "{body}");
    whole["calls"] = whole["tool_calls"]
        .as_array()
        .into_iter()
        .flatten()
        .map(|call| {
            let arguments = call["function"]["arguments"].as_str().expect("a text");
            json!([call["function"]["name"], serde_json::from_str::<Value>(arguments).expect("JSON")])
        })
        .collect();
    (whole, finish)
}

/// Tools whose arguments end by themselves, whatever the model is.
fn tools(strict: bool) -> Value {
    let parameters = json!({
        "type": "object", "properties": {"unit": {"enum": ["C", "F"]}}, "required": ["unit"], "additionalProperties": false,
        "x-guidance": {"whitespace_flexible": false},
    });
    let tool = |name: &str| json!({"type": "function", "function": {"name": name, "strict": strict, "parameters": parameters}});
    json!([tool("heat"), tool("rain")])
}

fn is_unit(arguments: &Value) -> bool {
    matches!(arguments["unit"].as_str(), Some("C" | "F")) && arguments.as_object().is_some_and(|fields| fields.len() == 1)
}

#[tokio::test]
async fn calls_that_must_be_made_are_made_by_every_door_behind_the_thought() {
    // It would say nothing but a thought.
    let script = Script::new(&[&["T", "<think>", "hm", "</think>"], &["C", "no"]], &["<think>", "</think>"]);
    let server = server(&script, false).await;
    for (prompt, thought) in [("T", "hm"), ("C", "")] {
        for (choice, reason) in
            [(json!("required"), "tool_calls"), (json!({"type": "function", "function": {"name": "rain"}}), "stop")]
        {
            for seed in 0..3 {
                let body = json!({
                    "messages": [{"role": "user", "content": prompt}], "tools": tools(false), "tool_choice": choice, "seed": seed,
                    "temperature": 1, "parallel_tool_calls": false, "max_tokens": 400,
                    // Where the thought's beginning is allowed, a warm model would begin one now and then.
                    "logit_bias": if prompt == "C" { json!({"260": -100, "261": -100}) } else { json!({}) },
                });
                let (message, finish) = message(&server, &body).await;
                let calls = message["calls"].as_array().expect("a list");
                assert_eq!(calls.len(), 1, "{message}");
                assert!(is_unit(&calls[0][1]) && finish == reason, "{message}");
                assert_eq!(
                    (message["reasoning"].as_str().unwrap_or_default(), &message["content"]),
                    (thought, &Value::Null),
                    "{message}"
                );
                assert!(reason == "tool_calls" || calls[0][0] == "rain", "{message}");
            }
        }
    }
    let flat: Vec<Value> = tools(false)
        .as_array()
        .expect("a list")
        .iter()
        .map(|tool| with(tool["function"].clone(), &json!({"type": "function"})))
        .collect();
    for choice in [
        json!("required"),
        json!({"type": "function", "name": "rain"}),
        json!({"type": "allowed_tools", "mode": "required", "tools": [{"type": "function", "name": "rain"}]}),
    ] {
        let body = json!({"input": "T", "tools": flat, "tool_choice": choice, "parallel_tool_calls": false, "temperature": 1, "seed": 3, "max_output_tokens": 400});
        let answer = server.post(RESPONSES, &body).await.json();
        let (thought, call) = (&answer["output"][0], &answer["output"][1]);
        assert_eq!(
            (&thought["content"][0]["text"], &call["type"], &answer["output"][2]),
            (&json!("hm"), &json!("function_call"), &Value::Null),
            "{answer}"
        );
        assert!(is_unit(&serde_json::from_str(call["arguments"].as_str().expect("a text")).expect("JSON")), "{answer}");
        assert!(choice == "required" || call["name"] == "rain", "{answer}");
    }
    let named: Vec<Value> = flat.iter().map(|tool| json!({"name": tool["name"], "input_schema": tool["parameters"]})).collect();
    for choice in [json!({"type": "any", "disable_parallel_tool_use": true}), json!({"type": "tool", "name": "rain"})] {
        let body = json!({"model": "m", "max_tokens": 400, "tools": named, "tool_choice": choice, "temperature": 1, "messages": [{"role": "user", "content": "T"}]});
        let answer = server.post(MESSAGES, &body).await.json();
        let (thought, call) = (&answer["content"][0], &answer["content"][1]);
        assert_eq!(
            (&thought["thinking"], &answer["stop_reason"], &answer["content"][2]),
            (&json!("hm"), &json!("tool_use"), &Value::Null),
            "{answer}"
        );
        assert!(is_unit(&call["input"]), "{answer}");
    }
    server.stop().await.expect("a clean end");
}

#[tokio::test]
async fn strict_arguments_are_bound_once_a_call_begins() {
    // The model's own call has arguments that no schema here allows.
    let call = ["<tool_call>", "\n", "{\"name\": \"heat\", \"arguments\": ", "{\"unit\": \"K\"}", "}\n</tool_call>"];
    let chain = [&["S", "so "][..], &call].concat();
    let script = Script::new(&[&chain, &["C", "no", " call"]], &["<tool_call>"]);
    let server = server(&script, false).await;
    let ask = |prompt: &str, extra: Value| {
        with(json!({"messages": [{"role": "user", "content": prompt}], "temperature": 0, "max_tokens": 200}), &extra)
    };
    let (free, _) = message(&server, &ask("S", json!({"tools": tools(false)}))).await;
    assert_eq!(free["calls"], json!([["heat", {"unit": "K"}]]));
    let (bound, finish) = message(&server, &ask("S", json!({"tools": tools(true), "tool_choice": "auto"}))).await;
    assert_eq!((bound["content"].as_str(), &finish), (Some("so "), &json!("tool_calls")), "{bound}");
    assert!(
        bound["calls"].as_array().is_some_and(|calls| calls.len() == 1 && calls[0][0] == "heat" && is_unit(&calls[0][1])),
        "{bound}"
    );
    // Text without a call is bound by nothing.
    let (text, finish) = message(&server, &ask("C", json!({"tools": tools(true)}))).await;
    assert_eq!((&text["content"], &finish), (&json!("no call"), &json!("stop")));
    server.stop().await.expect("a clean end");
}

#[tokio::test]
async fn one_call_is_the_most_where_the_client_says_so() {
    let script = Script::new(
        &[&["S", "<tool_call>", "\n", "{\"name\": \"heat\", \"arguments\": ", "{}", "}\n</tool_call>", "<tool_call>"]],
        &["<tool_call>"],
    );
    let server = server(&script, false).await;
    let bare = json!([{"type": "function", "function": {"name": "heat"}}]);
    let body = json!({"messages": [{"role": "user", "content": "S"}], "tools": bare, "temperature": 0, "max_tokens": 20});
    let (many, _) = message(&server, &body).await;
    assert!(many["calls"].as_array().is_some_and(|calls| calls.len() > 1), "{many}");
    let (one, finish) = message(&server, &with(body, &json!({"parallel_tool_calls": false}))).await;
    assert_eq!((&one["calls"], &finish), (&json!([["heat", {}]]), &json!("tool_calls")), "{one}");
    server.stop().await.expect("a clean end");
}

#[tokio::test]
async fn structural_tags_bind_what_stands_between_them() {
    let script = Script::new(&[&["S", "so ", "<f=", "on>", "{\"unit\": \"K\"}", "</f>", " end"]], &[]);
    let server = server(&script, false).await;
    let schema = tools(false)[0]["function"]["parameters"].clone();
    let structures = json!({"structures": [{"begin": "<f=on>", "schema": schema, "end": "</f>"}], "triggers": ["<f="]});
    let tag = json!({"type": "tag", "begin": "<f=on>", "content": {"type": "json_schema", "json_schema": schema}, "end": "</f>"});
    let triggered = json!({"type": "triggered_tags", "triggers": ["<f="], "tags": [tag]});
    let format = |format: Value| json!({"type": "structural_tag", "format": format});
    let typed = with(structures.clone(), &json!({"type": "structural_tag"}));
    // Either form, by either parameter; in structured_outputs it is a text of JSON, as clients of vLLM send it, or JSON itself.
    for asked in [
        json!({"response_format": typed}),
        json!({"response_format": format(triggered.clone())}),
        json!({"structured_outputs": {"structural_tag": typed.to_string()}}),
        json!({"structured_outputs": {"structural_tag": format(triggered.clone())}}),
    ] {
        let body = with(json!({"messages": [{"role": "user", "content": "S"}], "temperature": 0, "max_tokens": 60}), &asked);
        let (message, finish) = message(&server, &body).await;
        let text = message["content"].as_str().expect("a text");
        let (_, bound) = text.split_once("so <f=on>").unwrap_or_else(|| panic!("{asked}: {text}"));
        let (bound, _) = bound.split_once("</f>").unwrap_or_else(|| panic!("{asked}: {text}"));
        assert!(is_unit(&serde_json::from_str(bound).expect("JSON")), "{asked}: {text}");
        assert_eq!(finish, "stop");
    }
    // What is written of XGrammar's other formats.
    let text = |value: &str| json!({"type": "const_string", "value": value});
    for (form, is) in [
        (
            json!({"type": "sequence", "elements": [text("a"), {"type": "or", "elements": [text("b"), {"type": "regex", "pattern": "[0-9]{2}"}]}]}),
            "ab",
        ),
        (json!({"type": "tag", "begin": "<", "content": {"type": "regex", "pattern": "x{2}"}, "end": [">", "!"]}), "<xx"),
        (
            json!({"type": "tags_with_separator", "separator": ",", "at_least_one": true, "stop_after_first": true, "tags": [{"begin": "q", "content": text("r"), "end": "s"}]}),
            "qrs",
        ),
        (json!({"type": "tag", "begin": "(", "content": {"type": "any_text"}, "end": ")"}), "("),
    ] {
        let body = json!({"messages": [{"role": "user", "content": "S"}], "temperature": 0, "max_tokens": 40, "response_format": format(form)});
        let (message, _) = message(&server, &body).await;
        let said = message["content"].as_str().expect("a text");
        let digits = is == "ab" && said.len() == 3 && said[1..].parse::<u8>().is_ok();
        assert!(said.starts_with(is) || digits, "{body}: {said}");
    }
    for (form, place) in [
        (json!({"type": "grammar", "grammar": "x"}), "response_format.format.type"),
        (json!({"type": "sequence", "elements": []}), "response_format.format.elements"),
        (json!({"type": "triggered_tags", "triggers": ["?"], "tags": [tag]}), "response_format.format.tags[0].begin"),
        (
            json!({"type": "tag", "begin": "a", "content": {"type": "json_schema", "json_schema": 3}, "end": "b"}),
            "response_format.format.content.json_schema",
        ),
    ] {
        let body = json!({"messages": [{"role": "user", "content": "S"}], "response_format": format(form)});
        let answer = server.post(path("chat"), &body).await;
        assert_eq!((answer.status.as_u16(), &answer.json()["error"]["param"]), (400, &json!(place)), "{}", answer.text());
    }
    server.stop().await.expect("a clean end");
}

#[tokio::test]
async fn a_grammar_begins_behind_the_thought_or_with_it_where_the_server_is_told() {
    let script = Script::new(&[&["T", "<think>", "hm", "</think>", "free"]], &["<think>", "</think>"]);
    let schema = json!({"type": "object", "properties": {"ok": {"type": "boolean"}}, "required": ["ok"], "additionalProperties": false, "x-guidance": {"whitespace_flexible": false}});
    let format = json!({"type": "json_schema", "json_schema": {"name": "s", "schema": schema}});
    let holds = |text: &Value| {
        serde_json::from_str::<Value>(text.as_str().unwrap_or_default()).is_ok_and(|value| value["ok"].is_boolean())
    };
    let server_of = async |in_reasoning: bool| server(&script, in_reasoning).await;
    let server = server_of(false).await;
    let body =
        json!({"messages": [{"role": "user", "content": "T"}], "temperature": 0, "max_tokens": 40, "response_format": format});
    let (message_, finish) = message(&server, &body).await;
    assert!(holds(&message_["content"]) && message_["reasoning"] == "hm" && finish == "stop", "{message_}");
    // The template began the thought, or ended it: the grammar begins where the answer does.
    for (suffix, thought) in [("<think>", true), ("<think></think>", false)] {
        let (message, _) = message(&server, &with(body.clone(), &json!({"chat_template_kwargs": {"suffix": suffix}}))).await;
        assert!(holds(&message["content"]), "{message}");
        assert_eq!(message["reasoning"] == "hm", thought, "{message}");
    }
    // The other doors, by their own parameters.
    let answer = server.post(RESPONSES, &json!({"input": "T", "temperature": 0, "max_output_tokens": 40, "text": {"format": {"type": "json_schema", "name": "s", "schema": schema}}})).await.json();
    assert!(holds(&answer["output"][1]["content"][0]["text"]) && answer["output"][0]["content"][0]["text"] == "hm", "{answer}");
    let answer = server.post(MESSAGES, &json!({"model": "m", "max_tokens": 40, "temperature": 0, "messages": [{"role": "user", "content": "T"}], "output_config": {"format": {"type": "json_schema", "schema": schema}}})).await.json();
    assert!(holds(&answer["content"][1]["text"]) && answer["content"][0]["thinking"] == "hm", "{answer}");
    server.stop().await.expect("a clean end");
    let server = server_of(true).await;
    let (message, _) = message(&server, &body).await;
    assert!(holds(&message["content"]) && message["reasoning"].is_null(), "{message}");
    server.stop().await.expect("a clean end");
}
