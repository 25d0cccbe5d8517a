//! LoRA adapters under names of their own, beside each other and the model.

use std::sync::Arc;

use domain::FaultKind;
use engine_serve::{BackendChoice, Config, FakeSpeed};
use http::StatusCode;
use serde_json::{Value, json};

use crate::client::Answer;
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

fn runtime(adapters: &[(&str, &str)]) -> Config {
    let mut config = Config { runtime_adapters: true, ..config(adapters) };
    config.answers.prompt_tokens_details = true;
    config.limits.block_tokens = 4;
    config
}

async fn load(server: &Server, name: &str, path: &std::path::Path, in_place: bool) -> Answer {
    server.post("/v1/load_lora_adapter", &json!({"lora_name": name, "lora_path": path, "load_inplace": in_place})).await
}

async fn unload(server: &Server, name: &str) -> Answer {
    server.post("/v1/unload_lora_adapter", &json!({"lora_name": name})).await
}

/// Asks what a golden was asked.
async fn ask(server: &Server, name: &str, case: &Value) -> Value {
    let body = json!({
        "model": name, "prompt": case["prompt_ids"], "max_tokens": case["output_ids"].as_array().map(Vec::len), "temperature": 0,
        "ignore_eos": true, "return_token_ids": true,
    });
    server.post(path("text"), &body).await.json()
}

#[tokio::test]
async fn adapters_come_and_go_over_http_as_in_vllm() {
    let off = Server::start(config(&[])).await;
    assert_eq!(load(&off, "all", &adapter("qwen3-all"), false).await.status, StatusCode::NOT_FOUND, "nobody asked for it");
    off.stop().await.expect("a clean end");

    let server = Server::start(runtime(&[])).await;
    let folder = adapter("qwen3-all");
    let loaded = load(&server, "all", &folder, false).await;
    assert_eq!((loaded.status, &*loaded.text()), (StatusCode::OK, "Success: LoRA adapter 'all' added successfully."));
    let case = golden(&folder);
    let answer = ask(&server, "all", &case).await;
    assert_eq!((&answer["choices"][0]["token_ids"], &answer["model"]), (&case["output_ids"], &json!("all")), "{answer}");
    let card = server.get("/v1/models").await.json()["data"][1].clone();
    assert_eq!(
        (&card["id"], &card["parent"], &card["root"]),
        (&json!("all"), &json!(NAME), &json!(folder.display().to_string()))
    );

    let refused = [
        (json!({"lora_name": "all"}), 400, "InvalidUserInput", "must be provided"),
        (json!({"lora_name": "", "lora_path": "/"}), 400, "InvalidUserInput", "must be provided"),
        (json!({"lora_name": NAME, "lora_path": folder}), 400, "InvalidUserInput", "conflicts with a served base model"),
        (json!({"lora_name": "all", "lora_path": folder}), 400, "InvalidUserInput", "already been loaded"),
        (json!({"lora_name": "x".repeat(2000), "lora_path": folder}), 400, "InvalidUserInput", "bytes"),
        (json!({"lora_name": "none", "lora_path": "/none"}), 404, "NotFoundError", "No adapter found for /none"),
        (json!({"lora_name": "none", "lora_path": fixture("qwen3")}), 404, "NotFoundError", "No adapter found for"),
        (json!({"lora_name": 7, "lora_path": "/none"}), 400, "BadRequestError", "lora_name"),
    ];
    for (body, status, kind, says) in refused {
        let answer = server.post("/v1/load_lora_adapter", &body).await;
        let error = &answer.json()["error"];
        assert_eq!(
            (answer.status.as_u16(), &error["type"], &error["code"]),
            (status, &json!(kind), &json!(status)),
            "{body:.80}"
        );
        assert!(error["message"].as_str().is_some_and(|message| message.contains(says)), "{error}");
    }

    let gone = unload(&server, "all").await;
    assert_eq!((gone.status, &*gone.text()), (StatusCode::OK, "Success: LoRA adapter 'all' removed successfully."));
    let again = unload(&server, "all").await;
    assert_eq!((again.status, &again.json()["error"]["type"]), (StatusCode::NOT_FOUND, &json!("NotFoundError")));
    assert_eq!(unload(&server, "").await.status, StatusCode::BAD_REQUEST);
    let unknown = server.post(path("text"), &json!({"model": "all", "prompt": "a"})).await;
    assert_eq!((unknown.status, &unknown.json()["error"]["param"]), (StatusCode::NOT_FOUND, &json!("model")));
    server.stop().await.expect("a clean end");
}

