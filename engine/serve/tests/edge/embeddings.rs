//! `/v1/embeddings` and `/pooling` over HTTP, on a tiny embedding model as sentence-transformers publishes one.

use engine_serve::{BackendChoice, Config, Convert, CpuDtype, Runner};
use serde_json::{Value, json};
use std::sync::Arc;

use crate::server::{NAME, Server, cpu, fixture, instant, scripted};

fn model(name: &str) -> Config {
    cpu(Arc::new(engine_assets::open(&fixture(name)).unwrap_or_else(|error| panic!("{error}"))))
}

/// Texts, ids and vectors before normalisation; see tests/parity/embeddings.py.
fn golden(name: &str) -> Vec<Value> {
    let text = std::fs::read_to_string(fixture(name).join("vectors.json")).expect("the golden is there");
    let golden: Value = serde_json::from_str(&text).expect("JSON");
    golden["cases"].as_array().expect("cases").clone()
}

fn numbers(vector: &Value) -> Vec<f64> {
    vector
        .as_array()
        .unwrap_or_else(|| panic!("{vector} is no vector"))
        .iter()
        .map(|value| value.as_f64().expect("a number"))
        .collect()
}

/// The vector as the model's last module leaves it, cut before.
fn normalised(vector: &Value, size: usize) -> Vec<f64> {
    let vector = &numbers(vector)[..size];
    let length = vector.iter().map(|value| value * value).sum::<f64>().sqrt();
    vector.iter().map(|value| value / length).collect()
}

#[track_caller]
fn alike(got: &[f64], expected: &[f64]) {
    assert_eq!(got.len(), expected.len());
    let far = got.iter().zip(expected).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
    assert!(far < 5e-5, "off by {far}");
}

fn unbase64(text: &str) -> Vec<f64> {
    const LETTERS: &str = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let bits: Vec<u32> = text.chars().filter_map(|letter| LETTERS.find(letter)).map(|at| at as u32).collect();
    let join = |four: &[u32]| (0..4).fold(0, |bits, at| bits << 6 | four.get(at).copied().unwrap_or(0));
    let bytes: Vec<u8> = bits.chunks(4).flat_map(|four| join(four).to_be_bytes()[1..four.len()].to_vec()).collect();
    bytes.chunks_exact(4).map(|four| f64::from(f32::from_le_bytes([four[0], four[1], four[2], four[3]]))).collect()
}

#[tokio::test]
async fn vectors_of_texts_and_ids_are_those_of_sentence_transformers() {
    let server = Server::start(model("qwen3-embedding")).await;
    let cases = golden("qwen3-embedding");
    let texts: Vec<&Value> = cases.iter().map(|case| &case["text"]).collect();
    let ids: Vec<&Value> = cases.iter().map(|case| &case["ids"]).collect();
    let tokens: usize = ids.iter().map(|ids| ids.as_array().map_or(0, Vec::len)).sum();
    for input in [json!(texts), json!(ids)] {
        let answer = server.post("/v1/embeddings", &json!({"model": NAME, "input": input, "user": "u"})).await;
        assert_eq!(answer.status, 200, "{}", answer.text());
        let body = answer.json();
        assert_eq!((&body["object"], &body["model"]), (&json!("list"), &json!(NAME)));
        assert!(body["id"].as_str().is_some_and(|id| id.starts_with("embd-")));
        assert_eq!(
            body["usage"],
            json!({"prompt_tokens": tokens, "total_tokens": tokens, "completion_tokens": 0, "prompt_tokens_details": null, "completion_tokens_details": null})
        );
        for (index, case) in cases.iter().enumerate() {
            let one = &body["data"][index];
            assert_eq!((&one["index"], &one["object"]), (&json!(index), &json!("embedding")));
            alike(&numbers(&one["embedding"]), &normalised(&case["vector"], 48));
        }
    }
    // One text, one list of ids; as base64, not normalised, with an id of the client's.
    let case = &cases[2];
    let headers = [("x-request-id", "mine")];
    let asked = json!({"input": case["text"], "encoding_format": "base64", "use_activation": false});
    let body = server.post_with("/v1/embeddings", &headers, &asked).await.json();
    assert_eq!(body["id"], "embd-mine");
    alike(&unbase64(body["data"][0]["embedding"].as_str().expect("base64")), &numbers(&case["vector"]));
    let pooled = server.post("/pooling", &json!({"input": case["ids"], "task": "embed"})).await.json();
    assert_eq!((&pooled["data"][0]["object"], pooled["data"].as_array().map(Vec::len)), (&json!("pooling"), Some(1)));
    alike(&numbers(&pooled["data"][0]["data"]), &normalised(&case["vector"], 48));
    // The ids of a text that is cut, and of one without special tokens.
    let ids: Vec<u64> = case["ids"].as_array().expect("ids").iter().filter_map(Value::as_u64).collect();
    let vector = async |body: Value| numbers(&server.post("/v1/embeddings", &body).await.json()["data"][0]["embedding"]);
    let bare = &ids[..ids.len() - 1];
    for (asked, ids) in [
        (json!({"input": case["text"], "add_special_tokens": false}), bare),
        (json!({"input": case["text"], "truncate_prompt_tokens": 3}), &ids[..3]),
        (json!({"input": case["text"], "truncate_prompt_tokens": 3, "truncation_side": "left"}), &ids[ids.len() - 3..]),
    ] {
        assert_eq!(vector(asked).await, vector(json!({"input": ids})).await);
    }
    server.metrics_with("vllm:request_success_total{engine=\"0\",finished_reason=\"stop\",model_name=\"m\"} 20").await;
    server.metrics_with("vllm:generation_tokens_total{engine=\"0\",model_name=\"m\"} 0").await;
    assert_eq!(server.get("/v1/models").await.json()["data"][0]["max_model_len"], 1024);
    server.stop().await.expect("a clean end");
}

