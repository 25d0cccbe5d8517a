//! A scheduler, nodes and engines for one test, all of them real: sockets on the loopback address, gRPC, HTTP.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use domain::block::prompt_keys;
use domain::{BlockKey, ExtraKeys};
use engine_assets::{TextAssets, TokenizerSource};
use http::{HeaderMap, Method, Request, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use proto::v1::node_report_client::NodeReportClient;
use proto::v1::{self, blocks_command, state_command, state_update};
use scheduler::{Bound, Config, Running};
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::{Notify, mpsc};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::{CancellationToken, DropGuard};
use tonic::Streaming;

/// A step that has not happened by then never will.
const DEADLINE: Duration = Duration::from_secs(60);
pub const BLOCK_TOKENS: usize = 4;
/// Model that test engines serve.
pub const MODEL: &str = "m";

/// Waits until `holds` gives something.
pub async fn eventually<T, F: Future<Output = Option<T>>>(what: &str, mut holds: impl FnMut() -> F) -> T {
    let found = tokio::time::timeout(DEADLINE, async {
        loop {
            if let Some(found) = holds().await {
                return found;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    });
    found.await.unwrap_or_else(|_| panic!("never happened: {what}"))
}

pub struct Answer {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: Bytes,
}

impl Answer {
    pub fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap()
    }

    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|_| panic!("no JSON: {:?}", self.text()))
    }

    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }
}

/// A running scheduler and a client for its ports.
pub struct Scheduler {
    pub bound: Bound,
    client: Client<HttpConnector, Full<Bytes>>,
    running: Option<Running>,
    stop: Option<DropGuard>,
}

impl Scheduler {
    pub async fn start() -> Self {
        Self::start_with(|_| {}).await
    }

    pub async fn start_with(change: impl FnOnce(&mut Config)) -> Self {
        let mut config = Config { debug_headers: true, ..Config::on_free_ports() };
        change(&mut config);
        let stop = CancellationToken::new();
        let running = scheduler::run(config, stop.clone()).await.unwrap();
        let client = Client::builder(TokioExecutor::new()).build_http();
        Self { bound: running.bound, client, running: Some(running), stop: Some(stop.drop_guard()) }
    }

    /// Asks it to stop; the future waits until it has.
    pub fn stop(&mut self) -> impl Future<Output = ()> + use<> {
        drop(self.stop.take());
        let running = self.running.take().unwrap();
        async { tokio::time::timeout(DEADLINE, running.stopped()).await.expect("an end in time") }
    }

    pub async fn send(&self, request: Request<Full<Bytes>>) -> http::Response<Incoming> {
        tokio::time::timeout(DEADLINE, self.client.request(request)).await.expect("an answer in time").unwrap()
    }

    pub async fn request(&self, address: SocketAddr, method: Method, path: &str, headers: &[(&str, &str)], body: &str) -> Answer {
        let mut request = Request::builder().method(method).uri(format!("http://{address}{path}"));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let response = self.send(request.body(Full::new(Bytes::copy_from_slice(body.as_bytes()))).unwrap()).await;
        let (head, body) = response.into_parts();
        let body = tokio::time::timeout(DEADLINE, body.collect()).await.expect("a body in time").unwrap().to_bytes();
        Answer { status: head.status, headers: head.headers, body }
    }

    /// A request to the gateway.
    pub async fn post(&self, path: &str, body: &str) -> Answer {
        self.request(self.bound.gateway, Method::POST, path, &[("content-type", "application/json")], body).await
    }

    /// A chat of one message with the test model.
    pub async fn chat(&self, text: &str) -> Answer {
        self.post("/v1/chat/completions", &chat_body(text, false)).await
    }

    pub async fn get(&self, path: &str) -> Answer {
        self.request(self.bound.gateway, Method::GET, path, &[], "").await
    }

    pub async fn admin(&self, method: Method, path: &str, body: &str) -> Answer {
        self.request(self.bound.admin, method, path, &[], body).await
    }

    pub async fn fleet(&self) -> Value {
        self.admin(Method::GET, "/debug/fleet", "").await.json()
    }

    /// What the fleet says of an engine, once `holds` is true of it.
    pub async fn engine_where(&self, node: &str, engine: &str, holds: impl Fn(&Value) -> bool) -> Value {
        let found = || async {
            let fleet = self.fleet().await;
            let node = fleet["nodes"].as_array()?.iter().find(|known| known["node"] == node)?.clone();
            node["engines"].as_array()?.iter().find(|known| known["engine"] == engine).filter(|known| holds(known)).cloned()
        };
        eventually(&format!("{node}/{engine} as awaited"), found).await
    }

