//! Token ids: what `/tokenize` says is what runs, and what the engine makes comes out whole, streamed or not.

use engine::backend::Capacity;
use engine::backend::fake::expected;
use engine::request::Sampling;
use serde_json::{Value, json};

use crate::server::{Server, fixture, instant, path};

/// The fake backend's own answer, without an engine around it.
pub fn oracle(prompt: &[u32], tokens: usize, seed: Option<u64>) -> Vec<u32> {
    let capacity = Capacity {
        vocabulary: 761,
        context_length: 1024,
        block_tokens: 16,
        kv_blocks: 16_384,
        slots: 64,
        batch_tokens: 512,
        logit_rows: 96,
    };
    let sampling = seed.map_or(Sampling::GREEDY, |seed| Sampling { temperature: 1.0, top_k: 0, top_p: 1.0, min_p: 0.0, seed });
    let mut sequence = prompt.to_vec();
    for index in 0..tokens as u32 {
        sequence.push(expected(&sequence, &sampling, index, &capacity));
    }
    sequence.split_off(prompt.len())
}

pub fn llama() -> engine_serve::Config {
    instant(std::sync::Arc::new(engine_assets::open(&fixture("llama")).expect("a good model")))
}

pub fn ids(value: &Value) -> Vec<u32> {
    serde_json::from_value(value.clone()).unwrap_or_else(|error| panic!("{error}: {value}"))
}

#[tokio::test]
async fn tokenize_gives_what_transformers_gives_and_what_runs() {
    let server = Server::start(llama()).await;
    let goldens: Value =
        serde_json::from_str(&std::fs::read_to_string(fixture("llama/chat.json")).expect("fixture")).expect("JSON");
    for case in goldens["cases"].as_array().expect("cases") {
        let mut body = json!({"messages": case["messages"], "add_generation_prompt": case["add_generation_prompt"]});
        if let Some(tools) = case.get("tools") {
            body["tools"] = tools.clone();
        }
        let answer = server.post("/tokenize", &body).await.json();
        assert_eq!((&answer["tokens"], &answer["max_model_len"]), (&case["ids"], &json!(1024)), "{body}");
        assert_eq!(answer["count"], ids(&case["ids"]).len());
        body["max_tokens"] = json!(1);
        body["return_token_ids"] = json!(true);
        let ran = server.post(path("chat"), &body).await.json();
        assert_eq!(ran["prompt_token_ids"], case["ids"], "{body}");
        assert_eq!(ran["usage"]["prompt_tokens"], answer["count"]);
        let text = server.post("/detokenize", &json!({"tokens": case["ids"]})).await.json();
        assert_eq!(text["prompt"], case["rendered"]);
    }
    let strings = server.post("/tokenize", &json!({"prompt": "Hello", "return_token_strs": true})).await.json();
    assert_eq!(strings["token_strs"].as_array().map(Vec::len), strings["count"].as_u64().map(|count| count as usize));
    server.stop().await.expect("a clean end");
}

#[tokio::test]
async fn prompts_of_every_form_run_as_they_are() {
    let server = Server::start(llama()).await;
    let prompts: [&[u32]; 3] = [&[5, 6, 7], &[9; 40], &[11]];
    let check = async |body: Value, prompts: &[&[u32]], seed: Option<u64>| {
        let mut body = body;
        for (key, value) in
            json!({"max_tokens": 24, "ignore_eos": true, "return_token_ids": true}).as_object().expect("an object")
        {
            body[key] = value.clone();
        }
        body["temperature"] = if seed.is_some() { json!(1.0) } else { json!(0) };
        body["seed"] = json!(seed);
        let answer = server.post(path("text"), &body).await.json();
        let choices = answer["choices"].as_array().unwrap_or_else(|| panic!("{answer}"));
        assert_eq!(choices.len(), prompts.len());
        for (i, (choice, prompt)) in choices.iter().zip(prompts).enumerate() {
            assert_eq!((&choice["index"], ids(&choice["prompt_token_ids"])), (&json!(i), prompt.to_vec()), "{body}");
            assert_eq!(ids(&choice["token_ids"]), oracle(prompt, 24, seed), "{body}");
            assert_eq!((&choice["finish_reason"], &choice["stop_reason"]), (&json!("length"), &Value::Null));
        }
        let prompt_tokens: usize = prompts.iter().map(|prompt| prompt.len()).sum();
        let usage = &answer["usage"];
        let expected = (json!(prompt_tokens), json!(24 * prompts.len()), json!(prompt_tokens + 24 * prompts.len()));
        assert_eq!(
            (&usage["prompt_tokens"], &usage["completion_tokens"], &usage["total_tokens"]),
            (&expected.0, &expected.1, &expected.2)
        );
        // The same as a stream: every id once and in order, every choice ended once.
        body["stream"] = json!(true);
        let streamed = server.post(path("text"), &body).await;
        let mut seen = vec![(String::new(), Vec::new(), 0); prompts.len()];
        let events = streamed.events();
        assert_eq!(events.last().map(String::as_str), Some("[DONE]"));
        for event in &events[..events.len() - 1] {
            let chunk: Value = serde_json::from_str(event).expect("JSON");
            let choice = &chunk["choices"][0];
            let seen = &mut seen[choice["index"].as_u64().expect("an index") as usize];
            seen.0.push_str(choice["text"].as_str().expect("text"));
            seen.1.extend(ids(&choice["token_ids"]));
            seen.2 += usize::from(choice["finish_reason"] == "length");
        }
        for (seen, choice) in seen.iter().zip(choices) {
            assert_eq!((&json!(seen.0), &json!(seen.1), seen.2), (&choice["text"], &choice["token_ids"], 1), "stream = whole");
        }
    };
    check(json!({"prompt": prompts[0]}), &prompts[..1], None).await;
    check(json!({"prompt": prompts}), &prompts, None).await;
    check(json!({"prompt": prompts}), &prompts, Some(7)).await;
    let text_ids = ids(&server.post("/tokenize", &json!({"prompt": "Hello there"})).await.json()["tokens"]);
    check(json!({"prompt": "Hello there"}), &[&text_ids], None).await;
    check(json!({"prompt": ["Hello there", "Hello there"]}), &[&text_ids, &text_ids], None).await;
    server.stop().await.expect("a clean end");
}

#[tokio::test]
async fn stop_ids_end_the_text_and_say_which() {
    let server = Server::start(llama()).await;
    let prompt: &[u32] = &[5, 6, 7];
    let made = oracle(prompt, 12, None);
    let stop = made[5];
    let first = made.iter().position(|id| *id == stop).expect("it is there");
    let body = json!({
        "prompt": prompt, "max_tokens": 12, "temperature": 0, "ignore_eos": true, "stop_token_ids": [stop], "return_token_ids": true,
    });
    let choice = server.post(path("text"), &body).await.json()["choices"][0].clone();
    assert_eq!((&choice["finish_reason"], &choice["stop_reason"]), (&json!("stop"), &json!(stop)));
    assert_eq!(ids(&choice["token_ids"]), made[..=first], "the stop id is counted");
    let text = server.post("/detokenize", &json!({"tokens": made[..first]})).await.json();
    let mut without = body.clone();
    without["skip_special_tokens"] = json!(false);
    let choice = server.post(path("text"), &without).await.json()["choices"][0].clone();
    assert_eq!(choice["text"], text["prompt"], "and its text left out");
    server.stop().await.expect("a clean end");
}
