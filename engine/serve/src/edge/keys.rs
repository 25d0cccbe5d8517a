//! `--api-key`: who may ask. Paths and answer are those of vLLM 0.33 (`entrypoints/serve/middleware/authenticate.py`), and
//! `/invocations`, which leads to guarded ones: what only tells how the server is stays open to supervisors.

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::Response;
use http::header::AUTHORIZATION;
use http::{Method, StatusCode};
use serde_json::json as value;
use sha2::{Digest, Sha256};

use super::answer::json;

const GUARDED: [&str; 5] = ["/v1", "/v2", "/inference", "/cohere", "/invocations"];

/// SHA-256 of each key.
#[derive(Clone, Default)]
pub struct Keys(Arc<[[u8; 32]]>);

impl Keys {
    pub fn new(keys: &[String]) -> Self {
        Self(keys.iter().filter(|key| !key.is_empty()).map(|key| Sha256::digest(key).into()).collect())
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Takes equally long whatever the key is.
    fn know(&self, key: &str) -> bool {
        let digest: [u8; 32] = Sha256::digest(key).into();
        let differs = |known: &[u8; 32]| known.iter().zip(digest).fold(0, |differs, (a, b)| differs | (a ^ b));
        self.0.iter().fold(false, |found, known| found | (differs(known) == 0))
    }
}

pub async fn guard(State(keys): State<Keys>, request: Request, next: Next) -> Response {
    let guarded = GUARDED.iter().any(|prefix| request.uri().path().starts_with(prefix)) && request.method() != Method::OPTIONS;
    let key = request.headers().get(AUTHORIZATION).and_then(|value| value.to_str().ok()?.split_once(' '));
    let known = key.is_some_and(|(scheme, key)| scheme.eq_ignore_ascii_case("bearer") && keys.know(key));
    match guarded && !known {
        true => json(StatusCode::UNAUTHORIZED, &value!({ "error": "Unauthorized" })),
        false => next.run(request).await,
    }
}
