//! What a model thinks, says and calls, by every door that shows all three: `/v1/chat/completions`, `/v1/responses`, `/v1/messages`. A
//! scripted model says it, so that each test is exact, and each answer is asked for whole and streamed.

use engine_serve::Parsers;
use serde_json::{Value, json};

use crate::script::Script;
use crate::server::{Server, cpu, path};

const RESPONSES: &str = "/v1/responses";
const MESSAGES: &str = "/v1/messages";
const CALL: &str = "{\"name\": \"now\", \"arguments\": {\"zone\": \"UTC\"}}";
const NEXT: &str = "{\"name\": \"rain\", \"arguments\": {}}";

/// `T`: thinks, speaks, calls twice. `S`: thinks and speaks. `C`: speaks alone.
fn script() -> Script {
    Script::new(
        &[
            &[
                "T",
                "<think>",
                "Which zone",
                "?",
                "</think>",
                "I ",
                "look",
                ".",
                "<tool_call>",
                CALL,
                "</tool_call>",
                "<tool_call>\n",
                NEXT,
                "\n</tool_call>",
            ],
            &["S", "<think>\n", "so", "</think>\n", "so it", " is"],
            &["C", "plain", " talk"],
        ],
        &["<think>", "</think>"],
    )
}

async fn server(script: &Script) -> Server {
    let mut config = cpu(script.assets());
    config.parsers = Parsers::named(Some("hermes"), Some("qwen3"), false).expect("names that are known");
    config.answers.responses_store = true;
    Server::start(config).await
}

fn with(mut body: Value, extra: &Value) -> Value {
    body.as_object_mut().expect("an object").extend(extra.as_object().expect("an object").clone());
    body
}

/// Named events: name and data, which agree on the name.
fn events(text: &str) -> Vec<Value> {
    let event = |event: &str| {
        let (name, data) = event.split_once("\ndata: ").expect("a name and data");
        let data: Value = serde_json::from_str(data).expect("JSON");
        assert_eq!(name.strip_prefix("event: "), data["type"].as_str());
        data
    };
    text.trim_end().split("\n\n").map(event).collect()
}

fn names(events: &[Value]) -> Vec<&str> {
    events.iter().filter_map(|event| event["type"].as_str()).collect()
}

/// An output as its items say it, without ids.
fn said(output: &Value) -> Vec<Value> {
    let item = |item: &Value| {
        assert!(item["id"].as_str().is_some_and(|id| id.len() > 32), "{item}");
        match item["type"].as_str() {
            Some("function_call") => json!(["call", item["name"], item["arguments"], item["status"]]),
            Some(kind) => json!([kind, item["content"][0]["text"], item["status"]]),
            None => item.clone(),
        }
    };
    output.as_array().expect("a list").iter().map(item).collect()
}

const TOOLS: &str =
    r#"[{"type": "function", "name": "now", "parameters": {"type": "object"}}, {"type": "function", "name": "rain"}]"#;

fn tools() -> Value {
    serde_json::from_str(TOOLS).expect("JSON")
}

