//! Every refusal: status, type, parameter, and that nothing else is disturbed (cases A5, A6, A8).

use http::{Method, StatusCode};
use serde_json::{Value, json};

use crate::client;
use crate::server::{Server, instant, scripted};

const CHAT: &str = "/v1/chat/completions";
const TEXT: &str = "/v1/completions";

/// (path, body, status, type, param)
fn table() -> Vec<(&'static str, Value, u16, &'static str, Option<&'static str>)> {
    let long = "z".repeat(3000);
    let hello = json!([{"role": "user", "content": "hello"}]);
    vec![
        (TEXT, json!({"model": "other", "prompt": "a"}), 404, "NotFoundError", Some("model")),
        (CHAT, json!({"model": "other", "messages": hello, "stream": true}), 404, "NotFoundError", Some("model")),
        (TEXT, json!({"model": "m"}), 400, "BadRequestError", Some("prompt")),
        (CHAT, json!({"model": "m"}), 400, "BadRequestError", Some("messages")),
        (CHAT, json!({"model": "m", "messages": []}), 400, "BadRequestError", Some("messages")),
        (CHAT, json!({"model": "m", "messages": [{"content": "a"}]}), 400, "BadRequestError", Some("messages")),
        (TEXT, json!({"model": "m", "prompt": long, "stream": true}), 400, "BadRequestError", Some("prompt")),
        (
            CHAT,
            json!({"messages": [{"role": "user", "content": long}], "stream": true}),
            400,
            "BadRequestError",
            Some("messages"),
        ),
        (TEXT, json!({"model": "m", "prompt": [320]}), 400, "BadRequestError", Some("prompt")),
        (TEXT, json!({"model": "m", "prompt": [[1], [4294967295u64]]}), 400, "BadRequestError", Some("prompt")),
        (TEXT, json!({"model": "m", "prompt": ""}), 400, "BadRequestError", Some("prompt")),
        (
            TEXT,
            json!({"prompt": "a", "stop_token_ids": [151645], "min_tokens": 5}),
            400,
            "BadRequestError",
            Some("stop_token_ids"),
        ),
        (TEXT, json!({"prompt": "a", "logit_bias": {"AI": -100}}), 400, "BadRequestError", Some("logit_bias")),
        (TEXT, json!({"prompt": "a", "allowed_token_ids": []}), 400, "BadRequestError", Some("allowed_token_ids")),
        (TEXT, json!({"prompt": "a", "min_tokens": 17}), 400, "BadRequestError", Some("min_tokens")),
        (CHAT, json!({"messages": hello, "top_logprobs": 2}), 400, "BadRequestError", Some("top_logprobs")),
        (CHAT, json!({"messages": hello, "logprobs": 2}), 400, "BadRequestError", Some("logprobs")),
        (TEXT, json!({"prompt": "a", "stop_token_ids": [151645]}), 400, "BadRequestError", Some("stop_token_ids")),
        (TEXT, json!({"prompt": "a", "stop_token_ids": [-1]}), 400, "BadRequestError", Some("stop_token_ids")),
        (TEXT, json!({"prompt": "a", "stop_token_ids": [320]}), 400, "BadRequestError", Some("stop_token_ids")),
        (TEXT, json!({"prompt": "a", "logit_bias": {"99999": 5}}), 400, "BadRequestError", Some("logit_bias")),
        (TEXT, json!({"prompt": "a", "n": 0}), 400, "BadRequestError", Some("n")),
        (TEXT, json!({"prompt": "a", "n": 2, "temperature": 0}), 400, "BadRequestError", Some("n")),
        (TEXT, json!({"prompt": "a", "truncate_prompt_tokens": 0}), 400, "BadRequestError", Some("truncate_prompt_tokens")),
        (TEXT, json!({"prompt": "a", "truncate_prompt_tokens": 2049}), 400, "BadRequestError", Some("truncate_prompt_tokens")),
        (TEXT, json!({"prompt": "a", "truncation_side": "up"}), 400, "BadRequestError", Some("truncation_side")),
        (TEXT, json!({"prompt": "a", "max_tokens": "many"}), 400, "BadRequestError", Some("max_tokens")),
        (TEXT, json!({"prompt": "a", "request_id": "x".repeat(300)}), 400, "BadRequestError", Some("request_id")),
        ("/tokenize", json!({"model": "m"}), 400, "BadRequestError", Some("prompt")),
        ("/tokenize", json!({"model": "other", "prompt": "a"}), 404, "NotFoundError", Some("model")),
        ("/detokenize", json!({"tokens": [-1]}), 400, "BadRequestError", Some("tokens")),
        ("/detokenize", json!({}), 400, "BadRequestError", Some("tokens")),
        ("/nowhere", json!({}), 404, "NotFoundError", None),
        ("/v1/models", json!({}), 405, "BadRequestError", None),
    ]
}

