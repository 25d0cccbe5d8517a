//! A chat template of any text, sent by a client: a prompt or an error of the client's.
#![no_main]

use std::path::Path;
use std::sync::LazyLock;
use std::time::SystemTime;

use engine_text::{ChatRequest, Text};
use libfuzzer_sys::fuzz_target;
use serde_json::{Value, json};

static TEXT: LazyLock<Text> = LazyLock::new(|| {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fixtures/models/llama");
    Text::new(&engine_assets::open(&path).expect("the tiny model").text).expect("its tokenizer")
});

static MESSAGES: LazyLock<Vec<Value>> = LazyLock::new(|| {
    vec![
        json!({"role": "system", "content": "Be brief."}),
        json!({"role": "user", "content": [{"type": "text", "text": "Hello"}]}),
        json!({"role": "assistant", "content": null, "tool_calls": [{"id": "c1", "type": "function", "function": {"name": "now", "arguments": "{\"zone\": 1.5}"}}]}),
        json!({"role": "tool", "tool_call_id": "c1", "content": "12:00"}),
    ]
});

fuzz_target!(|template: &str| {
    let request = ChatRequest { template: Some(template), ..ChatRequest::new(&MESSAGES, SystemTime::UNIX_EPOCH) };
    if let Err(error) = TEXT.render_chat(&request) {
        assert!(error.is_client_error(), "{error}");
        assert!(!error.to_string().contains('\n'));
    }
});
