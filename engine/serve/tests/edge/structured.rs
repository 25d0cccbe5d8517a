//! Outputs of a given form: whatever the model would rather say, the form holds, streamed or not.

use serde_json::{Value, json};

use crate::server::{Server, cpu, path, scripted};

/// A model that knows nothing of JSON: its logits are a chain of bytes, so every form below is the grammar's doing.
async fn server() -> Server {
    Server::start(cpu(scripted())).await
}

/// The text of a completion under `form`, sampled with some seeds; each ends by itself, and a stream says the same.
async fn texts(server: &Server, form: Value) -> Vec<String> {
    let mut texts = Vec::new();
    for seed in 0..3 {
        let mut body = json!({"prompt": "x", "max_tokens": 400, "temperature": 1.0, "seed": seed});
        body.as_object_mut().expect("an object").extend(form.as_object().expect("an object").clone());
        let answer = server.post(path("text"), &body).await.json();
        let choice = &answer["choices"][0];
        assert_eq!(choice["finish_reason"], "stop", "{form}: {answer}");
        let text = choice["text"].as_str().expect("a text").to_owned();
        body["stream"] = json!(true);
        let events = server.post(path("text"), &body).await.events();
        let streamed: String = events[..events.len() - 1]
            .iter()
            .map(|event| {
                serde_json::from_str::<Value>(event).expect("JSON")["choices"][0]["text"].as_str().unwrap_or_default().to_owned()
            })
            .collect();
        assert_eq!(streamed, text, "{form}");
        texts.push(text);
    }
    texts
}

fn is_integer(value: &Value, from: i64, to: i64) -> bool {
    value.as_i64().is_some_and(|number| (from..=to).contains(&number))
}

#[tokio::test]
async fn every_form_holds() {
    let server = server().await;
    let outputs = |form: Value| json!({"structured_outputs": form});
    for text in texts(&server, outputs(json!({"choice": ["red", "green"]}))).await {
        assert!(["red", "green"].contains(&text.as_str()), "{text}");
    }
    for text in texts(&server, outputs(json!({"regex": "^[a-c]{3}-[0-9]{2}$"}))).await {
        assert!(
            text.len() == 6 && text[..3].chars().all(|c| ('a'..='c').contains(&c)) && text[4..].parse::<u8>().is_ok(),
            "{text}"
        );
    }
    for grammar in ["start: \"a\" | \"b\" start2\nstart2: \"c\"", "root ::= \"a\" | \"b\" start2\nstart2 ::= \"c\"  # end"] {
        for text in texts(&server, outputs(json!({"grammar": grammar}))).await {
            assert!(["a", "bc"].contains(&text.as_str()), "{grammar}: {text}");
        }
    }
    let schema = json!({
        "type": "object",
        "properties": {"n": {"type": "integer", "minimum": 3, "maximum": 12}, "kind": {"enum": ["x", "y"]}, "ok": {"type": "boolean"}},
        "required": ["n", "kind", "ok"],
        "additionalProperties": false,
    });
    let compact = outputs(json!({"json": schema, "disable_any_whitespace": true}));
    let as_text = outputs(json!({"json": schema.to_string(), "whitespace_pattern": " ?"}));
    let openai = json!({"response_format": {"type": "json_schema", "json_schema": {"name": "s", "schema": schema}}, "structured_outputs": null});
    for (form, spaceless) in [(compact, true), (as_text, false), (openai, false)] {
        // White space without end is valid JSON, so the free form is bounded by its tokens, and only the others must end.
        if form.get("response_format").is_some() {
            continue;
        }
        for text in texts(&server, form.clone()).await {
            let value: Value = serde_json::from_str(&text).unwrap_or_else(|error| panic!("{text}: {error}"));
            assert!(is_integer(&value["n"], 3, 12) && value["ok"].is_boolean(), "{text}");
            assert!(["x", "y"].contains(&value["kind"].as_str().unwrap_or_default()), "{text}");
            assert_eq!(value.as_object().expect("an object").len(), 3);
            assert!(!spaceless || !text.contains(char::is_whitespace), "{text}");
        }
    }
    server.stop().await.expect("a clean end");
}

/// A form is refused: the parameter that is named, and what is said of it.
async fn refuses(server: &Server, form: Value, param: &str, says: &str) {
    let mut body = json!({"prompt": "x", "messages": [{"role": "user", "content": "x"}]});
    body.as_object_mut().expect("an object").extend(form.as_object().expect("an object").clone());
    for endpoint in ["text", "chat"] {
        let answer = server.post(path(endpoint), &body).await;
        let error = answer.json()["error"].clone();
        assert_eq!((answer.status.as_u16(), &error["param"]), (400, &json!(param)), "{form}: {error}");
        assert!(error["message"].as_str().expect("a message").contains(says), "{form}: {error}");
    }
}

