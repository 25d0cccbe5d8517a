//! Starting and ending: what is answered while a model loads, while it drains, and when it cannot start.

use domain::FaultKind;
use engine_serve::Progress;
use http::StatusCode;
use serde_json::{Value, json};

use crate::server::{Server, fake, instant, path, scripted};

#[tokio::test]
async fn a_server_that_drains_finishes_what_it_has_and_takes_nothing_new() {
    let mut server = Server::start(fake(scripted(), 5.0)).await;
    assert_eq!(server.get("/readyz").await.status, StatusCode::OK);
    let body = json!({"prompt": "a", "max_tokens": 60, "ignore_eos": true, "stream": true, "return_token_ids": true});
    let mut open = server.open(path("text"), &[], &body).await;
    open.event().await.expect("it runs");
    server.tell_to_stop();
    server.reach(|progress| progress == Progress::Draining { requests: 1 }).await;
    assert_eq!(server.get("/health").await.status, StatusCode::OK);
    let refused = server.post(path("text"), &json!({"prompt": "a"})).await;
    assert_eq!((refused.status, refused.header("retry-after")), (StatusCode::SERVICE_UNAVAILABLE, Some("1")));
    assert_eq!(server.get("/readyz").await.status, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(server.get("/trackside/v1/state?once").await.json()["state"], "draining");
    let mut made = 1;
    while let Some(event) = open.event().await.filter(|event| event != "[DONE]") {
        let chunk: Value = serde_json::from_str(&event).expect("JSON");
        made += chunk["choices"][0]["token_ids"].as_array().map_or(0, Vec::len);
    }
    assert_eq!(made, 60, "the open request got all its tokens");
    server.stop().await.expect("a clean end");
}

#[tokio::test]
async fn a_drain_that_takes_too_long_aborts() {
    let mut config = fake(scripted(), 50.0);
    config.drain_timeout = std::time::Duration::from_millis(10);
    let mut server = Server::start(config).await;
    let body = json!({"prompt": "a", "max_tokens": 2000, "ignore_eos": true, "stream": true, "return_token_ids": true});
    let mut open = server.open(path("text"), &[], &body).await;
    open.event().await.expect("it runs");
    server.tell_to_stop();
    let mut last = Value::Null;
    while let Some(event) = open.event().await.filter(|event| event != "[DONE]") {
        last = serde_json::from_str(&event).expect("JSON");
    }
    assert_eq!(last["choices"][0]["finish_reason"], "abort");
    server.stop().await.expect("a clean end");
}

#[tokio::test]
async fn a_port_in_use_is_told_before_anything_is_loaded() {
    let server = Server::start(instant(scripted())).await;
    let mut config = instant(scripted());
    config.listen = server.address();
    let fault = engine_serve::bind(config).await.err().expect("the port is taken");
    assert_eq!(fault.kind, FaultKind::Address);
    assert!(fault.to_string().contains(&server.address().to_string()), "{fault}");
    server.stop().await.expect("a clean end");
}

#[tokio::test]
async fn limits_that_cannot_be_are_told() {
    let mut config = instant(scripted());
    config.limits.max_num_batched_tokens = 1;
    let fault = engine_serve::bind(config).await.expect("free ports").run(std::future::pending(), |_| {}).await;
    let fault = fault.expect_err("64 requests do not fit a step of one token");
    assert_eq!(fault.kind, FaultKind::Config);
    assert!(fault.to_string().contains("max_num_batched_tokens"), "{fault}");
}

#[tokio::test]
async fn the_models_are_those_of_the_configuration() {
    let mut config = instant(scripted());
    config.names = vec!["m".into(), "alias".into()];
    let server = Server::start(config).await;
    let models = server.get("/v1/models").await.json();
    let ids: Vec<_> = models["data"].as_array().expect("a list").iter().map(|card| card["id"].clone()).collect();
    assert_eq!((ids, &models["data"][0]["max_model_len"]), (vec![json!("m"), json!("alias")], &json!(2048)));
    let answer = server.post(path("text"), &json!({"model": "alias", "prompt": "a", "max_tokens": 1})).await.json();
    assert_eq!(answer["model"], "alias");
    assert_eq!(server.get("/version").await.json()["version"], env!("CARGO_PKG_VERSION"));
    server.stop().await.expect("a clean end");
}
