//! What a request may ask of the choice of tokens, over the scripted model: "7" is followed by 8, 9, 0 … for ever, "?" by the end.

use serde_json::{Value, json};

use crate::server::{Server, cpu, path, scripted};

#[tokio::test]
async fn what_is_asked_of_the_choice_is_what_is_chosen() {
    let server = Server::start(cpu(scripted())).await;
    let ids = async |body: Value| -> (Vec<u32>, Value) {
        let mut body = body;
        body["return_token_ids"] = json!(true);
        body["temperature"] = body.get("temperature").cloned().unwrap_or(json!(0));
        let answer = server.post(path("text"), &body).await.json();
        let choice = &answer["choices"][0];
        (serde_json::from_value(choice["token_ids"].clone()).unwrap_or_else(|_| panic!("{body}: {answer}")), choice.clone())
    };
    let (allowed, _) = ids(json!({"prompt": "7", "max_tokens": 3, "allowed_token_ids": [66, 65]})).await;
    assert_eq!(allowed, [65, 65, 65], "of equal ones the first");
    let (biased, _) = ids(json!({"prompt": "?", "max_tokens": 1, "logit_bias": {"257": -100, "88": 100}})).await;
    assert_eq!(biased, [88], "178.9 - 100 is less than 0 + 100");
    let (without, choice) = ids(json!({"prompt": "7", "max_tokens": 3, "bad_words": ["89"], "ignore_eos": true})).await;
    assert!(without[0] == 56 && without[1] != 57, "a word of two tokens is cut at its second: {choice}");
    let (longer, choice) = ids(json!({"prompt": "?", "max_tokens": 5, "min_tokens": 2})).await;
    assert!(longer.len() >= 2 && choice["finish_reason"] == "stop", "{choice}");
    // A stop string may not end within the fewest tokens, and ends the text behind them.
    let (_, choice) = ids(json!({"prompt": "7", "max_tokens": 30, "min_tokens": 3, "stop": ["8"]})).await;
    assert_eq!((&choice["text"], &choice["stop_reason"]), (&json!("8901234567"), &json!("8")));
    let (_, choice) = ids(json!({"prompt": "7", "max_tokens": 30, "min_tokens": 3, "stop": ["01"]})).await;
    assert_eq!(choice["text"], "89", "what begins within them may end behind them");
    // 178.9 / 20 is what is left after one division, which others pass by being biased.
    let (penalised, _) =
        ids(json!({"prompt": "8", "max_tokens": 11, "repetition_penalty": 100.0, "logit_bias": {"90": 50}})).await;
    assert_eq!(penalised[..9], [57, 48, 49, 50, 51, 52, 53, 54, 55], "each once");
    assert_eq!(penalised[9], 90, "8 stands in the prompt");
    let min_p = json!({"prompt": "7", "max_tokens": 8, "min_p": 0.5, "temperature": 2.0, "seed": 1, "ignore_eos": true});
    assert_eq!(ids(min_p).await.0, [56, 57, 48, 49, 50, 51, 52, 53]);
    server.stop().await.expect("a clean end");
}