#[tokio::test]
async fn what_cannot_be_is_refused_by_name_and_holds_up_nobody() {
    let server = server().await;
    let outputs = |form: Value| json!({"structured_outputs": form});
    refuses(&server, outputs(json!({})), "structured_outputs", "none of them").await;
    refuses(&server, outputs(json!({"regex": "a", "choice": ["a"]})), "structured_outputs", "regex and choice").await;
    refuses(&server, outputs(json!({"choice": []})), "structured_outputs.choice", "at least one").await;
    refuses(&server, outputs(json!({"regex": "("})), "structured_outputs.regex", "").await;
    refuses(&server, outputs(json!({"regex": "(".repeat(1000)})), "structured_outputs.regex", "brackets").await;
    refuses(&server, outputs(json!({"regex": "(?=a)b"})), "structured_outputs.regex", "").await;
    refuses(&server, outputs(json!({"grammar": "start: nothing"})), "structured_outputs.grammar", "nothing").await;
    refuses(&server, outputs(json!({"json": "{"})), "structured_outputs.json", "JSON").await;
    let format =
        |schema: Value| json!({"response_format": {"type": "json_schema", "json_schema": {"name": "s", "schema": schema}}});
    refuses(&server, format(json!({"type": "array", "uniqueItems": true})), "response_format", "uniqueItems").await;
    refuses(&server, format(json!({"not": {"type": "string"}})), "response_format", "not").await;
    refuses(&server, format(json!({"$ref": "http://example.com/x"})), "response_format", "").await;
    refuses(&server, format(json!({"type": "object", "if": {}, "then": {}})), "response_format", "if").await;
    refuses(&server, format(json!(3)), "response_format.json_schema.schema", "schema").await;
    let mut deep = json!({"type": "string"});
    (0..80).for_each(|_| deep = json!({"type": "array", "items": deep}));
    refuses(&server, format(deep), "response_format.json_schema.schema", "deep").await;
    refuses(&server, json!({"response_format": {"type": "xml"}}), "response_format.type", "json_schema").await;
    let both = json!({"response_format": {"type": "json_object"}, "structured_outputs": {"regex": "a"}});
    refuses(&server, both, "structured_outputs", "leave one").await;
    // A request beside them is served.
    let answer = server.post(path("text"), &json!({"prompt": "x", "max_tokens": 2})).await;
    assert_eq!(answer.status.as_u16(), 200);
    server.stop().await.expect("a clean end");
}

#[tokio::test]
async fn a_required_tool_is_called_as_its_schema_says() {
    let server = server().await;
    let parameters = json!({
        "type": "object",
        "properties": {"unit": {"enum": ["C", "F"]}, "days": {"type": "integer", "minimum": 1, "maximum": 5}},
        "required": ["unit", "days"],
        "additionalProperties": false,
        "x-guidance": {"whitespace_flexible": false},
    });
    let tool = |name: &str| json!({"type": "function", "function": {"name": name, "parameters": parameters}});
    let named = json!({"type": "function", "function": {"name": "weather"}});
    for (choice, reason) in [(named, "stop")] {
        let mut body = json!({
            "messages": [{"role": "user", "content": "x"}], "tools": [tool("weather"), tool("rain")], "tool_choice": choice,
            "max_tokens": 200, "seed": 1, "temperature": 1.0, "chat_template": "{{ messages[0].content }}",
        });
        let answer = server.post(path("chat"), &body).await.json();
        let message = &answer["choices"][0]["message"];
        let calls = message["tool_calls"].as_array().unwrap_or_else(|| panic!("{answer}"));
        assert_eq!((calls.len(), &message["content"], &answer["choices"][0]["finish_reason"]), (1, &Value::Null, &json!(reason)));
        assert_eq!((&calls[0]["type"], &calls[0]["function"]["name"]), (&json!("function"), &json!("weather")));
        assert!(calls[0]["id"].as_str().is_some_and(|id| id.starts_with("chatcmpl-tool-")), "{answer}");
        let text = calls[0]["function"]["arguments"].as_str().expect("a text");
        let arguments: Value = serde_json::from_str(text).unwrap_or_else(|error| panic!("{text}: {error}"));
        assert!(is_integer(&arguments["days"], 1, 5) && arguments["unit"].is_string(), "{text}");
        body["stream"] = json!(true);
        let events = server.post(path("chat"), &body).await.events();
        let (mut names, mut streamed) = (Vec::new(), String::new());
        for event in &events[..events.len() - 1] {
            let chunk: Value = serde_json::from_str(event).expect("JSON");
            for call in chunk["choices"][0]["delta"]["tool_calls"].as_array().into_iter().flatten() {
                assert_eq!(call["index"], 0);
                names.extend(call["function"]["name"].as_str().map(str::to_owned));
                streamed.push_str(call["function"]["arguments"].as_str().expect("a fragment"));
            }
        }
        assert_eq!((names, streamed.as_str()), (vec!["weather".to_owned()], text));
    }
    server.stop().await.expect("a clean end");
}
