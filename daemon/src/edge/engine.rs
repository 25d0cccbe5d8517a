//! HTTP client of one engine: the native state stream and block list, and the endpoints every vLLM-like engine has.

use std::fmt;
use std::net::SocketAddr;
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use domain::{AssetsDigest, Incarnation, Load};
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt, Empty, Limited};
use hyper::body::Incoming;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use proto::limit::{ADAPTERS_MAX, STATE_LINE_BYTES_MAX};
use proto::{convert, state};
use serde::Deserialize;
use tokio::time::timeout;

use crate::attach::Observed;
use crate::attach::event::{Adapter, EngineHash, Event, Extra, Stored, Tier};
use crate::attach::exposition;
use crate::attach::follow::Listed;
use crate::attach::rehash::BLOCKS_MAX;

/// Longest wait for an answer's head, and for a short answer as a whole.
const ANSWER_WITHIN: Duration = Duration::from_secs(2);
/// Longest `/v1/models`.
const MODELS_BYTES_MAX: usize = 1 << 20;
/// Longest line of a block list: a block of the largest size in digits, and its names.
const BLOCK_LINE_BYTES_MAX: usize = 16 << 10;
/// A list goes on as long as it goes on, but not slower than this per chunk.
const CHUNK_WITHIN: Duration = Duration::from_secs(5);

/// Talks to one engine. Cheap to clone; clones share connections.
#[derive(Clone)]
pub struct EngineClient {
    address: SocketAddr,
    http: Client<HttpConnector, Empty<Bytes>>,
}

impl fmt::Debug for EngineClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "EngineClient({})", self.address)
    }
}

/// Equal when they talk to the same engine.
impl PartialEq for EngineClient {
    fn eq(&self, other: &Self) -> bool {
        self.address == other.address
    }
}

/// One line of the state stream.
#[derive(Clone, Debug, PartialEq)]
pub struct NativeState {
    pub observed: Observed,
    pub kv_events: Option<String>,
    pub kv_replay: Option<String>,
}

/// What `/v1/models` lists.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Models {
    pub base: String,
    pub adapters: Vec<String>,
    pub context_length: u32,
}

