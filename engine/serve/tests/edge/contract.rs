//! docs/vllm.md against the code, and against vLLM 0.33's own fields (`golden/vllm_fields.json`, read from its protocol classes).

use std::collections::BTreeMap;
use std::fmt;

use engine_serve::Config;
use http::Method;
use serde::Deserialize;
use serde::de::{Deserializer, Error, Visitor};
use serde_json::{Value, json};

use crate::client;
use crate::server::{Server, instant, scripted};

const DOC: &str = include_str!("../../../../docs/vllm.md");
const FIELDS: &str = include_str!("golden/vllm_fields.json");

/// What an engine that embeds does not serve.
const GENERATING: [&str; 16] = [
    "POST /v1/chat/completions",
    "POST /v1/completions",
    "POST /v1/responses",
    "GET /v1/responses/{response_id}",
    "POST /v1/responses/{response_id}/cancel",
    "POST /v1/messages",
    "POST /v1/chat/completions/batch",
    "POST /inference/v1/generate",
    "POST /inference/v1/abort_requests",
    "POST /invocations",
    "POST /v1/chat/completions/render",
    "POST /v1/completions/render",
    "POST /v1/messages/render",
    "POST /v1/responses/render",
    "POST /v1/chat/completions/derender",
    "POST /v1/completions/derender",
];

/// Rows of the table under a heading: what stands in backquotes, and the state.
fn table(heading: &str) -> Vec<(String, String)> {
    let (_, rest) = DOC.split_once(&format!("## {heading}\n")).unwrap_or_else(|| panic!("no {heading}"));
    let section = rest.split("\n## ").next().unwrap_or_default();
    let rows = section.lines().filter(|line| line.starts_with("| `"));
    let row = |line: &str| {
        let mut cells = line.trim_matches('|').split(" | ").map(str::trim);
        let name = cells.next().expect("a name").trim_matches('`').to_owned();
        (name, cells.next().expect("a state").trim_matches(['|', ' ']).to_owned())
    };
    rows.map(row).collect()
}

/// The fields that a body's type reads.
fn fields<T: for<'a> Deserialize<'a>>() -> &'static [&'static str] {
    struct Spy(std::cell::Cell<&'static [&'static str]>);
    #[derive(Debug)]
    struct Seen;
    impl fmt::Display for Seen {
        fn fmt(&self, _: &mut fmt::Formatter<'_>) -> fmt::Result {
            Ok(())
        }
    }
    impl std::error::Error for Seen {}
    impl Error for Seen {
        fn custom<M: fmt::Display>(_: M) -> Self {
            Self
        }
    }
    impl<'de> Deserializer<'de> for &Spy {
        type Error = Seen;
        fn deserialize_any<V: Visitor<'de>>(self, _: V) -> Result<V::Value, Seen> {
            Err(Seen)
        }
        fn deserialize_struct<V: Visitor<'de>>(
            self,
            _: &'static str,
            fields: &'static [&'static str],
            _: V,
        ) -> Result<V::Value, Seen> {
            self.0.set(fields);
            Err(Seen)
        }
        serde::forward_to_deserialize_any! {
            bool i8 i16 i32 i64 u8 u16 u32 u64 f32 f64 char str string bytes byte_buf option unit unit_struct newtype_struct seq tuple
            tuple_struct map enum identifier ignored_any
        }
    }
    let spy = Spy(std::cell::Cell::new(&[]));
    assert!(T::deserialize(&spy).is_err());
    spy.0.get()
}

