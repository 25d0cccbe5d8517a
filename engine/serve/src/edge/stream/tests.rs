//! Streams that end badly, or later than they seem to (case A8): outputs are fed by hand, as the engine's thread would.

use std::sync::Arc;
use std::time::{Duration, Instant};

use engine::backend::Capacity;
use engine::backend::fake::{Fake, RealTime, Speed};
use engine::request::{FinishReason, Finished, Output};
use engine_assets::Generation as Defaults;
use engine_text::Text;
use engine_text::reply::ReplyFormat;
use http_body_util::BodyExt;
use serde_json::{Value, json};
use tokio::sync::mpsc;

use super::*;
use crate::config::AnswerOptions;
use crate::edge::app::Ready;
use crate::edge::choice::{Choice, Running};
use crate::edge::completion::CompletionEvents;
use crate::edge::generate::Head;
use crate::edge::plan::{Endpoint, ModelFacts, Plan};
use crate::edge::prompt::Prompt;
use crate::in_flight::{Changed, Ledger};
use crate::metrics::{Labels, Metrics};
use proto::openai::DONE;

const SCRIPTED: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/fixtures/models/scripted/model.gguf");

/// An engine that never steps: what it would say, the test says.
fn idle_engine() -> (engine::step::Engine, Ready) {
    let capacity = Capacity {
        vocabulary: 320,
        context_length: 64,
        block_tokens: 16,
        kv_blocks: 16,
        slots: 4,
        batch_tokens: 64,
        logit_rows: 12,
    };
    let speed = Speed { step: Duration::ZERO, ..Speed::INSTANT };
    let backend = Box::new(Fake::new(capacity, speed, Box::new(RealTime)));
    let limits = engine::config::Config::for_device(&capacity);
    let ports = engine::step::Ports::new(Instant::now);
    let (engine, handle) = engine::step::Engine::new(backend, limits, ports).expect("limits of the device");
    let assets = engine_assets::open(std::path::Path::new(SCRIPTED)).expect("a good model");
    let text = Text::new(&assets.text).expect("a good tokenizer");
    let guides = crate::guide::Guides::start(text.clone(), capacity.vocabulary, Vec::new());
    (engine, Ready { handle, text, guides })
}

fn finished(reason: FinishReason) -> Output {
    let kv_transfer = Some("{\"remote_port\":7}".into());
    Output::Finished(Finished { reason, prompt_tokens: 1, cached_tokens: 0, generated_tokens: 1, preemptions: 0, kv_transfer })
}

/// The events of a streamed completion whose engine says `outputs` and then, without more, is gone.
async fn events(parameters: Value, outputs: Vec<Output>) -> Vec<String> {
    let (_engine, ready) = idle_engine();
    let mut body = parameters;
    (body["prompt"], body["stream"]) = (json!("a"), json!(true));
    let request = proto::openai::read(body.to_string().as_bytes()).expect("a good body");
    let answers = AnswerOptions::default();
    let facts = ModelFacts {
        text: &ready.text,
        generation: &Defaults::default(),
        vocabulary: 320,
        stop_ids_max: 4,
        length_max: 64,
        answers,
        reply: ReplyFormat::default(),
    };
    let plan = Arc::new(Plan::new(Endpoint::Completion, &request, &facts).expect("a good request"));
    let (sender, receiver) = mpsc::unbounded_channel();
    outputs.into_iter().for_each(|output| sender.send((0, output)).expect("it is open"));
    drop(sender);
    let in_flight = Ledger::new(Changed::default()).open(None, 1);
    let running = Running::new(ready.handle.clone(), engine::request::RequestId(0), None);
    let detokenizer = ready.text.detokenizer(&[97], true);
    let prompt = Prompt { ids: Arc::from([97]), text: None };
    let mut choice = Choice::new(in_flight, Arc::clone(&plan), detokenizer, prompt, Instant::now());
    choice.runs(running);
    let metrics = Metrics::new(&Labels {
        model_name: "m",
        engine: 0,
        max_model_len: 64,
        drafts_max: 0,
        adapters_max: 1,
        residency: false,
        developer: false,
    });
    let generation = Generation::fed(receiver, choice, Arc::clone(&plan), ready.handle.clone(), Arc::new(metrics));
    let head = Head {
        id: "cmpl-1".into(),
        created: 0,
        model: "m".into(),
        fingerprint: "f".into(),
        text: ready.text.clone(),
        role: String::new(),
        spoken: String::new(),
    };
    let answered = answer(generation, CompletionEvents::new(head, plan)).await.expect("no error before the first token");
    let body = answered.into_body().collect().await.expect("a body").to_bytes();
    let text = String::from_utf8(body.to_vec()).expect("text");
    text.trim_end().split("\n\n").map(|event| event.strip_prefix("data: ").expect("an event of data").to_owned()).collect()
}

fn token(byte: u8) -> Output {
    Output::Token { token: byte.into(), logprobs: None }
}

#[tokio::test]
async fn an_error_after_the_first_token_is_an_event_and_then_done() {
    let check = async |outputs: Vec<Output>, message: &str| {
        let seen = events(json!({}), outputs).await;
        let [text, error, done] = &seen[..] else { panic!("{seen:?}") };
        assert!(text.contains("\"text\":\"x\"") && done == DONE, "{seen:?}");
        let error: Value = serde_json::from_str(error).expect("JSON");
        let expected = json!({"error": {"message": message, "type": "InternalServerError", "param": null, "code": 500}});
        assert_eq!(error, expected);
    };
    let error = FinishReason::Error("the logits are no numbers".into());
    check(vec![token(b'x'), finished(error)], "the logits are no numbers").await;
    check(vec![token(b'x')], "The engine ended before the answer did.").await;
}

#[tokio::test]
async fn what_the_engine_says_of_a_transfer_comes_with_the_last_chunk() {
    let stop = json!({"stop": "y", "kv_transfer_params": {"do_remote_decode": true}});
    for (outputs, reason) in [
        (vec![token(b'x'), finished(FinishReason::Length)], "length"),
        // Behind a stop string tokens may still be under way; the transfer is told when the engine is done.
        (vec![token(b'x'), token(b'y'), token(b'z'), finished(FinishReason::Stop)], "stop"),
    ] {
        let seen = events(stop.clone(), outputs).await;
        let last: Value = serde_json::from_str(&seen[seen.len() - 2]).expect("JSON");
        assert_eq!(
            (&last["choices"][0]["finish_reason"], &last["kv_transfer_params"]),
            (&json!(reason), &json!({"remote_port": 7}))
        );
        let text: String = seen[..seen.len() - 1]
            .iter()
            .map(|event| {
                serde_json::from_str::<Value>(event).expect("JSON")["choices"][0]["text"].as_str().expect("text").to_owned()
            })
            .collect();
        assert_eq!((text.as_str(), seen.last().map(String::as_str)), ("x", Some(DONE)));
    }
}