#[tokio::test]
async fn responses_show_thoughts_text_and_calls_as_items() {
    let script = script();
    let server = server(&script).await;
    let check = async |input: &str, extra: Value, output: Value, status: &str, order: &[&str]| {
        let body = with(json!({"input": input, "temperature": 0, "tools": tools()}), &extra);
        let whole = server.post(RESPONSES, &body).await.json();
        assert_eq!((json!(said(&whole["output"])), &whole["status"]), (output, &json!(status)), "{whole}");
        let events = events(&server.post(RESPONSES, &with(body, &json!({"stream": true}))).await.text());
        let last = &events[events.len() - 1]["response"];
        assert_eq!((said(&last["output"]), &last["usage"]), (said(&whole["output"]), &whole["usage"]), "stream = whole");
        let mut names = names(&events);
        names.dedup();
        let ends = ["response.created", "response.in_progress"].iter().chain(order);
        let end = format!("response.{status}");
        assert_eq!(names, ends.copied().chain([end.as_str()]).collect::<Vec<_>>());
        // Deltas of an item, joined, are the item; its events bear its id and place.
        for (index, item) in last["output"].as_array().expect("a list").iter().enumerate() {
            let of = |event: &&Value| event["item_id"] == item["id"] && event["output_index"] == index;
            let deltas: String = events.iter().filter(of).filter_map(|event| event["delta"].as_str()).collect();
            let whole = item["arguments"].as_str().or(item["content"][0]["text"].as_str()).expect("a text");
            assert_eq!(deltas, whole);
            assert!(events.iter().any(|event| event["type"] == "response.output_item.done" && event["item"] == *item));
        }
        whole
    };
    let reasoning = [
        "output_item.added",
        "content_part.added",
        "reasoning_text.delta",
        "reasoning_text.done",
        "content_part.done",
        "output_item.done",
    ];
    let text = [
        "output_item.added",
        "content_part.added",
        "output_text.delta",
        "output_text.done",
        "content_part.done",
        "output_item.done",
    ];
    let call = ["output_item.added", "function_call_arguments.delta", "function_call_arguments.done", "output_item.done"];
    let full = |parts: &[&[&str]]| -> Vec<String> { parts.concat().iter().map(|name| format!("response.{name}")).collect() };
    let order = full(&[&reasoning, &text, &call, &call]);
    let order: Vec<&str> = order.iter().map(String::as_str).collect();
    let all = json!([
        ["reasoning", "Which zone?", "completed"],
        ["message", "I look.", "completed"],
        ["call", "now", "{\"zone\": \"UTC\"}", "completed"],
        ["call", "rain", "{}", "completed"],
    ]);
    let whole = check("T", json!({}), all, "completed", &order).await;
    assert_eq!(whole["usage"]["output_tokens_details"]["reasoning_tokens"], 2, "{whole}");
    assert!(whole["output"][2]["call_id"].as_str().is_some_and(|id| id.starts_with("chatcmpl-tool-")));
    let speaks = full(&[&reasoning, &text]);
    let speaks: Vec<&str> = speaks.iter().map(String::as_str).collect();
    let spoken = json!([["reasoning", "\nso", "completed"], ["message", "\nso it is", "completed"]]);
    check("S", json!({"reasoning": {"effort": "high"}}), spoken, "completed", &speaks).await;
    // Cut within the thought: that item is incomplete, and so is the answer.
    let cut = json!([["reasoning", "Which zone", "incomplete"]]);
    let thought = full(&[&reasoning]);
    let thought: Vec<&str> = thought.iter().map(String::as_str).collect();
    check("T", json!({"max_output_tokens": 2}), cut, "incomplete", &thought).await;
    // Without tools, or told to call none, the model's text is text.
    let body = json!({"input": "T", "temperature": 0, "tools": tools(), "tool_choice": "none"});
    let whole = server.post(RESPONSES, &body).await.json();
    assert!(said(&whole["output"])[1][1].as_str().is_some_and(|text| text.contains("<tool_call>")), "{whole}");
    server.stop().await.expect("a clean end");
}

#[tokio::test]
async fn responses_tell_log_probabilities_of_their_text() {
    let script = script();
    let server = server(&script).await;
    let body = json!({"input": "S", "temperature": 0, "include": ["message.output_text.logprobs"], "top_logprobs": 2});
    let whole = server.post(RESPONSES, &body).await.json();
    let told = whole["output"][1]["content"][0]["logprobs"].as_array().expect("log probabilities").clone();
    let tokens: String = told.iter().filter_map(|token| token["token"].as_str()).collect();
    assert!(tokens.ends_with("so it is"), "{whole}");
    assert!(
        told.iter().all(|token| token["logprob"].as_f64().is_some_and(|p| p <= 0.0)
            && token["top_logprobs"].as_array().map(Vec::len) == Some(2))
    );
    let events = events(&server.post(RESPONSES, &with(body, &json!({"stream": true}))).await.text());
    let streamed: Vec<Value> = events
        .iter()
        .filter(|event| event["type"] == "response.output_text.delta")
        .flat_map(|event| event["logprobs"].as_array().expect("a list").clone())
        .collect();
    assert_eq!(streamed, told);
    server.stop().await.expect("a clean end");
}