#[test]
fn every_field_of_vllm_has_its_row() {
    let vllm: BTreeMap<String, Vec<String>> = serde_json::from_str(FIELDS).expect("JSON");
    let check = |heading: &str, key: &str, read: &[&str]| {
        let rows = table(heading);
        let names: Vec<&String> = rows.iter().map(|(name, _)| name).collect();
        assert_eq!(names, vllm[key].iter().collect::<Vec<_>>(), "{heading}");
        for (name, state) in &rows {
            assert!(["served", "ignored", "refused"].contains(&state.as_str()), "{heading}: {name} is {state}");
            let is_read = read.contains(&name.as_str());
            assert!(state == "ignored" || is_read, "{heading}: {name} is {state} and never read");
        }
    };
    let chat = fields::<proto::openai::Request>();
    check("`POST /v1/chat/completions`", "chat", chat);
    check("`POST /v1/completions`", "completions", chat);
    check("`POST /v1/responses`", "responses", fields::<proto::openai::ResponsesRequest>());
    let messages = fields::<proto::anthropic::MessagesRequest>();
    check("`POST /v1/messages`", "messages", messages);
    check("`POST /v1/messages/count_tokens`", "count_tokens", messages);
    let tokenize = fields::<proto::openai::TokenizeRequest>();
    check("`POST /tokenize` of a text", "tokenize_text", tokenize);
    check("`POST /tokenize` of a chat", "tokenize_chat", tokenize);
    check("`POST /detokenize`", "detokenize", fields::<proto::openai::DetokenizeRequest>());
    let embeddings = fields::<proto::openai::EmbeddingRequest>();
    check("`POST /v1/embeddings`", "embeddings", embeddings);
    check("`POST /v1/embeddings` of a chat", "embeddings_chat", embeddings);
    check("`POST /inference/v1/generate`", "generate", fields::<proto::openai::GenerateRequest>());
}

#[tokio::test]
async fn every_endpoint_is_what_its_row_says() {
    let mut flags = instant(scripted());
    (flags.dev_mode, flags.runtime_adapters, flags.answers.tokenizer_info) = (true, true, true);
    let assets = scripted();
    let embeds = Config { pooling: Some(assets.pooling.clone()), ..instant(assets) };
    let rows = table("Endpoints");
    assert!(rows.len() > 70);
    for (config, served) in
        [(instant(scripted()), &["served"][..]), (flags, &["served", "developer", "by flag"]), (embeds, &["served", "pooling"])]
    {
        let generates = config.pooling.is_none();
        let server = Server::start(config).await;
        for (endpoint, state) in &rows {
            let (method, path) = endpoint.split_once(' ').expect("a method and a path");
            let method: Method = method.parse().expect("a method");
            let path = path.replace("{response_id}", "resp_none");
            let answer = client::ask(server.address(), method, &path, &[], "{}").await;
            // An id that is unknown is a 404, too, but one that names it.
            let routed = answer.status != 404 || answer.json()["error"]["param"] != Value::Null;
            let expected = served.contains(&state.as_str()) && (generates || !GENERATING.contains(&endpoint.as_str()));
            assert!(["served", "developer", "by flag", "pooling", "absent"].contains(&state.as_str()), "{endpoint} is {state}");
            assert_eq!(routed && answer.status != 405, expected, "{endpoint} is {state}: {} {}", answer.status, answer.text());
            if path == "/sleep" || path == "/pause" {
                server.post("/wake_up", &json!({})).await;
                server.post("/resume", &json!({})).await;
            }
        }
        server.stop().await.expect("a clean end");
    }
}

#[tokio::test]
async fn every_metric_of_vllm_is_what_its_row_says() {
    let vllm: Vec<String> = serde_json::from_str(include_str!("golden/vllm_metrics.json")).expect("JSON");
    let rows = table("Metrics");
    let is_of = |row: &str, name: &str| row.strip_suffix('*').map_or(row == name, |begins| name.starts_with(begins));
    let mut flags = instant(scripted());
    (flags.dev_mode, flags.limits.residency_sample_ppm) = (true, 1);
    flags.speculation = Some(engine::speculate::Speculation::ngram(4));
    for (config, served) in [(instant(scripted()), &["served"][..]), (flags, &["served", "by flag"])] {
        let server = Server::start(config).await;
        let scrape = server.get("/metrics").await.text();
        for name in &vllm {
            let own: Vec<_> = rows.iter().filter(|(row, _)| is_of(row, name)).collect();
            let [(_, state)] = own[..] else { panic!("{name} has {} rows", own.len()) };
            assert!(["served", "by flag", "absent"].contains(&state.as_str()), "{name} is {state}");
            let there =
                scrape.contains(&format!("# TYPE vllm:{name} ")) || scrape.contains(&format!("# TYPE vllm:{name}_total "));
            assert_eq!(there, served.contains(&state.as_str()), "{name} is {state}");
        }
        server.stop().await.expect("a clean end");
    }
}