impl EngineClient {
    pub fn new(address: SocketAddr) -> Self {
        let mut connector = HttpConnector::new();
        connector.set_connect_timeout(Some(ANSWER_WITHIN));
        connector.set_nodelay(true);
        Self { address, http: Client::builder(TokioExecutor::new()).build(connector) }
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    async fn open(&self, path: &str) -> Result<Response<Incoming>, String> {
        let uri = format!("http://{}{path}", self.address);
        let request = Request::get(uri).body(Empty::new()).map_err(|error| error.to_string())?;
        match timeout(ANSWER_WITHIN, self.http.request(request)).await {
            Err(_elapsed) => Err(format!("no answer within {} s", ANSWER_WITHIN.as_secs())),
            Ok(Err(error)) => Err(root_cause(&error)),
            Ok(Ok(response)) => Ok(response),
        }
    }

    async fn get(&self, path: &str, bytes_max: usize) -> Result<(StatusCode, Bytes), String> {
        let (head, body) = self.open(path).await?.into_parts();
        match timeout(ANSWER_WITHIN, Limited::new(body, bytes_max).collect()).await {
            Err(_elapsed) => Err(format!("its answer took longer than {} s", ANSWER_WITHIN.as_secs())),
            Ok(Err(error)) => Err(error.to_string()),
            Ok(Ok(body)) => Ok((head.status, body.to_bytes())),
        }
    }

    /// Whether a health path answers 2xx.
    pub async fn healthy(&self, path: &str) -> Result<(), String> {
        let (status, _body) = self.get(path, MODELS_BYTES_MAX).await?;
        if status.is_success() { Ok(()) } else { Err(format!("answered {status}")) }
    }

    /// Reads `/v1/models`. An engine without that endpoint has one model without a name.
    pub async fn models(&self) -> Result<Models, String> {
        let (status, body) = self.get("/v1/models", MODELS_BYTES_MAX).await?;
        if status == StatusCode::NOT_FOUND {
            return Ok(Models::default());
        }
        if !status.is_success() {
            return Err(format!("/v1/models answered {status}"));
        }
        read_models(&body)
    }

    /// `None`: it has no metrics.
    pub async fn metrics(&self) -> Result<Option<String>, String> {
        let (status, body) = self.get("/metrics", exposition::BODY_BYTES_MAX).await?;
        if status == StatusCode::NOT_FOUND {
            return Ok(None);
        }
        if !status.is_success() {
            return Err(format!("answered {status}"));
        }
        Ok(Some(String::from_utf8_lossy(&body).into_owned()))
    }

    /// Whether it serves the native state stream.
    pub async fn is_native(&self) -> bool {
        self.open("/trackside/v1/state").await.is_ok_and(|response| response.status().is_success())
    }

    /// Opens the state stream.
    pub async fn states(&self) -> Result<States, String> {
        let response = self.open("/trackside/v1/state").await?;
        if !response.status().is_success() {
            return Err(format!("answered {}", response.status()));
        }
        Ok(States { address: self.address, lines: Lines::new(response.into_body(), STATE_LINE_BYTES_MAX) })
    }

    /// Reads the list of blocks with the event sequence at which it holds.
    pub async fn blocks(&self) -> Result<Listed, String> {
        let response = self.open("/trackside/v1/blocks").await?;
        if !response.status().is_success() {
            return Err(format!("answered {}", response.status()));
        }
        let mut lines = Lines::new(response.into_body(), BLOCK_LINE_BYTES_MAX);
        let within = |_| format!("nothing for {} s", CHUNK_WITHIN.as_secs());
        let head = timeout(CHUNK_WITHIN, lines.next()).await.map_err(within)??.ok_or("an empty list")?;
        let head: state::BlocksHead = serde_json::from_slice(&head).map_err(|error| format!("head of the list: {error}"))?;
        let mut listed = Listed { sequence: head.sequence, events: Vec::new() };
        let mut came = 0u64;
        while let Some(line) = timeout(CHUNK_WITHIN, lines.next()).await.map_err(within)?? {
            if listed.events.len() >= BLOCKS_MAX {
                return Err(format!("more than {BLOCKS_MAX} blocks"));
            }
            came += 1;
            let block: state::Block = serde_json::from_slice(&line).map_err(|error| format!("a block: {error}"))?;
            listed.events.extend(stored(block, head.block_tokens));
        }
        if came != head.blocks {
            return Err(format!("{} blocks were announced, {came} came", head.blocks));
        }
        Ok(listed)
    }
}

/// The most telling of a chain of errors: the innermost.
fn root_cause(error: &dyn std::error::Error) -> String {
    let mut cause = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    cause.to_string()
}

/// `None`: it lies on a tier that has no name here.
fn stored(block: state::Block, block_tokens: u32) -> Option<Event> {
    let state::Block { hash, parent, tokens, adapter, cache_salt, medium } = block;
    let tier = medium.map_or(Some(Tier::Gpu), |medium| Tier::named(&medium))?;
    Some(Event::Stored(Stored {
        hashes: vec![EngineHash(hash)],
        parent: parent.map(EngineHash),
        tokens,
        block_tokens: block_tokens as usize,
        adapter: adapter.map_or(Adapter::None, Adapter::Named),
        // The chain carries the salt on from its first block.
        extra: cache_salt.filter(|_| parent.is_none()).map(|salt| vec![vec![Extra::Text(salt)]]).unwrap_or_default(),
        tier,
        group: 0,
        full_attention: true,
    }))
}

/// The state stream of a native engine.
pub struct States {
    address: SocketAddr,
    lines: Lines,
}

impl States {
    pub async fn next(&mut self) -> Result<NativeState, String> {
        let line = self.lines.next().await?.ok_or("the stream ended")?;
        let state: state::State = serde_json::from_slice(&line).map_err(|error| format!("a line of its state: {error}"))?;
        read_state(state, self.address)
    }
}

fn read_state(state: state::State, address: SocketAddr) -> Result<NativeState, String> {
    let incarnation: Incarnation = state.incarnation.parse().map_err(|error| format!("incarnation: {error}"))?;
    let load = Load::try_from(&state).map_err(|error| error.to_string())?;
    let engine_state = convert::engine_state(&state.state).map_err(|error| error.to_string())?;
    let assets: Option<AssetsDigest> = state.assets_digest.parse().ok();
    let mut adapters = state.adapters;
    adapters.truncate(ADAPTERS_MAX);
    let observed = Observed {
        incarnation: Some(incarnation),
        state: engine_state,
        model: state.model,
        adapters,
        assets,
        context_length: state.context_length,
        load,
        steps: state.steps,
        counts_in_flight: true,
        address,
        loading: state.loading.map(|loading| (loading.done_bytes, loading.total_bytes)),
    };
    Ok(NativeState { observed, kv_events: state.kv_events, kv_replay: state.kv_replay })
}

/// Newline-delimited JSON out of a body.
struct Lines {
    body: Incoming,
    buffer: BytesMut,
    scanned: usize,
    bytes_max: usize,
}

impl Lines {
    fn new(body: Incoming, bytes_max: usize) -> Self {
        Self { body, buffer: BytesMut::new(), scanned: 0, bytes_max }
    }

