//! A foreign engine as far as the agent sees one: vLLM's health, models, metrics and KV events with replay.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::routing::get;
use daemon::config::{Foreign, Slot, SlotKind};
use domain::EngineName;
use rmpv::Value;
use tokio_util::task::AbortOnDropHandle;
use zeromq::{PubSocket, RouterSocket, Socket, SocketRecv, SocketSend, ZmqMessage};

pub struct Batch<'a> {
    pub hashes: &'a [u64],
    pub parent: Option<u64>,
    pub tokens: &'a [u32],
}

/// Batches published so far, by sequence.
type Kept = Arc<Mutex<Vec<Vec<u8>>>>;

pub struct Engine {
    pub address: SocketAddr,
    pub events: String,
    pub replay: String,
    /// Body of `/v1/models`.
    models: Arc<Mutex<String>>,
    publisher: PubSocket,
    kept: Kept,
    _tasks: [AbortOnDropHandle<()>; 2],
}

impl Engine {
    pub async fn start() -> Self {
        Self::start_named("m").await
    }

    pub async fn start_named(model: &str) -> Self {
        let kept = Kept::default();
        let mut publisher = PubSocket::new();
        let events = publisher.bind("tcp://127.0.0.1:0").await.unwrap().to_string();
        let mut router = RouterSocket::new();
        let replay = router.bind("tcp://127.0.0.1:0").await.unwrap().to_string();
        let replaying = AbortOnDropHandle::new(tokio::spawn(serve_replay(router, kept.clone())));
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let models = Arc::new(Mutex::new(cards(model, &[])));
        let served = models.clone();
        let metrics = "vllm:num_requests_running 0\nvllm:cache_config_info{block_size=\"4\",num_gpu_blocks=\"100\"} 1\n";
        let app = Router::new()
            .route("/health", get(async || ""))
            .route("/v1/models", get(move || async move { served.lock().unwrap().clone() }))
            .route("/metrics", get(move || async move { metrics }));
        let serving = AbortOnDropHandle::new(tokio::spawn(async move {
            axum::serve(listener, app).await.expect("serves");
        }));
        Self { address, events, replay, models, publisher, kept, _tasks: [replaying, serving] }
    }

    /// Loads adapters, in place of those loaded before.
    pub fn load(&self, model: &str, adapters: &[&str]) {
        *self.models.lock().unwrap() = cards(model, adapters);
    }

    /// Keeps a batch for replay without publishing it, as if its message had been lost.
    pub fn store(&mut self, batch: Batch<'_>) {
        let Batch { hashes, parent, tokens } = batch;
        let numbers = |numbers: &[u64]| Value::Array(numbers.iter().map(|n| Value::from(*n)).collect());
        let event = Value::Map(vec![
            ("type".into(), "BlockStored".into()),
            ("block_hashes".into(), numbers(hashes)),
            ("parent_block_hash".into(), parent.map_or(Value::Nil, Value::from)),
            ("token_ids".into(), Value::Array(tokens.iter().map(|t| Value::from(*t)).collect())),
            ("block_size".into(), Value::from(tokens.len() / hashes.len())),
            ("lora_id".into(), Value::Nil),
            ("medium".into(), "GPU".into()),
            ("lora_name".into(), Value::Nil),
        ]);
        self.keep(event);
    }

    pub async fn publish(&mut self, batch: Batch<'_>) {
        self.store(batch);
        self.send().await;
    }

    pub async fn publish_removed(&mut self, hashes: &[u64]) {
        let hashes = Value::Array(hashes.iter().map(|n| Value::from(*n)).collect());
        self.keep(Value::Array(vec!["BlockRemoved".into(), hashes, "GPU".into()]));
        self.send().await;
    }

    fn keep(&mut self, event: Value) {
        let batch = Value::Array(vec![Value::from(1.5), Value::Array(vec![event]), Value::from(0)]);
        let mut payload = Vec::new();
        rmpv::encode::write_value(&mut payload, &batch).unwrap();
        self.kept.lock().unwrap().push(payload);
    }

    async fn send(&mut self) {
        let (sequence, payload) = {
            let kept = self.kept.lock().unwrap();
            (kept.len() as u64 - 1, kept.last().cloned().unwrap())
        };
        let mut message = ZmqMessage::from("topic");
        message.push_back(sequence.to_be_bytes().to_vec().into());
        message.push_back(payload.into());
        self.publisher.send(message).await.unwrap();
    }
}

fn cards(model: &str, adapters: &[&str]) -> String {
    let base = serde_json::json!({ "id": model, "parent": null, "max_model_len": 64 });
    let adapters = adapters.iter().map(|adapter| serde_json::json!({ "id": adapter, "parent": model }));
    let cards: Vec<_> = std::iter::once(base).chain(adapters).collect();
    serde_json::json!({ "object": "list", "data": cards }).to_string()
}

async fn serve_replay(mut router: RouterSocket, kept: Kept) {
    loop {
        let Ok(request) = router.recv().await else { return };
        let [id, empty, start] = &request.into_vec()[..] else { continue };
        let start = u64::from_be_bytes(start.as_ref().try_into().expect("8 bytes")) as usize;
        let batches = kept.lock().unwrap().clone();
        let replies = batches.into_iter().enumerate().skip(start).map(|(i, payload)| (i as u64, payload));
        for (sequence, payload) in replies.chain([(u64::MAX, Vec::new())]) {
            let mut reply = ZmqMessage::from(id.clone());
            reply.push_back(empty.clone());
            reply.push_back("topic".into());
            reply.push_back(sequence.to_be_bytes().to_vec().into());
            reply.push_back(payload.into());
            if router.send(reply).await.is_err() {
                return;
            }
        }
    }
}

/// A slot that reads this engine.
pub fn attach(name: &str, engine: &Engine) -> Slot {
    let foreign =
        Foreign { kv_events: Some(engine.events.clone()), kv_replay: Some(engine.replay.clone()), ..Foreign::default() };
    Slot {
        name: EngineName::new(name),
        kind: SlotKind::Attach { foreign },
        host: engine.address.ip(),
        port: engine.address.port(),
        ..Slot::native(0, "")
    }
}
