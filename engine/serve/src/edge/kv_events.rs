//! KV events on ZMQ as vLLM publishes them: PUB frames `[topic][sequence, u64 big-endian][msgpack batch]`, and a ROUTER that repeats
//! what a subscriber missed.
//!
//! ```text
//!   engine's thread ──KvBatch──▶ queue ──▶ publisher task ──▶ PUB
//!                   (never waits)              └──▶ ring ──▶ replay task ──▶ ROUTER
//! ```
//! The engine numbers its batches. What the bounded queue cannot take is dropped and counted, and a subscriber sees the gap in the
//! sequence.

mod encode;
mod publish;
mod replay;

use std::time::SystemTime;

use bytes::Bytes;
use domain::{ExtraKeys, Fault, FaultKind};
use engine::kv::event::{KvBatch, KvEvent, KvSink};
use prometheus::IntCounter;
use tokio::sync::mpsc;

pub use encode::{Encoding, HashForm, low_64_bits};

/// Batches between the engine's thread and the publisher. At a batch a step this is a minute of a fast engine.
pub(crate) const QUEUE_BATCHES_MAX: usize = 8192;
/// Memory of the ring that replays are answered from, whatever `buffer_steps` says.
const RING_BYTES_MAX: usize = 256 << 20;

/// Where KV events go; the names are those of vLLM's `--kv-events-config`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KvEventsConfig {
    /// Bound where it holds `*` or `::`, a numeric address of this machine or begins with `ipc://`; see [`binds`].
    pub endpoint: String,
    /// ROUTER for replay; always bound.
    pub replay_endpoint: Option<String>,
    pub topic: String,
    pub encoding: Encoding,
    pub hash_form: HashForm,
    /// Batches kept for replay.
    pub buffer_steps: usize,
    /// Connect to `endpoint` and not bind it: vLLM's choice for endpoints without `*`.
    pub connect: bool,
    pub data_parallel_rank: u32,
}

impl KvEventsConfig {
    /// Binds `endpoint`, with vLLM's defaults for the rest.
    pub fn bind(endpoint: impl Into<String>) -> Self {
        Self {
            endpoint: endpoint.into(),
            replay_endpoint: None,
            topic: String::new(),
            encoding: Encoding::Map,
            hash_form: HashForm::Int,
            buffer_steps: 10_000,
            connect: false,
            data_parallel_rank: 0,
        }
    }
}

/// Whether vLLM would bind this endpoint; it connects to any other.
pub fn binds(endpoint: &str) -> bool {
    endpoint.contains('*') || endpoint.contains("::") || endpoint.starts_with("ipc://")
}

/// The endpoint of a data-parallel rank, as vLLM derives it: the port of a TCP endpoint moves by the rank, and 0 stays any free one.
pub fn endpoint_of_rank(endpoint: &str, rank: u32) -> String {
    let moved = || {
        let (address, port) = endpoint.rsplit_once(':')?;
        let port = port.parse::<u16>().ok().filter(|&port| port > 0)?;
        Some(format!("{address}:{}", u32::from(port) + rank))
    };
    if endpoint.starts_with("tcp:") { moved().unwrap_or_else(|| endpoint.to_owned()) } else { endpoint.to_owned() }
}

/// Endpoints as bound, in a form that a neighbour on this machine can connect to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BoundEvents {
    pub endpoint: Option<String>,
    pub replay_endpoint: Option<String>,
}

/// A batch on its way to the publisher, with the moment it happened.
struct Stamped {
    batch: KvBatch,
    ts: f64,
}

/// The engine's end: numbers were given by the engine, this only hands on.
pub struct EventQueue {
    queue: mpsc::Sender<Stamped>,
    dropped: IntCounter,
}

impl KvSink for EventQueue {
    fn put(&mut self, batch: KvBatch) {
        let ts = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs_f64();
        if self.queue.try_send(Stamped { batch, ts }).is_err() {
            self.dropped.inc();
        }
    }
}

/// Binds the sockets and starts the tasks, which end when the queue is dropped.
pub async fn start(config: KvEventsConfig, dropped: IntCounter) -> Result<(EventQueue, BoundEvents), Fault> {
    let (queue, batches) = mpsc::channel(QUEUE_BATCHES_MAX);
    let (ring, ends) = replay::ring(config.buffer_steps, RING_BYTES_MAX);
    let replay_endpoint = match &config.replay_endpoint {
        Some(endpoint) => Some(replay::serve(endpoint, Bytes::from(config.topic.clone()), ring.clone(), ends).await?),
        None => None,
    };
    let endpoint = publish::start(config, batches, ring).await?;
    Ok((EventQueue { queue, dropped }, BoundEvents { endpoint: Some(endpoint), replay_endpoint }))
}

/// ZMQ's `*` is every interface.
fn spelled_out(endpoint: &str) -> String {
    endpoint.replace("tcp://*", "tcp://0.0.0.0").replace("tcp://[::]", "tcp://::")
}

/// What a neighbour connects to.
fn connectable(bound: &zeromq::Endpoint) -> String {
    bound.to_string().replace("tcp://0.0.0.0:", "tcp://127.0.0.1:").replace("tcp://[::]:", "tcp://[::1]:")
}

