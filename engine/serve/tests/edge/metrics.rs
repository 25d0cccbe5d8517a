//! `/metrics` read by a strict reader of Prometheus' text format 0.0.4.

use std::collections::BTreeMap;

use serde_json::json;

use crate::server::{Server, cpu, instant, path, scripted};

type Labels = BTreeMap<String, String>;

/// Every sample by name and labels; panics at anything that the format does not allow.
fn parse(text: &str) -> Vec<(String, Labels, f64)> {
    assert!(text.ends_with('\n'), "the last line ends");
    let mut kinds: BTreeMap<&str, &str> = BTreeMap::new();
    let mut samples = Vec::new();
    for line in text.lines() {
        if let Some(comment) = line.strip_prefix("# ") {
            let mut words = comment.splitn(3, ' ');
            match (words.next(), words.next(), words.next()) {
                (Some("HELP"), Some(_), Some(_)) => {}
                (Some("TYPE"), Some(name), Some(kind @ ("counter" | "gauge" | "histogram"))) => {
                    assert_eq!(kinds.insert(name, kind), None, "{name} is declared once");
                }
                _ => panic!("{line}"),
            }
            continue;
        }
        let name_end = line.find(['{', ' ']).unwrap_or_else(|| panic!("{line}"));
        let (name, rest) = line.split_at(name_end);
        let valid = |name: &str| name.chars().all(|letter| letter.is_ascii_alphanumeric() || matches!(letter, '_' | ':'));
        assert!(valid(name) && !name.starts_with(|letter: char| letter.is_ascii_digit()), "{line}");
        let family =
            ["_bucket", "_sum", "_count"].iter().find_map(|suffix| name.strip_suffix(suffix)).filter(|f| kinds.contains_key(f));
        let kind = kinds.get(family.unwrap_or(name)).unwrap_or_else(|| panic!("{name} has no TYPE"));
        assert!(*kind != "counter" || name.ends_with("_total"), "{name}");
        let (labels, value) = labels(rest);
        let value = if value == "+Inf" { f64::INFINITY } else { value.parse().unwrap_or_else(|_| panic!("{line}")) };
        samples.push((name.to_owned(), labels, value));
    }
    samples
}

/// `{a="b",c="d\\\"\n"} 1`, with the three escapes that exist.
fn labels(text: &str) -> (Labels, &str) {
    let mut labels = Labels::new();
    let Some(mut rest) = text.strip_prefix('{') else { return (labels, text.strip_prefix(' ').expect("a space")) };
    loop {
        let (name, value) = rest.split_once("=\"").unwrap_or_else(|| panic!("{text}"));
        let mut unescaped = String::new();
        let mut letters = value.char_indices();
        let end = loop {
            match letters.next().unwrap_or_else(|| panic!("{text}")) {
                (end, '"') => break end,
                (_, '\\') => match letters.next() {
                    Some((_, 'n')) => unescaped.push('\n'),
                    Some((_, letter @ ('\\' | '"'))) => unescaped.push(letter),
                    other => panic!("{other:?} in {text}"),
                },
                (_, letter) => unescaped.push(letter),
            }
        };
        assert_eq!(labels.insert(name.to_owned(), unescaped), None, "{text}");
        rest = &value[end + 1..];
        match rest.strip_prefix(',') {
            Some(more) => rest = more,
            None => return (labels, rest.strip_prefix("} ").unwrap_or_else(|| panic!("{text}"))),
        }
    }
}

#[tokio::test]
async fn a_scrape_can_be_read_whatever_the_model_is_called() {
    for name in ["m", "a\"b\\c\nd", "Ünïcode/模型", &"x".repeat(256)] {
        let mut config = instant(scripted());
        config.names = vec![name.into()];
        let server = Server::start(config).await;
        let samples = parse(&server.get("/metrics").await.text());
        let named = samples.iter().filter(|(_, labels, _)| labels.get("model_name").is_some_and(|label| label == name));
        assert!(named.count() > 100, "{name}");
        server.stop().await.expect("a clean end");
    }
    for name in ["", &"x".repeat(10_240)] {
        let mut config = instant(scripted());
        config.names = vec![name.into()];
        let fault = engine_serve::bind(config).await.err().expect("no name for a label");
        assert_eq!(fault.kind, domain::FaultKind::Usage);
    }
}