#[tokio::test]
async fn sizes_are_those_that_the_model_was_trained_for() {
    let server = Server::start(model("mistral-mean")).await;
    let case = &golden("mistral-mean")[3];
    let body = server.post("/v1/embeddings", &json!({"input": case["text"]})).await.json();
    alike(&numbers(&body["data"][0]["embedding"]), &numbers(&case["vector"]));
    let asked = json!({"input": case["text"], "dimensions": 16, "use_activation": true});
    let body = server.post("/v1/embeddings", &asked).await.json();
    alike(&numbers(&body["data"][0]["embedding"]), &normalised(&case["vector"], 16));
    for size in [0, -1, 17, 64] {
        let answer = server.post("/v1/embeddings", &json!({"input": "a", "dimensions": size})).await;
        assert_eq!((answer.status.as_u16(), &answer.json()["error"]["param"]), (400, &json!("dimensions")));
    }
    server.stop().await.expect("a clean end");
}

#[tokio::test]
async fn what_is_not_served_is_refused_by_name() {
    let server = Server::start(model("qwen3-embedding")).await;
    for (body, param) in [
        (json!({"input": "a", "dimensions": 8}), "dimensions"),
        (json!({"input": []}), "input"),
        (json!({"input": {}}), "input"),
        (json!({"input": [[1], ["a"]]}), "input"),
        (json!({"input": [[999_999]]}), "input"),
        (json!({"input": vec!["a"; 2049]}), "input"),
        (json!({"input": vec![5; 1025]}), "input"),
        (json!({}), "input"),
        (json!({"input": "a", "messages": []}), "input"),
        (json!({"input": "a", "encoding_format": "bytes"}), "encoding_format"),
        (json!({"input": "a", "embed_dtype": "float16"}), "embed_dtype"),
        (json!({"input": "a", "endianness": "middle"}), "endianness"),
        (json!({"input": "a", "normalize": true}), "normalize"),
        (json!({"input": "a", "padding": "max_length"}), "padding"),
        (json!({"input": "a", "priority": 3}), "priority"),
        (json!({"input": "a", "truncate_prompt_tokens": 1025}), "truncate_prompt_tokens"),
        (json!({"input": "a", "cache_salt": ""}), "cache_salt"),
        (json!({"input": "a", "mm_processor_kwargs": {"a": 1}}), "mm_processor_kwargs"),
        (json!({"messages": [{"role": "user", "content": "a"}]}), "messages"),
    ] {
        let answer = server.post("/v1/embeddings", &body).await;
        let text = answer.text();
        assert_eq!((answer.status.as_u16(), &answer.json()["error"]["param"]), (400, &json!(param)), "{body:.60}: {text}");
    }
    let answer = server.post("/pooling", &json!({"input": "a", "task": "classify"})).await;
    assert_eq!((answer.status.as_u16(), &answer.json()["error"]["param"]), (400, &json!("task")));
    assert_eq!(server.post("/v1/embeddings", &json!({"model": "other", "input": "a"})).await.status, 404);
    // A text that fills the context is not too long, and -1 cuts to it.
    for body in [json!({"input": vec![5; 1024]}), json!({"input": vec![5; 3000], "truncate_prompt_tokens": -1})] {
        let answer = server.post("/v1/embeddings", &body).await;
        assert_eq!((answer.status.as_u16(), &answer.json()["usage"]["prompt_tokens"]), (200, &json!(1024)), "{}", answer.text());
    }
    // What generates is not here.
    for path in ["/v1/chat/completions", "/v1/completions", "/v1/responses", "/v1/messages", "/inference/v1/generate"] {
        let answer = server.post(path, &json!({"prompt": "a"})).await;
        assert!(answer.status == 404 && answer.text().contains("/v1/embeddings"), "{path}: {}", answer.text());
    }
    server.stop().await.expect("a clean end");
}

