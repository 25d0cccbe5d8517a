//! Reading of every form that clients send, and the words of every refusal.

use serde_json::json;

use super::*;

fn text(prompts: &[&str]) -> Result<Prompt, ()> {
    Ok(Prompt::Text(prompts.iter().map(|text| text.to_string()).collect()))
}

#[test]
fn a_prompt_has_four_forms() {
    let check = |value: Value, expected: Result<Prompt, ()>| {
        let body = json!({ "prompt": value }).to_string();
        let seen = read::<Request>(body.as_bytes()).map_err(|error| assert_eq!(error.error.param.as_deref(), Some("prompt")));
        assert_eq!(seen.map(|request| request.prompt.expect("a prompt was given")), expected, "{body}");
    };
    check(json!("a"), text(&["a"]));
    check(json!(["a", "b"]), text(&["a", "b"]));
    check(json!([1, 2]), Ok(Prompt::Ids(vec![vec![1, 2]])));
    check(json!([[1, 2], []]), Ok(Prompt::Ids(vec![vec![1, 2], vec![]])));
    for refused in
        [json!([]), json!([1, "a"]), json!([["a"]]), json!([[[1]]]), json!([-1]), json!([1.5]), json!([4294967296u64]), json!({})]
    {
        check(refused, Err(()));
    }
}

#[test]
fn null_is_absent_and_unknown_keys_are_passed_over() {
    let body = br#"{"model":null,"stop":null,"prompt":null,"stream":null,"stream_options":null,"n":null,"guided_json":{"a":1},"user":7}"#;
    assert_eq!(read::<Request>(body), Ok(Request::default()));
    let body = b"\xef\xbb\xbf{\"stop\":\"x\"}";
    assert_eq!(read::<Request>(body), Ok(Request { stop: Some(Stop(vec!["x".into()])), ..Request::default() }));
}

#[test]
fn a_refusal_names_the_parameter() {
    let check = |body: &str, message: &str, param: Option<&str>| {
        let error = read::<Request>(body.as_bytes()).expect_err(body).error;
        assert_eq!((&*error.message, error.param.as_deref(), error.code), (message, param, 400), "{body}");
        assert_eq!(error.kind, "BadRequestError");
    };
    check("[]", "The body is not a JSON object.", None);
    check("{\"a\":", "The body is not valid JSON: EOF while parsing a value at line 1 column 5.", None);
    check(
        r#"{"model":"m","max_tokens":"many"}"#,
        "`max_tokens`: invalid type: string \"many\", expected i64.",
        Some("max_tokens"),
    );
    check(r#"{"stop":[1]}"#, "`stop`: invalid type: integer `1`, expected a string.", Some("stop"));
    check(r#"{"prompt":[-1]}"#, "`prompt`: -1 is not a token id.", Some("prompt"));
    check(r#"{"model":"a","model":"b"}"#, "The body cannot be read: duplicate field `model` at line 1 column 20.", None);
}

#[test]
fn error_types_are_those_of_vllm() {
    let check = |code, expected| assert_eq!(error_type(code), expected, "{code}");
    check(400, "BadRequestError");
    check(404, "NotFoundError");
    check(413, "BadRequestError");
    check(422, "UnprocessableEntityError");
    check(500, "InternalServerError");
    check(501, "NotImplementedError");
    check(503, "ServiceUnavailableError");
}

#[test]
fn chunks_carry_only_what_changes() {
    let choice = ChatChunkChoice {
        index: 0,
        delta: Delta { content: Some("a\"b"), ..Delta::default() },
        logprobs: None,
        finish_reason: None,
        stop_reason: None,
        token_ids: None,
    };
    let chunk = ChatChunk {
        id: "chatcmpl-1",
        object: CHAT_COMPLETION_CHUNK,
        created: 7,
        model: "m",
        choices: &[choice],
        usage: None,
        system_fingerprint: None,
        prompt_token_ids: None,
        prompt_text: None,
        metrics: None,
        kv_transfer_params: None,
    };
    let seen = serde_json::to_string(&chunk).expect("plain data");
    let expected = r#"{"id":"chatcmpl-1","object":"chat.completion.chunk","created":7,"model":"m","choices":[{"index":0,"delta":{"content":"a\"b"},"logprobs":null,"finish_reason":null}]}"#;
    assert_eq!(seen, expected);
}
