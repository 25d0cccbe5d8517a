//! Starting and ending: what is answered while a model loads, while it drains, and when it cannot start.

use domain::FaultKind;
use engine_serve::{BackendChoice, FakeSpeed, Progress};
use http::StatusCode;
use serde_json::{Value, json};

use crate::server::{Server, fake, fixture, instant, path, scripted};

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
    let version = server.get("/version").await.json();
    assert_eq!(version, json!({"version": "0.33.0", "trackside": env!("CARGO_PKG_VERSION")}));
    let info = server.get("/server_info?config_format=json").await.json();
    assert_eq!(info["vllm_config"]["model_config"]["served_model_name"], json!(["m", "alias"]));
    let text = server.get("/server_info").await.json();
    assert_eq!(text["vllm_config"].as_str().map(str::to_owned), Some(info["vllm_config"].to_string()));
    let card = &models["data"][0];
    assert_eq!((&card["owned_by"], &card["permission"][0]["object"]), (&json!("vllm"), &json!("model_permission")));
    server.stop().await.expect("a clean end");
}

#[tokio::test]
async fn no_answer_says_healthy_before_the_engine_has_answered() {
    let mut config = crate::server::cpu(std::sync::Arc::new(engine_assets::open(&fixture("llama")).expect("a good model")));
    config.kv_events = None;
    let server = Server::begin(config).await;
    loop {
        let state = server.get("/trackside/v1/state?once").await.json();
        let (health, work) =
            (server.get("/health").await, server.post(path("text"), &json!({"prompt": "a", "max_tokens": 1})).await);
        if health.status == StatusCode::OK {
            assert_eq!(*server.progress.borrow(), Some(Progress::Ready));
            assert_eq!((health.body.len(), work.status), (0, StatusCode::OK));
            return server.stop().await.expect("a clean end");
        }
        assert!(matches!(state["state"].as_str(), Some("starting" | "warming")), "{state}");
        assert_eq!((health.status, health.header("retry-after")), (StatusCode::SERVICE_UNAVAILABLE, Some("1")));
        assert!(matches!(work.status, StatusCode::OK | StatusCode::SERVICE_UNAVAILABLE), "{}", work.text());
    }
}

#[tokio::test]
async fn an_engine_whose_weights_cannot_be_read_never_serves() {
    let folder = tempfile::tempdir().expect("a folder");
    for file in std::fs::read_dir(fixture("llama-f16")).expect("a fixture").map(|file| file.expect("a file").path()) {
        std::fs::copy(&file, folder.path().join(file.file_name().expect("a name"))).expect("a copy");
    }
    let assets = std::sync::Arc::new(engine_assets::open(folder.path()).expect("a good model"));
    // Between reading the headers and mapping the weights, a download is begun anew.
    std::fs::remove_file(folder.path().join("model.safetensors")).expect("it was there");
    let server = engine_serve::bind(crate::server::cpu(assets)).await.expect("free ports");
    let address = server.bound().http;
    let fault = server.run(std::future::pending(), |_| {}).await.expect_err("there are no weights");
    assert_eq!(fault.kind, FaultKind::Model);
    assert!(fault.to_string().contains("model.safetensors"), "{fault}");
    assert!(tokio::net::TcpStream::connect(address).await.is_err(), "nobody listens any more");
}

#[tokio::test]
async fn long_prompts_are_answered_as_short_ones() {
    let server = Server::start(instant(scripted())).await;
    for bytes in [10, 1000, 2000] {
        // Ids in text are longer than the tokens they mean: the body of the last is beyond what is handled where it is.
        let prompt: Vec<u32> = (0..bytes).map(|i| 200 + i % 50).collect();
        let body = json!({"prompt": prompt, "max_tokens": 1, "ignore_eos": true});
        let answer = server.post(path("text"), &body).await.json();
        assert_eq!(
            (&answer["usage"]["prompt_tokens"], &answer["usage"]["completion_tokens"]),
            (&json!(bytes), &json!(1)),
            "{answer}"
        );
        let text = server.post("/detokenize", &json!({"tokens": prompt})).await.json();
        let back = server.post("/tokenize", &json!({"prompt": text["prompt"], "add_special_tokens": false})).await;
        assert_eq!(back.status, StatusCode::OK, "{}", back.text());
    }
    server.stop().await.expect("a clean end");
}

/// A device that takes a minute for one prompt is stuck, if a step may take half a second; health is not asked.
#[tokio::test]
async fn an_engine_that_is_stuck_ends() {
    let mut config = fake(scripted(), 0.0);
    config.backend = BackendChoice::Fake(FakeSpeed { prefill_tok_s: 5.0, step_ms: 0.0 });
    config.step_timeout = std::time::Duration::from_millis(500);
    let server = Server::start(config).await;
    let body = json!({"prompt": "a".repeat(300), "max_tokens": 1, "stream": true});
    let address = server.address();
    let asked = tokio::spawn(async move {
        crate::client::open(address, http::Method::POST, path("text"), &[], body.to_string()).await;
    });
    let fault = server.ended().await.expect_err("it is stuck");
    asked.abort();
    assert_eq!(fault.kind, FaultKind::Device);
    assert!(fault.to_string().contains("made no step for 0.5 s"), "{fault}");
}