    /// The next line that is not empty; `None` at the end of the body.
    async fn next(&mut self) -> Result<Option<Bytes>, String> {
        loop {
            if let Some(end) = self.buffer[self.scanned..].iter().position(|byte| *byte == b'\n') {
                let line = self.buffer.split_to(self.scanned + end).freeze();
                self.buffer.advance(1);
                self.scanned = 0;
                if line.trim_ascii().is_empty() {
                    continue;
                }
                return Ok(Some(line));
            }
            self.scanned = self.buffer.len();
            if self.buffer.len() > self.bytes_max {
                return Err(format!("a line of more than {} bytes", self.bytes_max));
            }
            match self.body.frame().await {
                None if self.buffer.is_empty() => return Ok(None),
                None => return Err("it ended in the middle of a line".into()),
                Some(Err(error)) => return Err(root_cause(&error)),
                Some(Ok(frame)) => {
                    if let Ok(data) = frame.into_data() {
                        self.buffer.extend_from_slice(&data);
                    }
                }
            }
        }
    }
}

/// OpenAI's list, with vLLM's fields: an adapter names its base as parent.
fn read_models(body: &[u8]) -> Result<Models, String> {
    #[derive(Deserialize)]
    struct List {
        data: Vec<Card>,
    }
    #[derive(Deserialize)]
    struct Card {
        id: String,
        #[serde(default)]
        parent: Option<String>,
        #[serde(default)]
        max_model_len: Option<u32>,
    }
    let list: List = serde_json::from_slice(body).map_err(|error| format!("/v1/models: {error}"))?;
    let (adapters, bases): (Vec<Card>, Vec<Card>) = list.data.into_iter().partition(|card| card.parent.is_some());
    let base = bases.into_iter().next().ok_or("/v1/models lists no model")?;
    Ok(Models {
        base: base.id,
        adapters: adapters.into_iter().take(ADAPTERS_MAX).map(|card| card.id).collect(),
        context_length: base.max_model_len.unwrap_or(0),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn models_are_told_from_their_adapters() {
        let body = br#"{"object":"list","data":[
            {"id":"m","object":"model","root":"m","parent":null,"max_model_len":4096},
            {"id":"a","object":"model","root":"/a","parent":"m"}]}"#;
        let models = Models { base: "m".into(), adapters: vec!["a".into()], context_length: 4096 };
        assert_eq!(read_models(body), Ok(models));
        assert_eq!(read_models(br#"{"data":[]}"#), Err("/v1/models lists no model".into()));
        assert!(read_models(b"<html>").is_err());
    }
}