#[tokio::test]
async fn a_language_model_embeds_only_where_asked_to() {
    let server = Server::start(instant(scripted())).await;
    for path in ["/v1/embeddings", "/pooling"] {
        let answer = server.post(path, &json!({"input": "a"})).await;
        assert!(answer.status == 404 && answer.text().contains("--runner pooling"), "{}", answer.text());
    }
    server.stop().await.expect("a clean end");

    let assets = scripted();
    let pooling =
        engine_serve::pooling(&assets, Runner::Auto, Convert::Embed, Some(r#"{"pooling_type":"MEAN"}"#)).expect("it can");
    let backend = BackendChoice::Cpu { threads: Some(1), dtype: CpuDtype::Auto };
    for config in [Config { backend, ..instant(scripted()) }, instant(scripted())] {
        let server = Server::start(Config { pooling: pooling.clone(), ..config }).await;
        let body = server.post("/v1/embeddings", &json!({"input": ["ab", "ab", "abc"]})).await.json();
        let vectors: Vec<Vec<f64>> = (0..3).map(|at| numbers(&body["data"][at]["embedding"])).collect();
        assert!(vectors[0] == vectors[1] && vectors[0] != vectors[2]);
        assert!((vectors[0].iter().map(|value| value * value).sum::<f64>() - 1.0).abs() < 1e-5, "divided by its length");
        server.stop().await.expect("a clean end");
    }
}

#[test]
fn flags_that_contradict_are_told() {
    let language = scripted();
    let embedding = engine_assets::open(&fixture("mistral-mean")).unwrap_or_else(|error| panic!("{error}"));
    let check = |assets, runner, convert, json, says: &str| {
        let fault = engine_serve::pooling(assets, runner, convert, json).expect_err(says).to_string();
        assert!(fault.contains(says), "{fault} does not say {says}");
    };
    check(&language, Runner::Generate, Convert::Embed, None, "contradict");
    check(&language, Runner::Pooling, Convert::None, None, "--convert embed");
    check(&language, Runner::Auto, Convert::Auto, Some("{}"), "--runner pooling");
    check(&language, Runner::Pooling, Convert::Auto, Some(r#"{"pooling_type":"ALL"}"#), "CLS, LAST and MEAN");
    check(&language, Runner::Pooling, Convert::Auto, Some(r#"{"dimensions":8}"#), "dimensions");
    check(&embedding, Runner::Generate, Convert::Auto, None, "no output head");
    let chosen = |assets, runner, convert| engine_serve::pooling(assets, runner, convert, None).expect("it can").is_some();
    assert!(!chosen(&language, Runner::Auto, Convert::Auto) && chosen(&language, Runner::Pooling, Convert::Auto));
    assert!(chosen(&embedding, Runner::Auto, Convert::Auto) && chosen(&embedding, Runner::Auto, Convert::Embed));
}
