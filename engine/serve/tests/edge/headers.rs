//! What travels in headers and beside the text: load reports, ranks, times.

use serde_json::{Value, json};

use crate::server::{Server, instant, path, scripted};

#[tokio::test]
async fn a_load_report_comes_with_the_answer_that_asks_for_one() {
    let server = Server::start(instant(scripted())).await;
    let check = async |endpoint: &str, format: &str, stream: bool, expected: Option<&str>| {
        let body = json!({"prompt": "a", "messages": [{"role": "user", "content": "a"}], "max_tokens": 1, "stream": stream});
        let answer = server.post_with(path(endpoint), &[("endpoint-load-metrics-format", format)], &body).await;
        assert_eq!(answer.header("endpoint-load-metrics"), expected, "{endpoint} {format}");
    };
    // The request itself has ended, so nothing is held.
    let text = "TEXT named_metrics.num_requests_waiting=0.0, named_metrics.kv_cache_usage_perc=0.0";
    let json = r#"JSON {"named_metrics": {"num_requests_waiting": 0.0, "kv_cache_usage_perc": 0.0}}"#;
    for endpoint in ["text", "chat"] {
        check(endpoint, "", false, None).await;
        check(endpoint, "BIN", false, None).await;
        for (format, expected) in [("TEXT", text), ("text", text), ("JSON", json)] {
            server.state_where(|state| state["kv_blocks_used"] == 0).await;
            let body = json!({"prompt": "a", "messages": [{"role": "user", "content": "a"}], "max_tokens": 1});
            let answer = server.post_with(path(endpoint), &[("endpoint-load-metrics-format", format)], &body).await;
            let report = answer.header("endpoint-load-metrics").unwrap_or_default();
            // The engine reports a step after it has sent the step's tokens, so a block may still be counted.
            assert_eq!(report.split("kv_cache_usage_perc").next(), expected.split("kv_cache_usage_perc").next());
        }
    }
    server.stop().await.expect("a clean end");
}

#[tokio::test]
async fn a_request_for_another_rank_is_refused() {
    let server = Server::start(instant(scripted())).await;
    let body = json!({"prompt": "a", "max_tokens": 1});
    for (rank, status) in [("0", 200), ("1", 400), ("-1", 400), ("first", 200), ("", 200)] {
        let answer = server.post_with(path("text"), &[("x-data-parallel-rank", rank), ("x-session-id", "s")], &body).await;
        assert_eq!(answer.status, status, "{rank:?}: {}", answer.text());
    }
    server.stop().await.expect("a clean end");
}

#[tokio::test]
async fn times_come_with_the_answer_of_one_sequence() {
    let mut config = instant(scripted());
    config.answers.per_request_metrics = true;
    let server = Server::start(config).await;
    let mut body = json!({"prompt": "a", "max_tokens": 5, "ignore_eos": true, "stream_options": {"include_usage": true}});
    let check = |metrics: &Value| {
        for key in ["time_to_first_token_ms", "generation_time_ms", "queue_time_ms", "mean_itl_ms", "tokens_per_second"] {
            assert!(metrics[key].as_f64().is_some_and(|value| value >= 0.0), "{key}: {metrics}");
        }
    };
    body["stream"] = json!(true);
    let events = server.post(path("text"), &body).await.events();
    let usage: Value = serde_json::from_str(&events[events.len() - 2]).expect("JSON");
    check(&usage["metrics"]);
    body = json!({"prompt": "a", "max_tokens": 5, "ignore_eos": true});
    check(&server.post(path("text"), &body).await.json()["metrics"]);
    (body["n"], body["temperature"]) = (json!(2), json!(1));
    assert_eq!(server.post(path("text"), &body).await.json()["metrics"], Value::Null, "two sequences have no one time");
    server.stop().await.expect("a clean end");
}
