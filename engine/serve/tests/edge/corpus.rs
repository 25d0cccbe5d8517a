//! Hostile bodies: the fuzzer's seeds and finds (`tests/fuzz/fuzz_targets/request.rs`), and every seed cut short at every seventh byte.

use std::fs;
use std::path::Path;

use bytes::Bytes;
use http::Method;

use crate::client;
use crate::server::{Server, instant, scripted};

/// As in the fuzz target: a seed's first byte says which.
const PATHS: [&str; 10] = [
    "/v1/chat/completions",
    "/v1/completions",
    "/v1/responses",
    "/v1/messages",
    "/v1/messages/count_tokens",
    "/inference/v1/generate",
    "/tokenize",
    "/detokenize",
    "/v1/chat/completions/render",
    "/v1/completions/render",
];

#[tokio::test]
async fn no_body_is_the_engines_fault() {
    let server = Server::start(instant(scripted())).await;
    let check = async |name: &str, path: &str, body: &[u8]| {
        let answer = client::ask(server.address(), Method::POST, path, &[], Bytes::copy_from_slice(body)).await;
        let status = answer.status.as_u16();
        assert!(status < 500 || status == 501 || status == 503, "{name}: {path}: {status} {}", answer.text());
        status
    };
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fuzz/corpus/request");
    let mut good = 0;
    for entry in fs::read_dir(folder).expect("the corpus") {
        let path = entry.expect("an entry").path();
        let name = path.file_name().expect("a name").to_string_lossy().into_owned();
        let seed = fs::read(&path).expect("a seed");
        let (endpoint, body) = seed.split_first().expect("a seed says its endpoint");
        let endpoint = PATHS[usize::from(*endpoint) % PATHS.len()];
        good += usize::from(check(&name, endpoint, body).await == 200);
        for cut in (0..body.len()).step_by(7) {
            assert_eq!(check(&name, endpoint, &body[..cut]).await, 400, "{name} cut at {cut}");
        }
    }
    assert!(good >= 15, "only {good} of the seeds are good requests");
    server.stop().await.expect("a clean end");
}