/// Case D5: other weights under the same name and path never read what the earlier ones left in the cache.
#[tokio::test]
async fn an_adapter_that_is_loaded_again_finds_no_old_blocks() {
    let folder = tempfile::tempdir().expect("a folder");
    let put = |name: &str| {
        for file in ["adapter_config.json", "adapter_model.safetensors"] {
            std::fs::copy(adapter(name).join(file), folder.path().join(file)).expect("a copy");
        }
    };
    let server = Server::start(runtime(&[])).await;
    let case = golden(&adapter("qwen3-all"));
    let cached = |answer: &Value| answer["usage"]["prompt_tokens_details"]["cached_tokens"].clone();
    put("qwen3-all");
    assert_eq!(load(&server, "a", folder.path(), false).await.status, StatusCode::OK);
    for warm in [false, true] {
        let answer = ask(&server, "a", &case).await;
        assert_eq!(answer["choices"][0]["token_ids"], case["output_ids"]);
        assert_eq!(cached(&answer) != json!(0), warm, "the cache is at work: {answer}");
    }
    put("qwen3-rslora");
    assert_eq!(load(&server, "a", folder.path(), true).await.status, StatusCode::OK);
    let blocks = server.get("/trackside/v1/blocks").await.text();
    assert!(!blocks.contains("\"a\""), "the old adapter's blocks are forgotten: {blocks}");
    let other = ask(&server, "a", &case).await;
    assert_eq!(cached(&other), json!(0));
    assert_ne!(other["choices"][0]["token_ids"], case["output_ids"]);
    let case = golden(&adapter("qwen3-rslora"));
    assert_eq!(ask(&server, "a", &case).await["choices"][0]["token_ids"], case["output_ids"]);
    // The same weights again are no news.
    assert_eq!(load(&server, "a", folder.path(), true).await.status, StatusCode::OK);
    assert_ne!(cached(&ask(&server, "a", &case).await), json!(0));
    assert_eq!(unload(&server, "a").await.status, StatusCode::OK);
    put("qwen3-all");
    assert_eq!(load(&server, "a", folder.path(), false).await.status, StatusCode::OK);
    assert_eq!(cached(&ask(&server, "a", &case).await), json!(0));
    server.stop().await.expect("a clean end");
}

#[tokio::test]
async fn only_one_folder_is_read_where_one_is_named() {
    let outside = tempfile::tempdir().expect("a folder");
    std::os::unix::fs::symlink(adapter("qwen3-all"), outside.path().join("link")).expect("a link");
    let config = Config { adapter_root: Some(fixture("../adapters")), ..runtime(&[]) };
    let server = Server::start(config).await;
    for path in
        ["..", "../models/qwen3", "/etc", "qwen3-all/../../models/qwen3", &outside.path().join("none").display().to_string()]
    {
        let answer = load(&server, "x", path.as_ref(), false).await;
        assert_eq!(answer.status, StatusCode::NOT_FOUND, "{path}: {}", answer.text());
        assert!(answer.text().contains("No adapter found"), "{}", answer.text());
    }
    // What a path leads to is what counts.
    assert_eq!(load(&server, "x", &outside.path().join("link"), false).await.status, StatusCode::OK);
    assert_eq!(load(&server, "y", "qwen3-rslora".as_ref(), false).await.status, StatusCode::OK);
    server.stop().await.expect("a clean end");
}

/// An engine whose tokens cost only time.
fn slow(config: Config) -> Config {
    Config { backend: BackendChoice::Fake(FakeSpeed { prefill_tok_s: f64::INFINITY, step_ms: 5.0 }), ..config }
}

fn info(waiting: &str, running: &str) -> String {
    format!("vllm:lora_requests_info{{max_lora=\"1\",running_lora_adapters=\"{running}\",waiting_lora_adapters=\"{waiting}\"}}")
}

#[tokio::test]
async fn an_adapter_waits_for_its_place_in_the_batch_and_leaves_when_its_requests_have_ended() {
    let config = Config { batch_adapters_max: 1, ..slow(runtime(&[("all", "qwen3-all"), ("few", "qwen3-rslora")])) };
    let server = Server::start(config).await;
    let body = |name: &str| json!({"model": name, "prompt": [1, 2, 3], "max_tokens": 2000, "ignore_eos": true, "stream": true});
    let shown = async |expected: String| {
        while !server.get("/metrics").await.text().lines().any(|line| line.starts_with(&expected)) {
            tokio::task::yield_now().await;
        }
    };
    shown(info("", "")).await;
    let mut all = server.open(path("text"), &[], &body("all")).await;
    all.event().await.expect("it runs");
    let asks_few = body("few");
    let few = server.open(path("text"), &[], &asks_few);
    let rest = async {
        shown(info("few", "all")).await;
        let plain = json!({"prompt": [1, 2, 3], "max_tokens": 3, "ignore_eos": true});
        assert_eq!(server.post(path("text"), &plain).await.status, StatusCode::OK, "the model itself needs no place");
        // Who runs goes on without its name.
        assert_eq!(unload(&server, "all").await.status, StatusCode::OK);
        assert_eq!(server.post(path("text"), &body("all")).await.status, StatusCode::NOT_FOUND);
        for _ in 0..50 {
            let event = all.event().await.expect("it goes on");
            assert!(event.contains("\"finish_reason\":null"), "{event}");
        }
        drop(all);
    };
    let (mut few, ()) = tokio::join!(few, rest);
    few.event().await.expect("it runs");
    shown(info("", "few")).await;
    drop(few);
    shown(info("", "")).await;
    server.stop().await.expect("a clean end");
}