    pub async fn metric(&self, line: &str) -> f64 {
        let text = self.admin(Method::GET, "/metrics", "").await;
        let found = text.text().lines().find_map(|candidate| candidate.strip_prefix(line)?.strip_prefix(' ')?.parse().ok());
        found.unwrap_or_else(|| panic!("no {line} in:\n{}", text.text()))
    }
}

pub fn chat_body(text: &str, stream: bool) -> String {
    serde_json::json!({"model": MODEL, "messages": [{"role": "user", "content": text}], "stream": stream}).to_string()
}

/// What a scripted engine does with a request.
#[derive(Clone)]
pub enum Script {
    /// A whole answer.
    Whole { status: u16, body: &'static str },
    /// Says nothing and closes.
    Reset,
    /// Begins a body of 1000 bytes, sends these and closes.
    Cut(&'static str),
    /// Streams events; each but the first waits for the gate where there is one. Then ends the body properly, or just closes.
    Stream { events: Vec<&'static str>, gate: Option<Arc<Notify>>, proper_end: bool },
    /// Reads the request and waits for its end.
    Hang,
}

impl Script {
    pub fn ok() -> Self {
        Self::Whole { status: 200, body: "{\"ok\":true}" }
    }

    pub fn stream(events: &[&'static str]) -> Self {
        Self::Stream { events: events.to_vec(), gate: None, proper_end: true }
    }
}

/// A request as an engine saw it.
#[derive(Clone, Debug)]
pub struct Seen {
    /// Request line and headers.
    pub head: String,
    pub body: String,
}

/// An engine's HTTP side, written by hand so that it can break off anywhere.
pub struct Engine {
    pub address: SocketAddr,
    pub seen: Arc<Mutex<Vec<Seen>>>,
    /// Told when a client goes away while its answer is under way.
    pub left: Arc<Notify>,
    stop: CancellationToken,
}

impl Engine {
    pub async fn start(script: Script) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let engine = Self { address, seen: Arc::default(), left: Arc::default(), stop: CancellationToken::new() };
        let (seen, left, stop) = (engine.seen.clone(), engine.left.clone(), engine.stop.clone());
        tokio::spawn(async move {
            loop {
                let accepted = tokio::select! {
                    accepted = listener.accept() => accepted,
                    () = stop.cancelled() => return,
                };
                let (seen, left, script, stop) = (seen.clone(), left.clone(), script.clone(), stop.clone());
                tokio::spawn(async move {
                    tokio::select! {
                        () = serve(accepted.unwrap().0, seen, left, script) => {}
                        () = stop.cancelled() => {}
                    }
                });
            }
        });
        engine
    }

    /// Closes its listener and all connections.
    pub fn kill(&self) {
        self.stop.cancel();
    }

    /// Requests apart from health probes.
    pub fn requests(&self) -> Vec<Seen> {
        self.seen.lock().unwrap().clone()
    }
}

/// An address that refuses connections, held so that no other test gets it.
pub struct Refusing {
    pub address: SocketAddr,
    _bound: TcpSocket,
}

impl Refusing {
    pub fn at(address: &str) -> Self {
        let socket = TcpSocket::new_v4().unwrap();
        socket.set_reuseaddr(true).unwrap();
        socket.bind(address.parse().unwrap()).unwrap();
        Self { address: socket.local_addr().unwrap(), _bound: socket }
    }
}

async fn serve(mut socket: TcpStream, seen: Arc<Mutex<Vec<Seen>>>, left: Arc<Notify>, script: Script) {
    let mut buffer = Vec::new();
    loop {
        let Some(request) = read_request(&mut socket, &mut buffer).await else { return };
        if request.head.starts_with("GET /health") {
            let _ = socket.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await;
            continue;
        }
        seen.lock().unwrap().push(request);
        match script.clone() {
            Script::Whole { status, body } => {
                let head = format!("HTTP/1.1 {status} X\r\ncontent-type: application/json\r\ncontent-length: {}\r\n", body.len());
                // Headers that must not cross, and one that must.
                let answer = format!("{head}keep-alive: timeout=9\r\nx-engine: yes\r\nx-request-id: mine\r\n\r\n{body}");
                let _ = socket.write_all(answer.as_bytes()).await;
            }
            Script::Reset => return,
            Script::Cut(part) => {
                let answer = format!("HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 1000\r\n\r\n{part}");
                let _ = socket.write_all(answer.as_bytes()).await;
                return;
            }
            Script::Stream { events, gate, proper_end } => {
                let head =
                    "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\ntransfer-encoding: chunked\r\n\r\n";
                let _ = socket.write_all(head.as_bytes()).await;
                for (i, event) in events.iter().enumerate() {
                    if let Some(gate) = gate.as_ref().filter(|_| i > 0) {
                        let mut probe = [0];
                        tokio::select! {
                            () = gate.notified() => {}
                            read = socket.read(&mut probe) => if matches!(read, Ok(0) | Err(_)) {
                                left.notify_one();
                                return;
                            }
                        }
                    }
                    let _ = socket.write_all(format!("{:x}\r\n{event}\r\n", event.len()).as_bytes()).await;
                }
                if !proper_end {
                    return;
                }
                let _ = socket.write_all(b"0\r\n\r\n").await;
            }
            Script::Hang => {
                let mut probe = [0];
                let _ = socket.read(&mut probe).await;
                left.notify_one();
                return;
            }
        }
    }
}

async fn read_request(socket: &mut TcpStream, buffer: &mut Vec<u8>) -> Option<Seen> {
    loop {
        if let Some(end) = buffer.windows(4).position(|window| window == b"\r\n\r\n") {
            let head = String::from_utf8(buffer[..end].to_vec()).unwrap().to_owned();
            let length = head
                .to_ascii_lowercase()
                .split("content-length: ")
                .nth(1)
                .map_or(0, |rest| rest.split("\r\n").next().unwrap().parse::<usize>().unwrap());
            let whole = end + 4 + length;
            if buffer.len() >= whole {
                let body = String::from_utf8_lossy(&buffer[end + 4..whole]).into_owned();
                buffer.drain(..whole);
                return Some(Seen { head, body });
            }
        }
        if socket.read_buf(buffer).await.ok()? == 0 {
            return None;
        }
    }
}

/// A node agent's two streams.
pub struct Node {
    pub name: String,
    updates: mpsc::Sender<v1::StateUpdate>,
    commands: Streaming<v1::StateCommand>,
    client: NodeReportClient<tonic::transport::Channel>,
}

pub fn hello(name: &str) -> v1::Hello {
    v1::Hello { node: name.into(), boot_id: "boot".into(), agent_version: "1".into(), agent_incarnation: 1, leaving: false }
}

pub fn report(name: &str, address: SocketAddr) -> v1::Engine {
    v1::Engine {
        name: name.into(),
        incarnation: 1,
        role: "both".into(),
        model: MODEL.into(),
        data_address: address.to_string(),
        state: "ready".into(),
        context_length: 1024,
        counts_in_flight: true,
        load: Some(v1::Load::default()),
        ..v1::Engine::default()
    }
}

/// The same engine with open requests of direct clients, which makes others be preferred.
pub fn busy(engine: v1::Engine, requests: u32) -> v1::Engine {
    let others = Some(v1::InFlight { requests, uncached_tokens: 0 });
    v1::Engine { load: Some(v1::Load { others, ..v1::Load::default() }), ..engine }
}

impl Node {
    /// Connects and says hello.
    pub async fn connect(scheduler: &Scheduler, name: &str) -> Self {
        let endpoint = tonic::transport::Endpoint::from_shared(format!("http://{}", scheduler.bound.nodes)).unwrap();
        let mut client = NodeReportClient::new(endpoint.connect().await.unwrap());
        let (updates, outgoing) = mpsc::channel(64);
        let node = hello(name);
        updates.send(v1::StateUpdate { kind: Some(state_update::Kind::Hello(node)) }).await.unwrap();
        let commands = client.state(ReceiverStream::new(outgoing)).await.unwrap().into_inner();
        Self { name: name.into(), updates, commands, client }
    }

    /// Connects, lists its engines, and waits until the scheduler knows them.
    pub async fn with(scheduler: &Scheduler, name: &str, engines: Vec<v1::Engine>) -> Self {
        let node = Self::connect(scheduler, name).await;
        let names: Vec<String> = engines.iter().map(|engine| engine.name.clone()).collect();
        node.changed(engines, true).await;
        for engine in names {
            scheduler.engine_where(name, &engine, |_| true).await;
        }
        node
    }

    pub async fn send(&self, kind: state_update::Kind) {
        self.updates.send(v1::StateUpdate { kind: Some(kind) }).await.unwrap();
    }

    pub async fn changed(&self, engines: Vec<v1::Engine>, complete: bool) {
        self.send(state_update::Kind::Changed(v1::Changed { engines, complete, ..v1::Changed::default() })).await;
    }

    /// The next command that is not a report interval.
    pub async fn command(&mut self) -> state_command::Kind {
        loop {
            let command = tokio::time::timeout(DEADLINE, self.commands.message()).await.expect("a command in time");
            match command.unwrap().expect("the stream is open").kind.unwrap() {
                state_command::Kind::Interval(_) => {}
                other => return other,
            }
        }
    }

    pub async fn blocks(&self) -> Blocks {
        let (updates, outgoing) = mpsc::channel(64);
        let commands = self.client.clone().blocks(ReceiverStream::new(outgoing)).await.unwrap().into_inner();
        Blocks { node: self.name.clone(), sequence: 0, updates, commands }
    }

    /// Says good-bye as an agent does: closes its own side, and reads on until the scheduler has closed the other.
    pub async fn leave(mut self) {
        self.send(state_update::Kind::Hello(v1::Hello { leaving: true, ..hello(&self.name) })).await;
        drop(self.updates);
        while let Ok(Some(_)) = self.commands.message().await {}
    }

    /// Sends tokenizer and template in chunks of `chunk_bytes`.
    pub async fn upload(&self, digest: &[u8], bytes: &[u8], chunk_bytes: usize) {
        for (i, chunk) in bytes.chunks(chunk_bytes).enumerate() {
            let chunk = v1::AssetsChunk {
                digest: digest.to_vec(),
                total_bytes: bytes.len() as u64,
                offset: (i * chunk_bytes) as u64,
                data: Bytes::copy_from_slice(chunk),
                error: String::new(),
            };
            self.send(state_update::Kind::Assets(chunk)).await;
        }
    }
}

/// A Blocks stream of one engine.
pub struct Blocks {
    node: String,
    pub sequence: u64,
    updates: mpsc::Sender<v1::BlocksUpdate>,
    commands: Streaming<v1::BlocksCommand>,
}

pub fn stored(keys: &[BlockKey]) -> v1::BlockEvent {
    let keys = keys.iter().map(|key| key.0).collect();
    v1::BlockEvent { kind: Some(v1::block_event::Kind::Stored(v1::Stored { keys, tier: "gpu".into() })) }
}

impl Blocks {
    pub async fn send(&mut self, update: v1::BlocksUpdate) {
        let hello = (self.sequence == 0).then(|| hello(&self.node));
        let update = v1::BlocksUpdate {
            hello,
            incarnation: 1,
            sequence: self.sequence,
            model: MODEL.into(),
            block_tokens: BLOCK_TOKENS as u32,
            ..update
        };
        self.sequence += 1;
        self.updates.send(update).await.unwrap();
    }

    /// Sends a message as it is.
    pub async fn send_raw(&mut self, update: v1::BlocksUpdate) {
        self.updates.send(update).await.unwrap();
    }

    pub async fn snapshot(&mut self, engine: &str, keys: &[BlockKey]) {
        let (snapshot_begin, snapshot_end, events) = (true, true, vec![stored(keys)]);
        let engine = engine.into();
        self.send(v1::BlocksUpdate { engine, snapshot_begin, snapshot_end, events, ..Default::default() }).await;
    }

    pub async fn delta(&mut self, engine: &str, events: Vec<v1::BlockEvent>) {
        self.send(v1::BlocksUpdate { engine: engine.into(), events, ..Default::default() }).await;
    }

    /// The next command that is not a credit.
    pub async fn command(&mut self) -> blocks_command::Kind {
        loop {
            let command = tokio::time::timeout(DEADLINE, self.commands.message()).await.expect("a command in time");
            match command.unwrap().expect("the stream is open").kind.unwrap() {
                blocks_command::Kind::CreditBytes(_) => {}
                other => return other,
            }
        }
    }

    /// Bytes granted by the next credit.
    pub async fn credit(&mut self) -> u64 {
        loop {
            let command = tokio::time::timeout(DEADLINE, self.commands.message()).await.expect("a command in time");
            if let Some(blocks_command::Kind::CreditBytes(bytes)) = command.unwrap().expect("the stream is open").kind {
                return bytes;
            }
        }
    }
}

/// The tiny Llama checkpoint's tokenizer and template.
pub fn assets() -> TextAssets {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures/models/llama");
    TextAssets {
        tokenizer: TokenizerSource::HuggingFace(std::fs::read(folder.join("tokenizer.json")).unwrap()),
        chat_template: Some(std::fs::read_to_string(folder.join("chat_template.jinja")).unwrap()),
        tool_template: None,
        template_kwargs: None,
        content_parts: None,
        bos: None,
        eos: None,
        pad: None,
        unk: None,
        add_bos: None,
        add_eos: None,
    }
}

/// Conversations with the token ids that transformers makes of them.
pub fn golden_chats() -> Vec<(Value, Vec<u32>)> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures/models/llama/chat.json");
    let golden: Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    let cases = golden["cases"].as_array().unwrap().iter().filter(|case| case["add_generation_prompt"] == true);
    cases
        .map(|case| {
            let ids = case["ids"].as_array().unwrap().iter().map(|id| id.as_u64().unwrap() as u32).collect();
            (case["messages"].clone(), ids)
        })
        .collect()
}

/// Routing keys of a prompt of the test model.
pub fn keys(tokens: &[u32]) -> Vec<BlockKey> {
    prompt_keys(MODEL, &ExtraKeys::default(), BLOCK_TOKENS, tokens)
}