#[tokio::test]
async fn what_is_refused_is_a_400_that_names_it() {
    let server = Server::start(instant(scripted())).await;
    let asking = json!({
        "use_beam_search": true, "length_penalty": 2, "suffix": "x", "prompt_embeds": "AAAA", "thinking_token_budget": 5,
        "mm_processor_kwargs": {"a": 1}, "media_io_kwargs": {"image": {}},
        "ec_transfer_params": {"a": 1}, "watermarking": true, "return_weight_versions": true,
        "response_format": {"type": "json_object"}, "structured_outputs": {"regex": "a"}, "tool_choice": "required",
    });
    for (heading, path) in
        [("`POST /v1/chat/completions`", "/v1/chat/completions"), ("`POST /v1/completions`", "/v1/completions")]
    {
        for (name, _) in table(heading).iter().filter(|(_, state)| state == "refused") {
            let mut body = json!({"prompt": "a", "messages": [{"role": "user", "content": "a"}], "max_tokens": 1});
            body[name] = asking.get(name).unwrap_or_else(|| panic!("{name} is refused: say here what asks for it")).clone();
            let answer = server.post(path, &body).await;
            assert_eq!((answer.status.as_u16(), &answer.json()["error"]["param"]), (400, &json!(name)), "{}", answer.text());
        }
    }
    server.stop().await.expect("a clean end");
}

#[tokio::test]
async fn no_malformed_body_is_more_than_a_400() {
    let server = Server::start(instant(scripted())).await;
    let deep = format!("{{\"messages\":{}{}}}", "[".repeat(100_000), "]".repeat(100_000));
    let paths = [
        "/v1/chat/completions",
        "/v1/completions",
        "/v1/responses",
        "/v1/messages",
        "/v1/messages/count_tokens",
        "/tokenize",
        "/detokenize",
        "/inference/v1/generate",
        "/v1/chat/completions/render",
        "/v1/completions/render",
        "/v1/messages/render",
        "/v1/responses/render",
        "/v1/chat/completions/batch",
        "/v1/chat/completions/derender",
        "/v1/completions/derender",
        "/inference/v1/abort_requests",
        "/invocations",
    ];
    let bodies = [
        "",
        "null",
        "[]",
        "7",
        "\"a\"",
        "{",
        "{}",
        "{\"a\":1}",
        "\u{0}",
        "{\"messages\":{}}",
        "{\"messages\":[null]}",
        "{\"prompt\":{}}",
        "{\"messages\":[[]],\"model\":\"m\",\"max_tokens\":1}",
        "{\"input\":[[]]}",
        "{\"input\":{}}",
        "{\"prompt\":[[],[\"a\"]]}",
        "{\"token_ids\":[1],\"sampling_params\":[]}",
        "{\"token_ids\":[1e400],\"sampling_params\":{}}",
        "{\"model\":7}",
        &deep,
        "{\"messages\":[{\"role\":\"user\",\"content\":[{\"type\":\"tool_result\",\"content\":[7]}]}],\"model\":7}",
    ];
    for path in paths {
        for body in bodies {
            let answer = client::ask(server.address(), Method::POST, path, &[], body.to_owned()).await;
            assert_eq!(answer.status, 400, "{path} {:.80}: {}", body, answer.text());
        }
    }
    server.stop().await.expect("a clean end");
}
