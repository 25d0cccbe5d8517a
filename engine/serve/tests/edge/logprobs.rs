//! Log probabilities in every form, over the scripted model: the token that follows has a logit of 10·√320 ≈ 178.9, all others 0. So
//! the first has a log probability of 0 and the others of -178.9.

use serde_json::{Value, json};

use crate::server::{Server, cpu, path, scripted};

/// Numbers with one decimal, so that they can be compared with what is computed by hand.
fn rounded(value: &Value) -> Value {
    match value {
        Value::Number(number) if number.is_f64() => json!((number.as_f64().unwrap_or_default() * 10.0).round() / 10.0 + 0.0),
        Value::Array(list) => list.iter().map(rounded).collect(),
        Value::Object(map) => map.iter().map(|(key, value)| (key.clone(), rounded(value))).collect(),
        other => other.clone(),
    }
}

const OTHER: f64 = -178.9;

#[tokio::test]
async fn every_form_is_that_of_the_contract() {
    let server = Server::start(cpu(scripted())).await;
    let check = async |endpoint: &str, body: Value, pointer: &str, expected: Value| {
        let mut body = body;
        body["temperature"] = json!(0);
        let answer = server.post(path(endpoint), &body).await.json();
        let seen = answer.pointer(pointer).unwrap_or_else(|| panic!("{pointer} in {answer}"));
        assert_eq!(rounded(seen), expected, "{body}");
    };
    let user = json!([{"role": "user", "content": "7"}]);
    let top = |token: &str, logprob: f64, bytes: Value| json!({"token": token, "logprob": logprob, "bytes": bytes});
    let chat = |top: Value| json!({"content": [{"token": "8", "logprob": 0.0, "bytes": [56], "top_logprobs": top}]});
    let logprobs = "/choices/0/logprobs";
    let body = json!({"messages": user, "max_tokens": 1, "logprobs": true});
    check("chat", body.clone(), logprobs, chat(json!([]))).await;
    let mut two = body.clone();
    two["top_logprobs"] = json!(2);
    check("chat", two, logprobs, chat(json!([top("8", 0.0, json!([56])), top("\0", OTHER, json!([0]))]))).await;
    let mut named = body.clone();
    named["logprob_token_ids"] = json!([65]);
    check("chat", named.clone(), logprobs, chat(json!([top("8", 0.0, json!([56])), top("A", OTHER, json!([65]))]))).await;
    named["return_tokens_as_token_ids"] = json!(true);
    check("chat", named, "/choices/0/logprobs/content/0/token", json!("token_id:56")).await;
    check("chat", json!({"messages": user, "max_tokens": 1}), logprobs, Value::Null).await;
    // Completions: the token itself beside so many of the most likely; offsets in characters.
    let text = json!({"prompt": "7", "max_tokens": 2, "logprobs": 1});
    let expected = json!({
        "text_offset": [0, 1], "token_logprobs": [0.0, 0.0], "tokens": ["8", "9"],
        "top_logprobs": [{"8": 0.0}, {"9": 0.0}],
    });
    check("text", text.clone(), logprobs, expected).await;
    let mut echo = json!({"prompt": "78", "max_tokens": 1, "logprobs": 2, "echo": true});
    let expected = json!({
        "text_offset": [0, 1, 2], "token_logprobs": [null, 0.0, 0.0], "tokens": ["7", "8", "9"],
        "top_logprobs": [null, {"8": 0.0, "\0": OTHER}, {"9": 0.0, "\0": OTHER}],
    });
    check("text", echo.clone(), logprobs, expected.clone()).await;
    // As a stream: the first chunk has the prompt's.
    (echo["stream"], echo["temperature"]) = (json!(true), json!(0));
    let events = server.post(path("text"), &echo).await.events();
    let first: Value = serde_json::from_str(&events[0]).expect("JSON");
    assert_eq!(rounded(&first["choices"][0]["logprobs"]), expected);
    let told = json!({"56": {"logprob": 0.0, "rank": 1, "decoded_token": "8"}});
    check(
        "text",
        json!({"prompt": "78", "max_tokens": 1, "prompt_logprobs": 0}),
        "/choices/0/prompt_logprobs",
        json!([null, told]),
    )
    .await;
    let unlikely = json!({
        "65": {"logprob": OTHER, "rank": 319, "decoded_token": "A"}, "56": {"logprob": 0.0, "rank": 1, "decoded_token": "8"},
    });
    let body = json!({"prompt": "7A", "max_tokens": 1, "prompt_logprobs": 1});
    let answer = server.post(path("text"), &body).await.json();
    let seen = rounded(&answer["choices"][0]["prompt_logprobs"][1]);
    assert_eq!((&seen["56"], &seen["65"]["logprob"]), (&unlikely["56"], &unlikely["65"]["logprob"]), "{seen}");
    let several = json!({"prompt": "78", "max_tokens": 1, "prompt_logprobs": 0, "n": 2, "temperature": 1});
    let answer = server.post(path("text"), &several).await.json();
    for index in [0, 1] {
        assert_eq!(
            rounded(&answer["choices"][index]["prompt_logprobs"]),
            json!([null, told]),
            "every choice tells of its prompt"
        );
    }
    let chat = json!({"messages": user, "max_tokens": 1, "prompt_logprobs": 0});
    let answer = server.post(path("chat"), &chat).await.json();
    assert_eq!(answer["prompt_logprobs"].as_array().map(Vec::len), answer["usage"]["prompt_tokens"].as_u64().map(|n| n as usize));
    server.stop().await.expect("a clean end");
}
