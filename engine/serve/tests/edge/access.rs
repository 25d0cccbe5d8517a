//! Who may ask and by which paths: keys, pages of other origins, prefixes, methods. And how long answers take.

use engine_serve::{Config, Cors, HttpOptions};
use http::{Method, StatusCode};
use serde_json::{Value, json};

use crate::client::{self, Answer, Headers};
use crate::server::{Server, instant, path, scripted};

fn config(http: HttpOptions) -> Config {
    Config { http, ..instant(scripted()) }
}

async fn ask(server: &Server, method: Method, path: &str, headers: Headers<'_>) -> Answer {
    client::ask(server.address(), method, path, headers, "{}").await
}

#[tokio::test]
async fn a_key_opens_what_generates_and_nothing_else_needs_one() {
    let keys = vec!["first".to_owned(), "second".to_owned()];
    let server = Server::start(config(HttpOptions { api_keys: keys, ..HttpOptions::default() })).await;
    let guarded = [
        (Method::POST, "/v1/chat/completions"),
        (Method::GET, "/v1/models"),
        (Method::POST, "/inference/v1/generate"),
        (Method::POST, "/invocations"),
        (Method::GET, "/v1/nothing"),
    ];
    for (method, path) in guarded {
        for header in [None, Some("Bearer third"), Some("Bearer"), Some("Basic first"), Some("first")] {
            let headers: Vec<(&str, &str)> = header.into_iter().map(|value| ("authorization", value)).collect();
            let answer = ask(&server, method.clone(), path, &headers).await;
            assert_eq!(
                (answer.status, answer.json()),
                (StatusCode::UNAUTHORIZED, json!({"error": "Unauthorized"})),
                "{path} {header:?}"
            );
        }
        for header in ["Bearer first", "bearer second"] {
            let answer = ask(&server, method.clone(), path, &[("authorization", header)]).await;
            assert_ne!(answer.status, StatusCode::UNAUTHORIZED, "{path}");
        }
    }
    for path in ["/health", "/metrics", "/version", "/load", "/ping", "/trackside/v1/state?once"] {
        assert_eq!(ask(&server, Method::GET, path, &[]).await.status, StatusCode::OK, "{path}");
    }
    assert_ne!(ask(&server, Method::OPTIONS, "/v1/models", &[]).await.status, StatusCode::UNAUTHORIZED);
    server.stop().await.expect("a clean end");
}

#[tokio::test]
async fn pages_of_other_origins_are_answered_as_they_may_be() {
    let page = ("origin", "http://page.example");
    let preflight = [page, ("access-control-request-method", "POST"), ("access-control-request-headers", "x-a, authorization")];
    let open = Server::start(config(HttpOptions::default())).await;
    let answer = ask(&open, Method::OPTIONS, path("chat"), &preflight).await;
    assert_eq!((answer.status, &*answer.text()), (StatusCode::OK, "OK"));
    for (header, value) in [
        ("access-control-allow-origin", "*"),
        ("access-control-allow-methods", "DELETE, GET, HEAD, OPTIONS, PATCH, POST, PUT"),
        ("access-control-allow-headers", "x-a, authorization"),
        ("access-control-max-age", "600"),
    ] {
        assert_eq!(answer.header(header), Some(value), "{header}");
    }
    assert_eq!(ask(&open, Method::GET, "/v1/models", &[page]).await.header("access-control-allow-origin"), Some("*"));
    assert_eq!(ask(&open, Method::GET, "/v1/models", &[]).await.header("access-control-allow-origin"), None);
    let cookie = ask(&open, Method::GET, "/v1/models", &[page, ("cookie", "a=b")]).await;
    assert_eq!((cookie.header("access-control-allow-origin"), cookie.header("vary")), (Some(page.1), Some("Origin")));
    open.stop().await.expect("a clean end");

    let list = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect();
    let cors = Cors { origins: list(&[page.1]), methods: list(&["GET"]), headers: list(&["x-a"]), credentials: true };
    let strict = Server::start(config(HttpOptions { cors, api_keys: list(&["k"]), ..HttpOptions::default() })).await;
    let answer = ask(&strict, Method::OPTIONS, path("chat"), &preflight).await;
    assert_eq!((answer.status, &*answer.text()), (StatusCode::BAD_REQUEST, "Disallowed CORS method, headers"));
    let other = [("origin", "http://other.example"), ("access-control-request-method", "GET")];
    let answer = ask(&strict, Method::OPTIONS, "/v1/models", &other).await;
    assert_eq!((answer.header("access-control-allow-origin"), &*answer.text()), (None, "Disallowed CORS origin"));
    let asked = [page, ("access-control-request-method", "GET"), ("access-control-request-headers", "X-A")];
    let answer = ask(&strict, Method::OPTIONS, "/v1/models", &asked).await;
    assert_eq!(answer.status, StatusCode::OK);
    assert_eq!(
        answer.header("access-control-allow-headers"),
        Some("Accept, Accept-Language, Content-Language, Content-Type, x-a")
    );
    // A page can read that it needs a key.
    let answer = ask(&strict, Method::GET, "/v1/models", &[page]).await;
    assert_eq!((answer.status, answer.header("access-control-allow-origin")), (StatusCode::UNAUTHORIZED, Some(page.1)));
    assert_eq!(answer.header("access-control-allow-credentials"), Some("true"));
    strict.stop().await.expect("a clean end");
}