#[tokio::test]
async fn each_mistake_has_its_answer() {
    let server = Server::start(instant(scripted())).await;
    for (path, body, status, kind, param) in table() {
        let answer = server.post(path, &body).await;
        let error = answer.json()["error"].clone();
        let seen = (answer.status.as_u16(), &error["type"], &error["param"], &error["code"]);
        assert_eq!(seen, (status, &json!(kind), &json!(param), &json!(status)), "{path} {body}: {}", answer.text());
        assert_eq!(answer.header("content-type"), Some("application/json"), "no stream begins: {path} {body}");
        assert!(error["message"].as_str().is_some_and(|message| message.ends_with('.')), "{error}");
    }
    let answer = server.post(TEXT, &json!({"prompt": "a"})).await;
    assert_eq!(answer.status, StatusCode::OK, "the engine goes on: {}", answer.text());
    server.stop().await.expect("a clean end");
}

#[tokio::test]
async fn bad_requests_beside_a_stream_leave_it_as_it_is_alone() {
    let server = Server::start(crate::server::fake(scripted(), 1.0)).await;
    let body = json!({
        "prompt": "a", "max_tokens": 500, "ignore_eos": true, "temperature": 0, "stream": true, "return_token_ids": true,
    });
    let rest = async |mut open: client::Open| {
        let mut ids: Vec<Value> = Vec::new();
        while let Some(event) = open.event().await.filter(|event| event != "[DONE]") {
            let chunk: Value = serde_json::from_str(&event).expect("JSON");
            ids.extend(chunk["choices"][0]["token_ids"].as_array().cloned().unwrap_or_default());
        }
        ids
    };
    let alone = rest(server.open(TEXT, &[], &body).await).await;
    assert_eq!(alone.len(), 500);
    let beside = server.open(TEXT, &[], &body).await;
    for (path, body, status, ..) in table() {
        assert_eq!(server.post(path, &body).await.status.as_u16(), status);
    }
    assert_eq!(rest(beside).await, alone);
    server.stop().await.expect("a clean end");
}

/// Case A5, on both endpoints, streamed and whole.
#[tokio::test]
async fn token_ids_outside_the_vocabulary_are_refused_by_the_name_of_their_parameter() {
    let server = Server::start(instant(scripted())).await;
    for (param, value) in [
        ("stop_token_ids", json!([151645])),
        ("stop_token_ids", json!([-1])),
        ("stop_token_ids", json!([320])),
        ("logit_bias", json!({"99999": 5})),
        ("logit_bias", json!({"AI": -100})),
        ("allowed_token_ids", json!([])),
        ("allowed_token_ids", json!([320])),
        ("logprob_token_ids", json!([320])),
    ] {
        for (path, mut body) in [
            (TEXT, json!({"prompt": "a", "logprobs": 1})),
            (CHAT, json!({"messages": [{"role": "user", "content": "a"}], "logprobs": true})),
        ] {
            body[param] = value.clone();
            (body["min_tokens"], body["max_tokens"]) = (json!(5), json!(9));
            for stream in [false, true] {
                body["stream"] = stream.into();
                let answer = server.post(path, &body).await;
                let error = &answer.json()["error"];
                assert_eq!((answer.status.as_u16(), &error["param"]), (400, &json!(param)), "{path} {body}");
                assert_eq!(answer.header("content-type"), Some("application/json"));
            }
        }
    }
    server.stop().await.expect("a clean end");
}

