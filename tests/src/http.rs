//! HTTP for tests: one pooled client, JSON in and out, server-sent events as a list.

use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{HeaderMap, Request, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper_util::client::legacy::{Client, connect::HttpConnector};
use hyper_util::rt::TokioExecutor;
use serde_json::Value;

use crate::process::PATIENCE;

/// A client whose connections are reused.
#[derive(Clone)]
pub struct Http {
    client: Client<HttpConnector, Full<Bytes>>,
}

/// A whole answer.
#[derive(Debug)]
pub struct Answer {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: Bytes,
    /// From the request's start to the first byte of the body, and to its end.
    pub first_byte: Duration,
    pub total: Duration,
}

impl Answer {
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {}", self.text()))
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The `data:` of each server-sent event.
    pub fn events(&self) -> Vec<String> {
        self.text().split("\n\n").filter_map(|event| event.strip_prefix("data: ")).map(str::to_owned).collect()
    }

    /// Text of the answer, streamed or not, chat or completion.
    pub fn content(&self) -> String {
        let piece = |value: &Value| {
            let choice = &value["choices"][0];
            let text = [&choice["delta"]["content"], &choice["message"]["content"], &choice["text"]];
            text.iter().find_map(|text| text.as_str()).unwrap_or_default().to_owned()
        };
        match self.headers.get("content-type").and_then(|kind| kind.to_str().ok()) {
            Some(kind) if kind.starts_with("text/event-stream") => {
                let events = self.events();
                let events = events.iter().filter(|event| *event != "[DONE]");
                events.map(|event| piece(&serde_json::from_str(event).expect("an event of JSON"))).collect()
            }
            _ => piece(&self.json()),
        }
    }
}

impl Default for Http {
    fn default() -> Self {
        let mut connector = HttpConnector::new();
        connector.set_nodelay(true);
        Self { client: Client::builder(TokioExecutor::new()).build(connector) }
    }
}

impl Http {
    pub async fn get(&self, url: &str) -> Result<Answer, String> {
        self.send(Request::get(url).body(Full::default()).map_err(|error| error.to_string())?).await
    }

    pub async fn post(&self, url: &str, body: &Value) -> Result<Answer, String> {
        let request = Request::post(url).header("content-type", "application/json");
        self.send(request.body(Full::from(body.to_string())).map_err(|error| error.to_string())?).await
    }

    pub async fn send(&self, request: Request<Full<Bytes>>) -> Result<Answer, String> {
        let begun = Instant::now();
        let whole = async {
            let answer = self.client.request(request).await.map_err(|error| format!("{error:?}"))?;
            let (head, mut body) = answer.into_parts();
            let mut bytes = Vec::new();
            let mut first_byte = None;
            while let Some(frame) = body.frame().await {
                let frame = frame.map_err(|error| format!("{error:?}"))?;
                first_byte.get_or_insert_with(|| begun.elapsed());
                if let Ok(data) = frame.into_data() {
                    bytes.extend_from_slice(&data);
                }
            }
            let (first_byte, total) = (first_byte.unwrap_or_else(|| begun.elapsed()), begun.elapsed());
            Ok(Answer { status: head.status, headers: head.headers, body: bytes.into(), first_byte, total })
        };
        tokio::time::timeout(PATIENCE, whole).await.map_err(|_| "no answer within the test's patience".to_owned())?
    }
}

/// Asks again and again until `wanted` holds, for as long as the test has patience.
pub async fn until<F: Future<Output = Option<T>>, T>(what: &str, mut wanted: impl FnMut() -> F) -> T {
    let begun = Instant::now();
    loop {
        if let Some(found) = wanted().await {
            return found;
        }
        assert!(begun.elapsed() < PATIENCE, "never came: {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}