#[tokio::test]
async fn every_count_is_that_of_the_requests_made() {
    let server = Server::start(instant(scripted())).await;
    let prompt: Vec<u32> = (0..40).collect();
    for _ in 0..3 {
        server.post(path("text"), &json!({"prompt": prompt, "max_tokens": 5, "ignore_eos": true})).await;
    }
    server.post(path("text"), &json!({"prompt": "a", "n": 0})).await;
    let ended = "vllm:request_success_total{engine=\"0\",finished_reason=\"length\",model_name=\"m\"} 3";
    let samples = parse(&server.metrics_with(ended).await);
    let value = |name: &str, label: Option<(&str, &str)>| {
        let matches = |labels: &Labels| label.is_none_or(|(key, value)| labels.get(key).is_some_and(|seen| seen == value));
        let mut found = samples.iter().filter(|(seen, labels, _)| seen == name && matches(labels));
        let (_, labels, value) = found.next().unwrap_or_else(|| panic!("{name} {label:?} is missing"));
        assert!(
            name.starts_with("http")
                || name.starts_with("process")
                || name.contains("lora")
                || labels.get("engine").is_some_and(|engine| engine == "0"),
            "{name}"
        );
        *value
    };
    for (name, label, expected) in [
        ("vllm:prompt_tokens_total", None, 120.0),
        ("vllm:generation_tokens_total", None, 15.0),
        ("vllm:prefix_cache_queries_total", None, 120.0),
        ("vllm:prefix_cache_hits_total", None, 64.0),
        ("vllm:prompt_tokens_by_source_total", Some(("source", "local_compute")), 56.0),
        ("vllm:prompt_tokens_by_source_total", Some(("source", "local_cache_hit")), 64.0),
        ("vllm:gpu_cache_usage_perc", None, 0.0),
        ("vllm:gpu_prefix_cache_hits_total", None, 64.0),
        ("vllm:time_per_output_token_seconds_count", None, 12.0),
        ("vllm:request_max_num_generation_tokens_sum", None, 15.0),
        ("vllm:mm_cache_queries_total", None, 0.0),
        ("vllm:num_preemptions_total", None, 0.0),
        ("vllm:num_requests_running", None, 0.0),
        ("vllm:num_requests_waiting", None, 0.0),
        ("vllm:kv_cache_usage_perc", None, 0.0),
        ("vllm:request_success_total", Some(("finished_reason", "length")), 3.0),
        ("vllm:request_success_total", Some(("finished_reason", "stop")), 0.0),
        ("vllm:request_success_total", Some(("finished_reason", "repetition")), 0.0),
        ("vllm:time_to_first_token_seconds_count", None, 3.0),
        ("vllm:inter_token_latency_seconds_count", None, 12.0),
        ("vllm:e2e_request_latency_seconds_count", None, 3.0),
        ("vllm:request_queue_time_seconds_count", None, 3.0),
        ("vllm:request_inference_time_seconds_count", None, 3.0),
        ("vllm:request_prefill_time_seconds_count", None, 3.0),
        ("vllm:request_decode_time_seconds_count", None, 3.0),
        ("vllm:request_prompt_tokens_sum", None, 120.0),
        ("vllm:request_prompt_tokens_bucket", Some(("le", "20")), 0.0),
        ("vllm:request_prompt_tokens_bucket", Some(("le", "50")), 3.0),
        ("vllm:request_prompt_tokens_bucket", Some(("le", "2000")), 3.0),
        ("vllm:request_generation_tokens_sum", None, 15.0),
        ("vllm:request_params_max_tokens_sum", None, 15.0),
        ("vllm:request_params_n_count", None, 3.0),
        ("vllm:request_prefill_kv_computed_tokens_sum", None, 56.0),
        ("vllm:iteration_tokens_total_sum", None, 56.0 + 12.0),
        ("vllm:cache_config_info", Some(("block_size", "16")), 1.0),
        ("vllm:cache_config_info", Some(("num_gpu_blocks", "16384")), 1.0),
        ("http_requests_total", Some(("handler", "/v1/completions")), 3.0),
    ] {
        assert_eq!(value(name, label), expected, "{name} {label:?}");
    }
    assert!(value("process_resident_memory_bytes", None) > 1e6 && value("process_start_time_seconds", None) > 1.7e9);
    assert!(value("vllm:lora_requests_info", None) > 1.7e9, "the time of the reading");
    server.stop().await.expect("a clean end");
}

