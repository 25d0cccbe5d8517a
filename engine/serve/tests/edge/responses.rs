//! The Responses API: whole, event by event, and continued by id.

use serde_json::{Value, json};

use crate::client;
use crate::server::{Server, cpu, scripted};

const RESPONSES: &str = "/v1/responses";

#[tokio::test]
async fn whole_and_streamed_say_the_same() {
    let server = Server::start(cpu(scripted())).await;
    let check = async |input: Value, extra: Value, text: &str, status: &str| {
        let mut body = json!({"model": "m", "input": input, "temperature": 0, "max_output_tokens": 50});
        body.as_object_mut().expect("an object").extend(extra.as_object().expect("an object").clone());
        let whole = server.post_with(RESPONSES, &[("x-request-id", "t")], &body).await.json();
        assert_eq!(
            (&whole["id"], &whole["object"], &whole["status"]),
            (&json!("resp_t"), &json!("response"), &json!(status)),
            "{whole}"
        );
        let part = json!({"type": "output_text", "text": text, "annotations": [], "logprobs": null});
        assert_eq!((&whole["output"][0]["content"], &whole["output"][0]["role"]), (&json!([part]), &json!("assistant")));
        body["stream"] = json!(true);
        let streamed = server.post(RESPONSES, &body).await.text();
        let events: Vec<Value> = streamed
            .trim_end()
            .split("\n\n")
            .map(|event| {
                let (name, data) = event.split_once("\ndata: ").expect("a name and data");
                let data: Value = serde_json::from_str(data).expect("JSON");
                assert_eq!(name.strip_prefix("event: "), data["type"].as_str());
                data
            })
            .collect();
        let numbers: Vec<_> = events.iter().map(|event| event["sequence_number"].as_u64()).collect();
        assert_eq!(numbers, (0..events.len() as u64).map(Some).collect::<Vec<_>>());
        let names: Vec<&str> = events.iter().filter_map(|event| event["type"].as_str()).collect();
        let begin = ["response.created", "response.in_progress", "response.output_item.added", "response.content_part.added"];
        let last = if status == "incomplete" { "response.incomplete" } else { "response.completed" };
        let end = ["response.output_text.done", "response.content_part.done", "response.output_item.done", last];
        assert_eq!((&names[..4], &names[names.len() - 4..]), (&begin[..], &end[..]));
        let said: String = events.iter().filter_map(|event| event["delta"].as_str()).collect();
        assert_eq!(said, text, "stream = whole");
        let ended = &events[events.len() - 1]["response"];
        assert_eq!((&ended["usage"], &ended["output"][0]["content"]), (&whole["usage"], &whole["output"][0]["content"]));
    };
    check(json!("E"), json!({}), "a🚂b", "completed").await;
    check(json!("7"), json!({"max_output_tokens": 3}), "890", "incomplete").await;
    let items = json!([
        {"role": "developer", "content": "1"},
        {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "x"}, {"type": "input_text", "text": "E"}]},
    ]);
    check(items, json!({"instructions": "2"}), "a🚂b", "completed").await;
    server.stop().await.expect("a clean end");
}

#[tokio::test]
async fn an_answer_is_found_again_where_answers_are_kept() {
    let mut config = cpu(scripted());
    config.answers.responses_store = true;
    let server = Server::start(config).await;
    let body = json!({"model": "m", "input": "E", "temperature": 0, "max_output_tokens": 50});
    let first = server.post(RESPONSES, &body).await.json();
    let id = first["id"].as_str().expect("an id").to_owned();
    assert_eq!(server.get(&format!("{RESPONSES}/{id}")).await.json(), first);
    let mut next = body.clone();
    (next["previous_response_id"], next["input"]) = (json!(id), json!("7"));
    next["max_output_tokens"] = json!(2);
    let second = server.post(RESPONSES, &next).await.json();
    // <|user|>E <|assistant|>a🚂b <|user|>7
    assert_eq!((&second["usage"]["input_tokens"], &second["previous_response_id"]), (&json!(11), &json!(id)));
    let cancelled = client::ask(server.address(), http::Method::POST, &format!("{RESPONSES}/{id}/cancel"), &[], "").await;
    assert_eq!(cancelled.status, 400);
    let mut unkept = body.clone();
    unkept["store"] = json!(false);
    let id = server.post(RESPONSES, &unkept).await.json()["id"].as_str().expect("an id").to_owned();
    assert_eq!(server.get(&format!("{RESPONSES}/{id}")).await.status, 404);
    server.stop().await.expect("a clean end");
    let server = Server::start(cpu(scripted())).await;
    let id = server.post(RESPONSES, &body).await.json()["id"].as_str().expect("an id").to_owned();
    for (path, status) in [(format!("{RESPONSES}/{id}"), 404), (format!("{RESPONSES}/other"), 400)] {
        assert_eq!(server.get(&path).await.status, status, "{path}");
    }
    for (body, status, param) in [
        (json!({"input": "E", "previous_response_id": id}), 404, "response_id"),
        (json!({"input": "E", "background": true}), 400, "background"),
        (json!({"input": []}), 400, "input"),
        (json!({}), 400, "input"),
        (json!({"input": [{"type": "computer_call"}]}), 400, "input"),
        (json!({"input": [{"role": "user", "content": [{"type": "input_image"}]}]}), 400, "input"),
        (json!({"input": "E", "tools": [{"type": "web_search"}]}), 400, "tools"),
        (json!({"input": "E", "truncation": "middle"}), 400, "truncation"),
        (json!({"input": "E", "top_p": 2}), 400, "top_p"),
    ] {
        let answer = server.post(RESPONSES, &body).await;
        assert_eq!(
            (answer.status.as_u16(), &answer.json()["error"]["param"]),
            (status, &json!(param)),
            "{body}: {}",
            answer.text()
        );
    }
    server.stop().await.expect("a clean end");
}