/// Case A6: two requests of one id are two requests, and one that ends does not touch the other.
#[tokio::test]
async fn two_streams_of_one_request_id_do_not_touch_each_other() {
    let server = Server::start(crate::server::fake(scripted(), 1.0)).await;
    let body = |prompt: &str| {
        json!({
            "prompt": prompt, "max_tokens": 200, "ignore_eos": true, "temperature": 0, "stream": true, "return_token_ids": true,
            "request_id": "job-7",
        })
    };
    let ids = async |open: &mut client::Open| {
        let mut ids: Vec<Value> = Vec::new();
        while let Some(event) = open.event().await.filter(|event| event != "[DONE]") {
            let chunk: Value = serde_json::from_str(&event).expect("JSON");
            ids.extend(chunk["choices"][0]["token_ids"].as_array().cloned().unwrap_or_default());
        }
        ids
    };
    let alone = ids(&mut server.open(TEXT, &[], &body("b")).await).await;
    assert_eq!(alone.len(), 200);
    for headers in [&[("x-request-id", "job-7")][..], &[]] {
        let mut one = server.open(TEXT, headers, &body("a")).await;
        let mut other = server.open(TEXT, headers, &body("b")).await;
        for _ in 0..3 {
            let chunk: Value = serde_json::from_str(&one.event().await.expect("it runs")).expect("JSON");
            assert_eq!(chunk["id"], "cmpl-job-7");
        }
        drop(one);
        assert_eq!(ids(&mut other).await, alone, "{headers:?}");
    }
    server.metrics_with("vllm:num_requests_running{engine=\"0\",model_name=\"m\"} 0").await;
    server.stop().await.expect("a clean end");
}

#[tokio::test]
async fn a_body_that_is_broken_or_too_large_is_said_to_be_so() {
    let mut config = instant(scripted());
    config.limits.body_bytes_max = 1000;
    let server = Server::start(config).await;
    let check = async |body: String, status: u16| {
        let answer = client::ask(server.address(), Method::POST, TEXT, &[], body).await;
        assert_eq!(
            (answer.status.as_u16(), answer.json()["error"]["code"].as_u64()),
            (status, Some(status.into())),
            "{}",
            answer.text()
        );
    };
    check("{\"prompt\": ".into(), 400).await;
    check("not json".into(), 400).await;
    check(String::new(), 400).await;
    check("[]".into(), 400).await;
    check(json!({"prompt": "z".repeat(1000)}).to_string(), 413).await;
    server.stop().await.expect("a clean end");
}

#[tokio::test]
async fn a_request_id_is_echoed_and_bounded() {
    let server = Server::start(instant(scripted())).await;
    let body = json!({"prompt": "a", "request_id": "of-the-body"});
    let answer = server.post_with(TEXT, &[("x-request-id", "job-7")], &body).await;
    assert_eq!((answer.header("x-request-id"), &answer.json()["id"]), (Some("job-7"), &json!("cmpl-job-7")));
    let answer = server.post(TEXT, &body).await;
    assert_eq!((answer.header("x-request-id"), &answer.json()["id"]), (None, &json!("cmpl-of-the-body")));
    let huge = "x".repeat(64 << 10);
    for path in [TEXT, CHAT, "/health", "/nowhere"] {
        let answer = server.post_with(path, &[("x-request-id", &huge)], &body).await;
        assert_eq!(answer.status, StatusCode::BAD_REQUEST, "{path}");
        assert!(answer.body.len() < 1000 && answer.header("x-request-id").is_none(), "it is not repeated");
    }
    server.stop().await.expect("a clean end");
}

#[tokio::test]
async fn a_full_queue_is_said_with_a_time_to_come_again() {
    let mut config = crate::server::fake(scripted(), 20.0);
    config.limits.max_num_seqs = 1;
    config.limits.waiting_max = Some(1);
    let server = Server::start(config).await;
    let long = json!({"prompt": "a", "max_tokens": 2000, "ignore_eos": true, "stream": true, "return_token_ids": true});
    let mut running = server.open(TEXT, &[], &long).await;
    running.event().await.expect("it runs");
    let waiting = {
        let (address, long) = (server.address(), long.clone());
        tokio::spawn(async move { client::open(address, Method::POST, TEXT, &[], long.to_string()).await })
    };
    server.state_where(|state| state["waiting"] == 1).await;
    let refused = server.post(TEXT, &long).await;
    assert_eq!(refused.status, StatusCode::SERVICE_UNAVAILABLE, "{}", refused.text());
    assert_eq!((refused.header("retry-after"), &refused.json()["error"]["type"]), (Some("1"), &json!("ServiceUnavailableError")));
    let metrics = server.get("/metrics").await.text();
    assert!(
        metrics.contains("vllm:admission_rejections_total{engine=\"0\",model_name=\"m\",reason=\"max_num_queued_reqs\"} 1\n"),
        "{metrics}"
    );
    waiting.abort();
    drop(running);
    server.state_where(|state| state["waiting"] == 0 && state["running"] == 0).await;
    server.stop().await.expect("a clean end");
}
