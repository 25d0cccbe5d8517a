//! Parameters and their refusals as data.

use serde_json::{Value, json};

use super::*;

fn plan(endpoint: Endpoint, body: Value) -> Result<Plan, ApiError> {
    let generation = Generation { eos: vec![2], temperature: Some(0.6), top_p: Some(0.9), ..Generation::default() };
    let answers = AnswerOptions::default();
    let scripted = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/fixtures/models/scripted/model.gguf");
    let assets = engine_assets::open(std::path::Path::new(scripted)).expect("a good model");
    let text = &Text::new(&assets.text).expect("a good tokenizer");
    let reply = ReplyFormat::of(&assets.text);
    let model = ModelFacts { text, generation: &generation, vocabulary: 320, stop_ids_max: 4, length_max: 512, answers, reply };
    let mut request: Request = proto::openai::read(body.to_string().as_bytes())?;
    match endpoint {
        Endpoint::Chat => request.messages = request.messages.or(Some(vec![json!({"role": "user", "content": "a"})])),
        Endpoint::Completion => request.prompt = request.prompt.or(Some(proto::openai::Prompt::Text(vec!["a".into()]))),
    }
    Plan::new(endpoint, &request, &model)
}

#[test]
fn defaults_are_the_models_then_openais() {
    let chat = plan(Endpoint::Chat, json!({"seed": -1})).expect("nothing wrong");
    assert_eq!(chat.sampling, Sampling { temperature: 0.6, top_k: 0, top_p: 0.9, min_p: 0.0, seed: u64::MAX });
    assert_eq!(chat.finish(100, 512), FinishRules { tokens_max: 412, eos: vec![2], stop: vec![], repetition: None });
    let completion = plan(Endpoint::Completion, json!({"ignore_eos": true, "stop_token_ids": [7]})).expect("nothing wrong");
    assert_eq!(completion.finish(100, 512), FinishRules { tokens_max: 16, eos: vec![], stop: vec![7], repetition: None });
    assert_eq!(completion.finish(500, 512).tokens_max, 12, "the context is the limit");
    let both = plan(Endpoint::Chat, json!({"max_tokens": 3, "max_completion_tokens": 5})).expect("nothing wrong");
    assert_eq!(both.tokens_max, Some(5));
    let unseeded = plan(Endpoint::Chat, json!({})).expect("nothing wrong");
    assert!(both.seeded != chat.seeded && !unseeded.seeded);
}

#[test]
fn every_refusal_names_its_parameter() {
    let check = |body: Value, param: &str| {
        let error = plan(Endpoint::Completion, body.clone()).expect_err(&body.to_string()).body.error;
        assert_eq!((error.param.as_deref(), error.code, &*error.kind), (Some(param), 400, "BadRequestError"), "{body}");
        assert!(error.message.contains(param), "{}", error.message);
    };
    for (param, values) in [
        ("temperature", vec![json!(-0.1), json!(2.1), json!(1e300)]),
        ("top_p", vec![json!(0), json!(1.01)]),
        ("top_k", vec![json!(-2)]),
        ("max_tokens", vec![json!(0), json!(-1), json!("4")]),
        ("stop", vec![json!(""), json!(["a", ""]), json!("x".repeat(1025)), json!(vec!["a"; 65])]),
        ("stop_token_ids", vec![json!([-1]), json!([320]), json!([151645]), json!([1, 2, 3, 4, 5])]),
        ("cache_salt", vec![json!(""), json!("a/b"), json!("a@b"), json!("a\\b"), json!("a\0b"), json!("x".repeat(129))]),
        ("stream_options", vec![json!({"include_usage": true})]),
        ("prompt", vec![json!([]), json!(vec!["a"; 1025])]),
        ("n", vec![json!(4097), json!(0), json!(-1)]),
        ("truncate_prompt_tokens", vec![json!(-2), json!(0), json!(513), json!(i64::MAX)]),
        ("truncation_side", vec![json!("middle")]),
        ("stream_interval", vec![json!(0)]),
        ("logprobs", vec![json!(21), json!(-2), json!(true), json!("5"), json!(-1)]),
        ("logprob_token_ids", vec![json!([1]), json!([320]), json!([-1])]),
        ("logit_bias", vec![json!({"99999": 5}), json!({"AI": -100}), json!({"-1": 1}), json!({"5": "much"}), json!([5])]),
        ("allowed_token_ids", vec![json!([]), json!([320]), json!([-1])]),
        ("bad_words", vec![json!([""]), json!(["  "]), json!(vec!["a"; 513]), json!("a")]),
        ("min_tokens", vec![json!(-1), json!(17179869184i64)]),
        ("min_p", vec![json!(-0.1), json!(1.1)]),
        ("frequency_penalty", vec![json!(2.1), json!(-2.1)]),
        ("presence_penalty", vec![json!(2.1), json!(-2.1)]),
        ("repetition_penalty", vec![json!(0), json!(-1), json!(1e300)]),
        ("use_beam_search", vec![json!(true)]),
        ("best_of", vec![json!(2)]),
        ("suffix", vec![json!("end")]),
        ("prompt_embeds", vec![json!("AAAA")]),
        ("mm_processor_kwargs", vec![json!({"a": 1})]),
        ("prompt_logprobs", vec![json!(21), json!(-2), json!("1")]),
    ] {
        for value in values {
            check(json!({ param: value }), param);
        }
    }
}

#[test]
fn bad_words_are_said_with_and_without_a_space() {
    let plan = plan(Endpoint::Chat, json!({"bad_words": ["ab"], "logit_bias": {"7": 200, "3": -1}, "min_tokens": 2}));
    let extras = plan.expect("nothing wrong").extras.expect("something is asked");
    // Bytes are tokens: behind a space, a word has one more, and is no other word.
    assert_eq!(extras.bad_words, [vec![97, 98]]);
    assert_eq!((&extras.logit_bias[..], extras.min_tokens), (&[(3, -1.0), (7, 100.0)][..], 2));
}

#[test]
fn values_that_change_nothing_pass() {
    let neutral = json!({
        "n": 1, "echo": false, "logprobs": false, "top_logprobs": 0, "frequency_penalty": 0, "presence_penalty": 0.0,
        "repetition_penalty": 1, "min_p": 0, "min_tokens": 0, "logit_bias": {}, "bad_words": [], "best_of": 1, "suffix": "",
        "response_format": {"type": "text"}, "tool_choice": "auto", "priority": 0, "stop": [], "stop_token_ids": [],
        "top_k": -1, "cache_salt": "tenant-7", "use_beam_search": false,
    });
    for endpoint in [Endpoint::Chat, Endpoint::Completion] {
        assert!(plan(endpoint, neutral.clone()).is_ok());
    }
}
