//! The state stream and the block list, as the node agent reads them.

use serde_json::{Value, json};

use crate::server::{Server, fake, instant, path, scripted};

fn endless() -> Value {
    json!({"prompt": "a", "max_tokens": 2000, "ignore_eos": true, "stream": true, "return_token_ids": true})
}

#[tokio::test]
async fn requests_in_flight_are_counted_for_the_replica_that_sent_them() {
    let server = Server::start(fake(scripted(), 5.0)).await;
    let before = server.state_where(|state| state["state"] == "ready").await;
    assert_eq!((&before["in_flight"], &before["others"]), (&json!([]), &json!({"requests": 0, "uncached_tokens": 0})));
    assert_eq!(before["incarnation"], json!(server.bound.incarnation.to_string()));
    let replica = |name: &str| format!("{name}/00000000000000aa");
    let mut open = Vec::new();
    for name in ["a", "a", "b"] {
        open.push(server.open(path("text"), &[("x-trackside-replica", &replica(name))], &endless()).await);
    }
    open.push(server.open(path("text"), &[("x-trackside-replica", "not a replica")], &endless()).await);
    let state = server.state_where(|state| state["running"] == 4).await;
    let count = |name: &str, requests| json!({"replica": replica(name), "requests": requests, "uncached_tokens": 0});
    assert_eq!(state["in_flight"], json!([count("a", 2), count("b", 1)]));
    assert_eq!(state["others"], json!({"requests": 1, "uncached_tokens": 0}));
    assert_eq!(server.get("/load").await.json(), json!({"server_load": 4}));
    drop(open);
    let after = server.state_where(|state| state["running"] == 0).await;
    assert_eq!((&after["in_flight"], &after["others"]["requests"], &after["kv_blocks_used"]), (&json!([]), &json!(0), &json!(0)));
    server.stop().await.expect("a clean end");
}

#[tokio::test]
async fn a_client_that_goes_away_frees_its_blocks_and_touches_nobody_else() {
    let server = Server::start(fake(scripted(), 2.0)).await;
    let ids = [("x-request-id", "job-7")];
    let mut first = server.open(path("text"), &ids, &endless()).await;
    let mut second_body = endless();
    second_body["prompt"] = json!("b");
    second_body["max_tokens"] = json!(100);
    let mut second = server.open(path("text"), &ids, &second_body).await;
    for _ in 0..3 {
        let chunk: Value = serde_json::from_str(&first.event().await.expect("an event")).expect("JSON");
        assert_eq!(chunk["id"], "cmpl-job-7");
    }
    assert_eq!(first.headers["x-request-id"], "job-7");
    drop(first);
    let mut made = 0;
    while let Some(event) = second.event().await.filter(|event| event != "[DONE]") {
        let chunk: Value = serde_json::from_str(&event).expect("JSON");
        made += chunk["choices"][0]["token_ids"].as_array().map_or(0, Vec::len);
    }
    assert_eq!(made, 100, "the namesake goes on to its end");
    let after = server.state_where(|state| state["running"] == 0 && state["waiting"] == 0).await;
    assert_eq!((&after["kv_blocks_used"], &after["others"]["requests"]), (&json!(0), &json!(0)));
    for line in [
        "vllm:num_requests_running{engine=\"0\",model_name=\"m\"} 0",
        "vllm:kv_cache_usage_perc{engine=\"0\",model_name=\"m\"} 0",
        "vllm:request_success_total{engine=\"0\",finished_reason=\"abort\",model_name=\"m\"} 1",
        "vllm:request_success_total{engine=\"0\",finished_reason=\"length\",model_name=\"m\"} 1",
    ] {
        server.metrics_with(line).await;
    }
    // The same for a client that waits for a whole answer.
    let mut whole = endless();
    whole["stream"] = json!(false);
    let (address, body) = (server.address(), whole.to_string());
    let waiting =
        tokio::spawn(async move { crate::client::ask(address, http::Method::POST, "/v1/completions", &[], body).await });
    server.state_where(|state| state["running"] == 1).await;
    waiting.abort();
    server.state_where(|state| state["running"] == 0 && state["kv_blocks_used"] == 0).await;
    server.stop().await.expect("a clean end");
}

#[tokio::test]
async fn the_block_list_holds_what_is_cached() {
    let mut config = instant(scripted());
    config.answers.prompt_tokens_details = true;
    let server = Server::start(config).await;
    let lines = async || -> Vec<Value> {
        let answer = server.get("/trackside/v1/blocks").await;
        assert_eq!(answer.header("content-type"), Some("application/x-ndjson"));
        answer.text().lines().map(|line| serde_json::from_str(line).expect("a line is JSON")).collect()
    };
    let empty = lines().await;
    let incarnation = server.bound.incarnation.to_string();
    assert_eq!(empty, [json!({"incarnation": incarnation, "sequence": null, "block_tokens": 16, "blocks": 0})]);
    let prompt: Vec<u32> = (0..33).collect();
    let salted = json!({"prompt": prompt, "max_tokens": 1, "cache_salt": "tenant"});
    server.post(path("text"), &json!({"prompt": prompt, "max_tokens": 1})).await;
    server.post(path("text"), &salted).await;
    let full = lines().await;
    assert_eq!((&full[0]["blocks"], full.len()), (&json!(4), 5));
    let block = |tokens: &[u32], salt: Value| {
        let mut found = full[1..].iter().filter(|block| block["tokens"] == json!(tokens) && block["cache_salt"] == salt);
        found.next().unwrap_or_else(|| panic!("{tokens:?} {salt}")).clone()
    };
    let (first, second) = (block(&prompt[..16], Value::Null), block(&prompt[16..32], Value::Null));
    // vLLM 0.33's own hashes: sha256_cbor, seed "vllm-none-hash".
    assert_eq!((first["hash"].as_u64(), &first["parent"]), (Some(2233398808101521225), &Value::Null));
    assert_eq!((second["hash"].as_u64(), &second["parent"]), (Some(17911472383915781900), &first["hash"]));
    let salted_first = block(&prompt[..16], json!("tenant"));
    assert_ne!(salted_first["hash"], first["hash"], "a salt keeps tenants apart");
    assert_eq!(block(&prompt[16..32], json!("tenant"))["parent"], salted_first["hash"]);
    let again = server.post(path("text"), &salted).await.json();
    assert_eq!(again["usage"]["prompt_tokens_details"]["cached_tokens"], 32);
    server.stop().await.expect("a clean end");
}