#[tokio::test]
async fn every_path_is_there_below_the_prefix_too() {
    let options = || HttpOptions { root_path: "/llm/a".into(), api_keys: vec!["k".into()], ..HttpOptions::default() };
    let server = Server::start(config(options())).await;
    for (path, status) in
        [("/v1/models", 200), ("/llm/a/v1/models", 200), ("/llm/a/health", 200), ("/llm/a/none", 404), ("/llm/v1/models", 404)]
    {
        let answer = ask(&server, Method::GET, path, &[("authorization", "Bearer k")]).await;
        assert_eq!(answer.status.as_u16(), status, "{path}: {}", answer.text());
        assert!(status == 200 || answer.json()["error"]["code"] == 404, "{}", answer.text());
    }
    assert_eq!(ask(&server, Method::GET, "/llm/a/v1/models", &[]).await.status, StatusCode::UNAUTHORIZED);
    let metrics = server.get("/metrics").await.text();
    assert!(metrics.contains("http_requests_total{handler=\"/v1/models\",method=\"GET\",status=\"2xx\"} 2"), "{metrics}");
    server.stop().await.expect("a clean end");
    for root_path in ["llm", "/", "/llm/", "/a b", "/{a}"] {
        let wrong = config(HttpOptions { root_path: root_path.into(), ..options() });
        assert_eq!(engine_serve::bind(wrong).await.err().map(|fault| fault.kind), Some(domain::FaultKind::Usage), "{root_path}");
    }
}

#[tokio::test]
async fn methods_are_those_of_the_table() {
    let server = Server::start(instant(scripted())).await;
    for path in ["/health", "/v1/models", "/version", "/metrics"] {
        let answer = ask(&server, Method::HEAD, path, &[]).await;
        assert_eq!((answer.status, answer.body.len()), (StatusCode::OK, 0), "{path}");
    }
    for (method, path) in
        [(Method::GET, "/v1/chat/completions"), (Method::DELETE, "/v1/models"), (Method::OPTIONS, "/v1/completions")]
    {
        let answer = ask(&server, method, path, &[]).await;
        let error = &answer.json()["error"];
        assert_eq!(
            (answer.status.as_u16(), &error["type"], &error["code"]),
            (405, &json!("BadRequestError"), &json!(405)),
            "{path}"
        );
    }
    server.stop().await.expect("a clean end");
}

/// A stream's time ends with its last byte.
#[tokio::test]
async fn answers_are_timed_to_their_last_byte_and_supervisors_questions_are_not() {
    let server = Server::start(instant(scripted())).await;
    let body = json!({"prompt": "a", "max_tokens": 50, "ignore_eos": true, "stream": true});
    let mut open = server.open(path("text"), &[], &body).await;
    open.event().await.expect("it runs");
    while open.event().await.is_some() {}
    let count = |handler: &str| format!("http_request_duration_seconds_count{{handler=\"{handler}\",method=\"POST\"}} 1");
    server.metrics_with(&count("/v1/completions")).await;
    let text = server.get("/metrics").await.text();
    assert!(text.contains("http_request_duration_highr_seconds_count 1"), "{text}");
    assert!(text.contains("http_request_duration_highr_seconds_bucket{le=\"0.075\"}"), "{text}");
    assert!(!text.contains("handler=\"/metrics\"") && !text.contains("handler=\"/health\""), "{text}");
    let whole = server.post(path("text"), &json!({"prompt": "a", "max_tokens": 1})).await;
    assert_eq!(whole.header("content-length"), Some(&*whole.body.len().to_string()), "its length is known before it is sent");
    let _: Value = whole.json();
    server.stop().await.expect("a clean end");
}