#[tokio::test]
async fn an_earlier_turn_is_one_message_whatever_items_it_came_in() {
    let script = script();
    let server = server(&script).await;
    let prompt = async |input: Value, extra: Value| {
        let body = with(json!({"input": input, "temperature": 0, "max_output_tokens": 1}), &extra);
        let answer = server.post(RESPONSES, &body).await;
        assert_eq!(answer.status, 200, "{}", answer.text());
        answer.json()["usage"]["input_tokens"].as_u64().expect("a number")
    };
    let count = async |chat: Value| {
        let answer = server.post("/tokenize", &chat).await.json();
        answer["count"].as_u64().unwrap_or_else(|| panic!("{answer}"))
    };
    let user = json!({"role": "user", "content": "a"});
    let items = json!([
        user,
        {"type": "reasoning", "id": "rs_1", "summary": [], "content": [{"type": "reasoning_text", "text": "hm"}]},
        {"type": "message", "role": "assistant", "status": "completed", "content": [{"type": "output_text", "text": "look"}]},
        {"type": "function_call", "call_id": "c1", "name": "now", "arguments": "{\"zone\": \"UTC\"}"},
        {"type": "function_call", "call_id": "c2", "name": "rain", "arguments": ""},
        {"type": "function_call_output", "call_id": "c1", "output": "12:00"},
        {"type": "function_call_output", "call_id": "c2", "output": [{"type": "input_text", "text": "no"}]},
    ]);
    let call = |id: &str, name: &str, arguments: &str| json!({"id": id, "type": "function", "function": {"name": name, "arguments": arguments}});
    let chat = json!({"messages": [
        user,
        {"role": "assistant", "content": "look", "reasoning_content": "hm", "tool_calls": [call("c1", "now", "{\"zone\": \"UTC\"}"), call("c2", "rain", "{}")]},
        {"role": "tool", "tool_call_id": "c1", "content": "12:00"},
        {"role": "tool", "tool_call_id": "c2", "content": "no"},
    ]});
    assert_eq!(prompt(items, json!({})).await, count(chat).await);
    // An answer that is kept is gone on from with all that it was: thought, text and calls.
    let first = json!({"input": "T", "temperature": 0, "tools": tools()});
    let id = server.post(RESPONSES, &first).await.json()["id"].clone();
    let next = json!([{"type": "function_call_output", "call_id": "c1", "output": "12:00"}]);
    let chat = json!({"messages": [
        {"role": "user", "content": "T"},
        {"role": "assistant", "content": "I look.", "reasoning_content": "Which zone?", "tool_calls": [call("c1", "now", "{\"zone\": \"UTC\"}"), call("c2", "rain", "{}")]},
        {"role": "tool", "tool_call_id": "c1", "content": "12:00"},
    ]});
    assert_eq!(prompt(next, json!({"previous_response_id": id})).await, count(chat).await);
    // A partial message of the assistant is gone on with.
    let partial = json!([user, {"type": "message", "role": "assistant", "status": "incomplete", "content": [{"type": "output_text", "text": "C"}]}]);
    let answer = server.post(RESPONSES, &json!({"input": partial, "temperature": 0})).await.json();
    assert_eq!(said(&answer["output"]), [json!(["message", "plain talk", "completed"])], "{answer}");
    server.stop().await.expect("a clean end");
}

/// Tool history as agents send it (case A7), by every door: arguments, and whether they pass.
#[tokio::test]
async fn a_history_of_calls_is_taken_or_refused_alike_by_every_door() {
    let script = script();
    let server = server(&script).await;
    let user = json!({"role": "user", "content": "a"});
    let check = async |arguments: Value, status: u16| {
        let call = json!({"id": "c1", "type": "function", "function": {"name": "now", "arguments": arguments}});
        let chat = json!({"max_tokens": 1, "messages": [user, {"role": "assistant", "content": null, "tool_calls": [call]}, {"role": "tool", "tool_call_id": "c1", "content": "12:00"}, user]});
        let items = json!({"max_output_tokens": 1, "input": [user, {"type": "function_call", "call_id": "c1", "name": "now", "arguments": arguments}, {"type": "function_call_output", "call_id": "c1", "output": "12:00"}, user]});
        let mut doors = vec![(path("chat"), chat.clone(), "messages[1].tool_calls[0]"), (RESPONSES, items, "input[1]")];
        // Anthropic's calls have their input as JSON itself.
        let input: Option<Value> = arguments.as_str().map_or(Some(arguments.clone()), |text| serde_json::from_str(text).ok());
        if let Some(input) = input {
            let blocks = json!({"model": "m", "max_tokens": 1, "messages": [user, {"role": "assistant", "content": [{"type": "tool_use", "id": "c1", "name": "now", "input": input}]}, {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "c1", "content": "12:00"}, {"type": "text", "text": "a"}]}]});
            doors.push((MESSAGES, blocks, "messages[1].content[0]"));
        }
        for (door, body, place) in doors {
            let answer = server.post(door, &body).await;
            assert_eq!(answer.status.as_u16(), status, "{door} {arguments}: {}", answer.text());
            assert!(status == 200 || answer.text().contains(place), "{door} {arguments}: {}", answer.text());
        }
        if status == 200 {
            let rendered = server.post(path("chat"), &with(chat, &json!({"return_prompt_text": true}))).await.json();
            let text = rendered["prompt_text"].as_str().expect("the prompt");
            assert!(!text.contains("None") && !text.contains("null"), "{text}");
        }
    };
    for arguments in [json!("null"), json!(""), json!("{}"), Value::Null, json!({})] {
        check(arguments, 200).await;
    }
    for arguments in [json!("[1]"), json!("{bad"), json!([1]), json!("7")] {
        check(arguments, 400).await;
    }
    // An empty list of calls is none; an assistant that said nothing is a turn all the same.
    let empty = json!({"max_tokens": 1, "messages": [user, {"role": "assistant", "content": "", "tool_calls": []}, user]});
    assert_eq!(server.post(path("chat"), &empty).await.status, 200);
    server.stop().await.expect("a clean end");
}

