//! LoRA adapters under names of their own, beside each other and the model.

use std::sync::Arc;

use domain::FaultKind;
use engine_serve::Config;
use http::StatusCode;
use serde_json::{Value, json};

use crate::server::{NAME, Server, cpu, fixture, path};

fn golden(folder: &std::path::Path) -> Value {
    let text = std::fs::read_to_string(folder.join("golden.json")).expect("a golden");
    serde_json::from_str::<Value>(&text).expect("JSON")["cases"][0].clone()
}

fn adapter(name: &str) -> std::path::PathBuf {
    fixture("../adapters").join(name)
}

fn config(adapters: &[(&str, &str)]) -> Config {
    let mut config = cpu(Arc::new(engine_assets::open(&fixture("qwen3")).expect("a good model")));
    config.adapters = adapters.iter().map(|(name, folder)| ((*name).to_owned(), adapter(folder))).collect();
    config
}

#[tokio::test]
async fn each_name_answers_with_its_own_weights() {
    let server = Server::start(config(&[("all", "qwen3-all"), ("few", "qwen3-rslora")])).await;
    let asked =
        [(NAME, golden(&fixture("qwen3"))), ("all", golden(&adapter("qwen3-all"))), ("few", golden(&adapter("qwen3-rslora")))];
    let answer = async |name: &str, case: &Value| {
        let body = json!({
            "model": name, "prompt": case["prompt_ids"], "max_tokens": case["output_ids"].as_array().map(Vec::len), "temperature": 0,
            "ignore_eos": true, "return_token_ids": true,
        });
        server.post(path("text"), &body).await.json()
    };
    let answers = tokio::join!(answer(asked[0].0, &asked[0].1), answer(asked[1].0, &asked[1].1), answer(asked[2].0, &asked[2].1));
    for ((name, case), answer) in asked.iter().zip([answers.0, answers.1, answers.2]) {
        assert_eq!(answer["choices"][0]["token_ids"], case["output_ids"], "{name}: {answer}");
        assert_eq!(answer["model"], *name);
    }
    let models = server.get("/v1/models").await.json();
    let cards: Vec<_> =
        models["data"].as_array().expect("cards").iter().map(|card| (card["id"].clone(), card["parent"].clone())).collect();
    assert_eq!(cards, [(json!(NAME), Value::Null), (json!("all"), json!(NAME)), (json!("few"), json!(NAME))]);
    assert_eq!(server.get("/trackside/v1/state?once").await.json()["adapters"], json!(["all", "few"]));
    let unknown = server.post(path("text"), &json!({"model": "none", "prompt": "a"})).await;
    assert_eq!(unknown.status, StatusCode::NOT_FOUND);
    server.stop().await.expect("a clean end");
}

#[tokio::test]
async fn an_adapter_that_cannot_be_loaded_ends_the_start() {
    for (adapters, kind, says) in [
        (&[("all", "none")][..], FaultKind::Model, "adapter_config.json"),
        (&[(NAME, "qwen3-all")], FaultKind::Usage, "has the name of the model"),
        (&[("a", "qwen3-all"), ("a", "qwen3-rslora")], FaultKind::Model, "loaded already"),
    ] {
        let server = Server::begin(config(adapters)).await;
        let fault = server.ended().await.expect_err(says);
        assert!(fault.kind == kind && fault.to_string().contains(says), "{fault}");
    }
}
