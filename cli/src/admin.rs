//! The admin port of a running scheduler, as `status`, `explain` and `up` ask it.

use std::time::Duration;

use bytes::Bytes;
use domain::{Fault, FaultKind};
use http::Request;
use http_body_util::{BodyExt, Full, Limited};
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use serde_json::Value;

/// A person waits for it.
const TIMEOUT: Duration = Duration::from_secs(5);
/// A fleet of 4,096 nodes with eight engines each has about 20 MB as JSON.
const ANSWER_BYTES_MAX: usize = 64 << 20;

/// `GET path`, or `POST path` with a body, as JSON.
pub async fn ask(address: &str, path: &str, body: Option<Bytes>) -> Result<Value, Fault> {
    let url = format!("http://{address}{path}");
    let request = match body {
        Some(body) => Request::post(&url).header("content-type", "application/json").body(Full::new(body)),
        None => Request::get(&url).body(Full::default()),
    };
    let request = request.map_err(|error| {
        Fault::new(FaultKind::Usage, format!("{address:?} is no address"), "write --scheduler HOST:PORT").because(error)
    })?;
    let exchange = async {
        let client = Client::builder(TokioExecutor::new()).build_http();
        let answer = client.request(request).await.map_err(|error| error.to_string())?;
        let status = answer.status();
        let body = Limited::new(answer.into_body(), ANSWER_BYTES_MAX).collect().await.map_err(|error| error.to_string())?;
        Ok::<_, String>((status, body.to_bytes()))
    };
    let silent = |why: String| {
        let action = "start one (`trackside up`, `trackside scheduler`) or name its admin address with --scheduler HOST:PORT";
        Fault::new(FaultKind::Unreachable, format!("no scheduler answers on {address} ({why})"), action)
    };
    let exchange = tokio::time::timeout(TIMEOUT, exchange).await;
    let (status, body) = exchange.map_err(|_| silent(format!("no answer within {} s", TIMEOUT.as_secs())))?.map_err(silent)?;
    let answer: Value = serde_json::from_slice(&body).map_err(|error| {
        let what = format!("{address} answered {status} with something that is not JSON");
        Fault::new(FaultKind::Unreachable, what, "name a scheduler's admin address with --scheduler").because(error)
    })?;
    match answer.pointer("/error/message").and_then(Value::as_str) {
        Some(message) if !status.is_success() => {
            Err(Fault::new(FaultKind::Usage, format!("the scheduler on {address} says: {message}"), "change the request"))
        }
        _ => Ok(answer),
    }
}