#[tokio::test]
async fn messages_show_thoughts_text_and_calls_as_blocks() {
    let script = script();
    let server = server(&script).await;
    let tools = json!([{"name": "now", "input_schema": {"type": "object"}}, {"name": "rain", "input_schema": {}}]);
    let body = json!({"model": "m", "max_tokens": 100, "temperature": 0, "tools": tools, "messages": [{"role": "user", "content": "T"}]});
    let whole = server.post(MESSAGES, &body).await.json();
    let shown = |block: &Value| match block["type"].as_str() {
        Some("thinking") => {
            json!(["thinking", block["thinking"], block["signature"].as_str().is_some_and(|text| !text.is_empty())])
        }
        Some("tool_use") => json!(["tool_use", block["name"], block["input"]]),
        _ => json!(["text", block["text"]]),
    };
    let blocks: Vec<Value> = whole["content"].as_array().expect("blocks").iter().map(shown).collect();
    let expected = [
        json!(["thinking", "Which zone?", true]),
        json!(["text", "I look."]),
        json!(["tool_use", "now", {"zone": "UTC"}]),
        json!(["tool_use", "rain", {}]),
    ];
    assert_eq!((blocks.as_slice(), &whole["stop_reason"]), (&expected[..], &json!("tool_use")), "{whole}");
    let events = events(&server.post(MESSAGES, &with(body.clone(), &json!({"stream": true}))).await.text());
    let mut order = names(&events);
    order.dedup();
    let block = ["content_block_start", "content_block_delta", "content_block_stop"];
    let wanted: Vec<&str> = [&["message_start"][..], &block.repeat(4), &["message_delta", "message_stop"]].concat();
    assert_eq!(order, wanted);
    for (index, expected) in expected.iter().enumerate() {
        let deltas = || events.iter().filter(|event| event["type"] == "content_block_delta" && event["index"] == index);
        let joined = |key: &str| deltas().filter_map(|event| event["delta"][key].as_str()).collect::<String>();
        match expected[0].as_str() {
            Some("thinking") => {
                assert_eq!(joined("thinking"), "Which zone?");
                let last = deltas().next_back().expect("a delta");
                assert_eq!(last["delta"]["type"], "signature_delta", "the signature comes last");
            }
            Some("tool_use") => assert_eq!(serde_json::from_str::<Value>(&joined("partial_json")).expect("JSON"), expected[2]),
            _ => assert_eq!(joined("text"), "I look."),
        }
    }
    // A thought that comes back is the earlier turn's.
    let back = with(
        body,
        &json!({"max_tokens": 1, "messages": [
            {"role": "user", "content": "T"},
            {"role": "assistant", "content": [whole["content"][0], whole["content"][1]]},
            {"role": "user", "content": "C"},
        ]}),
    );
    let counted = server.post(MESSAGES, &back).await.json()["usage"]["input_tokens"].clone();
    let same = json!({"messages": [
        {"role": "user", "content": "T"},
        {"role": "assistant", "content": "I look.", "reasoning_content": "Which zone?"},
        {"role": "user", "content": "C"},
    ]});
    assert_eq!(counted, server.post("/tokenize", &same).await.json()["count"]);
    server.stop().await.expect("a clean end");
}

#[tokio::test]
async fn a_thought_ends_with_its_budget() {
    let script = script();
    let server = server(&script).await;
    let user = json!([{"role": "user", "content": "T"}]);
    // What the model would say behind the end of its thought is the same; two tokens of the thought are not cut by two.
    for (budget, thought) in [
        (json!(0), ""),
        (json!(1), "Which zone"),
        (json!(2), "Which zone?"),
        (json!(-1), "Which zone?"),
        (json!(9), "Which zone?"),
    ] {
        let body = json!({"messages": user, "temperature": 0, "thinking_token_budget": budget});
        let answer = server.post(path("chat"), &body).await.json();
        let message = &answer["choices"][0]["message"];
        assert_eq!(message["reasoning"].as_str().unwrap_or_default(), thought, "{budget}: {answer}");
        assert!(message["content"].as_str().is_some_and(|text| text.starts_with("I look.")), "{budget}: {answer}");
        let body = json!({"model": "m", "max_tokens": 50, "messages": user, "temperature": 0, "thinking": {"type": "enabled", "budget_tokens": 1}});
        let answer = server.post(MESSAGES, &body).await.json();
        assert_eq!(answer["content"][0]["thinking"], "Which zone", "{answer}");
    }
    for (budget, says) in [(json!(-2), "-1"), (json!(1.5), "whole"), (json!("x"), "whole")] {
        let answer = server.post(path("chat"), &json!({"messages": user, "thinking_token_budget": budget})).await;
        assert_eq!((answer.status.as_u16(), &answer.json()["error"]["param"]), (400, &json!("thinking_token_budget")));
        assert!(answer.text().contains(says), "{}", answer.text());
    }
    server.stop().await.expect("a clean end");
}
