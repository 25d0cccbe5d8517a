//! A small HTTP client: whole answers, and streams event by event that can be dropped midway.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Method, Request, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::net::TcpStream;

/// Everything must happen within this time; it bounds a hanging test and measures nothing.
pub const PATIENCE: Duration = Duration::from_secs(60);

pub struct Answer {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: Bytes,
}

impl Answer {
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {}", self.text()))
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(|value| value.to_str().expect("visible ASCII"))
    }

    /// `data:` payloads of an event stream.
    pub fn events(&self) -> Vec<String> {
        assert_eq!(self.header("content-type"), Some("text/event-stream; charset=utf-8"), "{}", self.text());
        let text = self.text();
        assert!(text.ends_with("\n\n"), "the last event is whole: {text}");
        text.trim_end().split("\n\n").map(|event| event.strip_prefix("data: ").expect("an event of data").to_owned()).collect()
    }
}

/// An answer whose head has come.
pub struct Open {
    pub status: StatusCode,
    pub headers: HeaderMap,
    body: Incoming,
    read: String,
    /// Ends the connection when dropped.
    _connection: tokio::task::JoinHandle<()>,
}

impl Open {
    /// The next part that ends with `end`, without it. `None`: the body has ended.
    pub async fn part(&mut self, end: &str) -> Option<String> {
        loop {
            if let Some((part, rest)) = self.read.split_once(end) {
                let part = part.to_owned();
                self.read = rest.to_owned();
                return Some(part);
            }
            let frame = tokio::time::timeout(PATIENCE, self.body.frame()).await.expect("the body goes on in time")?;
            let data = frame.expect("the body is whole").into_data().unwrap_or_default();
            self.read.push_str(std::str::from_utf8(&data).expect("text"));
        }
    }

    /// The next event's payload.
    pub async fn event(&mut self) -> Option<String> {
        self.part("\n\n").await.map(|event| event.strip_prefix("data: ").expect("an event of data").to_owned())
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self._connection.abort();
    }
}

pub type Headers<'a> = &'a [(&'a str, &'a str)];

/// Sends a request on a connection of its own and waits for the answer's head.
pub async fn open(address: SocketAddr, method: Method, path: &str, headers: Headers<'_>, body: impl Into<Bytes>) -> Open {
    let stream = TcpStream::connect(address).await.expect("the server listens");
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.expect("HTTP/1.1");
    let connection = tokio::spawn(async move {
        let _ = connection.await;
    });
    let mut request = Request::builder().method(method).uri(path).header("host", "engine");
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let request = request.body(Full::new(body.into())).expect("a valid request");
    let response = tokio::time::timeout(PATIENCE, sender.send_request(request)).await;
    let response = response.expect("the head comes in time").expect("an answer");
    let (head, body) = response.into_parts();
    Open { status: head.status, headers: head.headers, body, read: String::new(), _connection: connection }
}

pub async fn ask(address: SocketAddr, method: Method, path: &str, headers: Headers<'_>, body: impl Into<Bytes>) -> Answer {
    let mut open = open(address, method, path, headers, body).await;
    let mut bytes = Vec::new();
    while let Some(frame) = tokio::time::timeout(PATIENCE, open.body.frame()).await.expect("the body ends in time") {
        bytes.extend_from_slice(&frame.expect("the body is whole").into_data().unwrap_or_default());
    }
    Answer { status: open.status, headers: open.headers.clone(), body: bytes.into() }
}