fn cannot_bind(what: &str, endpoint: &str, error: zeromq::ZmqError) -> Fault {
    let what = format!("cannot bind {what} at {endpoint}");
    Fault::new(FaultKind::Address, what, "free the port or choose another; port 0 takes any free one").because(error.to_string())
}

/// One batch as its payload.
fn payload(config: &KvEventsConfig, stamped: &Stamped) -> Vec<u8> {
    let form = config.hash_form;
    let events: Vec<_> = stamped.batch.events.iter().map(|event| wire_event(event, form)).collect();
    encode::batch(config.encoding, stamped.ts, &events, Some(config.data_parallel_rank))
}

fn wire_event(event: &KvEvent, form: HashForm) -> encode::Event<'_> {
    let wire = |hash| encode::WireHash::new(hash, form);
    match event {
        KvEvent::Stored(stored) => encode::Event::BlockStored {
            block_hashes: stored.hashes.iter().map(|hash| wire(&hash.0)).collect(),
            parent_block_hash: stored.parent.as_ref().map(|hash| wire(&hash.0)),
            token_ids: &stored.tokens,
            block_size: stored.block_tokens as u32,
            lora_id: None,
            medium: Some(stored.medium.as_str()),
            lora_name: stored.extra.adapter.as_ref().map(|adapter| &*adapter.name),
            extra_keys: extra_keys(&stored.extra, stored.first_block, stored.hashes.len(), stored.block_tokens),
            group_idx: Some(0),
            kv_cache_spec_kind: Some("full_attention"),
        },
        KvEvent::Removed { hashes, medium } => encode::Event::BlockRemoved {
            block_hashes: hashes.iter().map(|hash| wire(&hash.0)).collect(),
            medium: Some(medium.as_str()),
            group_idx: Some(0),
        },
        KvEvent::Cleared => encode::Event::AllBlocksCleared,
    }
}

/// What besides tokens went into the hashes of blocks `first .. first + blocks`; `None` where nothing did.
fn extra_keys(extra: &ExtraKeys, first: usize, blocks: usize, block_tokens: usize) -> Option<Vec<encode::BlockExtraKeys<'_>>> {
    if extra.is_empty() {
        return None;
    }
    let of_block = |index: usize| {
        let (start, end) = (index * block_tokens, (index + 1) * block_tokens);
        let adapter = extra.adapter.iter().map(|adapter| encode::ExtraKey::Text(&adapter.name));
        let items = extra.multimodal.iter().filter(|item| item.start < end && item.start + item.tokens > start);
        let items = items.map(|item| encode::ExtraKey::Item(&item.identifier, item.start as i64 - start as i64));
        let salt = extra.cache_salt.iter().filter(|_| index == 0).map(|salt| encode::ExtraKey::Text(salt));
        let keys: Vec<_> = adapter.chain(items).chain(salt).collect();
        (!keys.is_empty()).then_some(keys)
    };
    Some((first..first + blocks).map(of_block).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn vllm_binds_what_has_a_star_and_connects_to_the_rest() {
        let check = |endpoint, expected| assert_eq!(binds(endpoint), expected, "{endpoint}");
        check("tcp://*:5557", true);
        check("tcp://[::]:5557", true);
        check("ipc:///run/kv", true);
        check("tcp://router:5557", false);
        check("tcp://10.0.0.1:5557", false);
    }

    #[test]
    fn each_rank_has_a_port() {
        let check = |endpoint, rank, expected: &str| assert_eq!(endpoint_of_rank(endpoint, rank), expected);
        check("tcp://*:5557", 1, "tcp://*:5558");
        check("tcp://[::1]:5557", 3, "tcp://[::1]:5560");
        check("tcp://*:0", 2, "tcp://*:0");
        check("ipc:///run/kv", 2, "ipc:///run/kv");
    }

    #[test]
    fn a_salt_is_told_with_the_first_block_alone() {
        let extra = ExtraKeys { cache_salt: Some("s".into()), ..ExtraKeys::default() };
        let salt = Some(vec![encode::ExtraKey::Text("s")]);
        assert_eq!(extra_keys(&extra, 0, 2, 16), Some(vec![salt, None]));
        assert_eq!(extra_keys(&extra, 1, 1, 16), Some(vec![None]));
        assert_eq!(extra_keys(&ExtraKeys::default(), 0, 1, 16), None);
    }

    #[test]
    fn what_the_queue_cannot_take_is_dropped_and_counted() {
        let dropped = IntCounter::new("dropped", "Batches.").expect("a valid name");
        let (sender, mut batches) = mpsc::channel(2);
        let mut queue = EventQueue { queue: sender, dropped: dropped.clone() };
        for sequence in 0..5 {
            queue.put(KvBatch { sequence, events: vec![KvEvent::Cleared] });
        }
        assert_eq!(dropped.get(), 3);
        let seen: Vec<u64> = std::iter::from_fn(|| batches.try_recv().ok()).map(|stamped| stamped.batch.sequence).collect();
        assert_eq!(seen, [0, 1], "the numbers are the engine's, and show the gap");
    }
}