/// The scripted model walks in a circle: from its second round on, drafts are right.
#[tokio::test]
async fn drafts_are_counted_and_change_nothing() {
    let ask = json!({"prompt": "x", "max_tokens": 400, "temperature": 0, "ignore_eos": true, "return_token_ids": true});
    let plain = Server::start(cpu(scripted())).await;
    let expected = plain.post(path("text"), &ask).await.json()["choices"][0]["token_ids"].clone();
    assert_eq!(expected.as_array().map(Vec::len), Some(400));
    assert!(!plain.get("/metrics").await.text().contains("spec_decode"), "nothing speculates");
    let mut config = cpu(scripted());
    config.speculation = Some(engine::speculate::Speculation::ngram(4));
    let drafted = Server::start(config).await;
    assert_eq!(drafted.post(path("text"), &ask).await.json()["choices"][0]["token_ids"], expected);
    let ended = "vllm:request_success_total{engine=\"0\",finished_reason=\"length\",model_name=\"m\"} 1";
    let samples = parse(&drafted.metrics_with(ended).await);
    let value = |name: &str| samples.iter().filter(|(seen, ..)| seen == name).map(|(.., value)| value).sum::<f64>();
    let accepted = value("vllm:spec_decode_num_accepted_tokens_total");
    assert!(accepted > 100.0 && accepted <= value("vllm:spec_decode_num_draft_tokens_total"), "{accepted}");
    assert!(value("vllm:spec_decode_num_drafts_total") < 200.0);
    assert_eq!(value("vllm:spec_decode_num_accepted_tokens_per_pos_total"), accepted);
}

#[tokio::test]
async fn stays_of_blocks_are_measured_where_they_are_asked_for() {
    let plain = Server::start(instant(scripted())).await;
    assert!(!plain.get("/metrics").await.text().contains("kv_block_"), "nobody asks");
    plain.stop().await.expect("a clean end");
    let mut config = instant(scripted());
    (config.limits.kv_blocks, config.limits.residency_sample_ppm) = (Some(8), 1_000_000);
    let server = Server::start(config).await;
    // Of eight blocks of 16 tokens, each prompt leaves four that the next but one takes.
    for first in [0, 1, 0, 2, 3, 4] {
        let prompt: Vec<u32> = (0..64).map(|i| first * 10 + i % 10).collect();
        let answer = server.post(path("text"), &json!({"prompt": prompt, "max_tokens": 1})).await;
        assert_eq!(answer.status, 200, "{}", answer.text());
    }
    let ended = "vllm:request_success_total{engine=\"0\",finished_reason=\"length\",model_name=\"m\"} 6";
    let samples = parse(&server.metrics_with(ended).await);
    let value = |name: &str| samples.iter().filter(|(seen, ..)| seen == name).map(|(.., value)| value).sum::<f64>();
    let evicted = value("vllm:kv_block_lifetime_seconds_count");
    assert!(evicted >= 8.0 && evicted == value("vllm:kv_block_idle_before_evict_seconds_count"), "{evicted}");
    assert!(value("vllm:kv_block_lifetime_seconds_sum") >= value("vllm:kv_block_idle_before_evict_seconds_sum"));
    assert_eq!(value("vllm:kv_block_reuse_gap_seconds_count"), 0.0, "no block was found twice");
    server.stop().await.expect("a clean end");
}
