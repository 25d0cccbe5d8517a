//! The built-in model answers its twenty questions as Hugging Face transformers lets it answer (cli/builtin/answers.json).
#![forbid(unsafe_code)]

use serde_json::{Value, json};
use tests::http::{Http, until};
use tests::process::Process;
use tests::tree;

const PROGRAM: &str = env!("CARGO_BIN_EXE_trackside-under-test");

#[tokio::test]
async fn twenty_questions_have_the_committed_answers() {
    let golden: Value = serde_json::from_str(&tree::read(&tree::root().join("cli/builtin/answers.json"))).expect("JSON");
    let cases = golden["cases"].as_array().expect("cases");
    assert_eq!(cases.len(), 20);
    let mut engine =
        Process::start(PROGRAM, &["engine", "--model", "builtin", "--port", "0", "--no-kv-events", "--dtype", "float32"]);
    let address = engine.address("/address");
    let http = Http::default();
    let health = format!("http://{address}/health");
    until("a healthy engine", || async { http.get(&health).await.ok().filter(|answer| answer.status.is_success()) }).await;
    for case in cases {
        let body = json!({ "model": "builtin", "messages": [{ "role": "user", "content": case["question"] }], "temperature": 0 });
        let answer = http.post(&format!("http://{address}/v1/chat/completions"), &body).await.expect("an answer").json();
        let choice = &answer["choices"][0];
        assert_eq!(
            (&choice["message"]["content"], &choice["finish_reason"]),
            (&case["answer"], &json!("stop")),
            "{}",
            case["question"]
        );
    }
}
