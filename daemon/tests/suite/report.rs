//! The two report streams against a scheduler's side of the protocol, played by the test.

use std::net::SocketAddr;
use std::time::Duration;

use domain::EngineState;
use domain::block::{ExtraKeys, prompt_keys};
use proto::v1::node_report_server::{NodeReport, NodeReportServer};
use proto::v1::{self, BlocksCommand, BlocksUpdate, StateCommand, StateUpdate, blocks_command, state_command, state_update};
use tokio::sync::mpsc;
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream};
use tokio_util::task::AbortOnDropHandle;
use tonic::{Request, Response, Status, Streaming};

use crate::agent::{Agent, DEADLINE, config, drained, shell};
use crate::engine::{Batch, Engine, attach};

/// One stream as it came in: what is read from it, and where commands to it go.
struct Opened<U, C> {
    updates: Streaming<U>,
    commands: mpsc::Sender<Result<C, Status>>,
}

type StateStream = Opened<StateUpdate, StateCommand>;
type BlocksStream = Opened<BlocksUpdate, BlocksCommand>;

#[derive(Clone)]
struct Service {
    states: mpsc::Sender<StateStream>,
    blocks: mpsc::Sender<BlocksStream>,
}

#[tonic::async_trait]
impl NodeReport for Service {
    type StateStream = ReceiverStream<Result<StateCommand, Status>>;
    type BlocksStream = ReceiverStream<Result<BlocksCommand, Status>>;

    async fn state(&self, request: Request<Streaming<StateUpdate>>) -> Result<Response<Self::StateStream>, Status> {
        let (commands, answers) = mpsc::channel(8);
        self.states.send(Opened { updates: request.into_inner(), commands }).await.map_err(|_| Status::unavailable("over"))?;
        Ok(Response::new(ReceiverStream::new(answers)))
    }

    async fn blocks(&self, request: Request<Streaming<BlocksUpdate>>) -> Result<Response<Self::BlocksStream>, Status> {
        let (commands, answers) = mpsc::channel(8);
        self.blocks.send(Opened { updates: request.into_inner(), commands }).await.map_err(|_| Status::unavailable("over"))?;
        Ok(Response::new(ReceiverStream::new(answers)))
    }
}

struct Scheduler {
    address: SocketAddr,
    states: mpsc::Receiver<StateStream>,
    blocks: mpsc::Receiver<BlocksStream>,
    _server: AbortOnDropHandle<()>,
}

impl Scheduler {
    async fn start() -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (state_sender, states) = mpsc::channel(8);
        let (blocks_sender, blocks) = mpsc::channel(8);
        let service = NodeReportServer::new(Service { states: state_sender, blocks: blocks_sender });
        let server = tonic::transport::Server::builder().add_service(service);
        let server = tokio::spawn(async move {
            server.serve_with_incoming(TcpListenerStream::new(listener)).await.expect("serves");
        });
        Self { address, states, blocks, _server: AbortOnDropHandle::new(server) }
    }

    async fn state(&mut self) -> StateStream {
        soon(self.states.recv()).await.expect("a stream")
    }

    async fn blocks(&mut self) -> BlocksStream {
        soon(self.blocks.recv()).await.expect("a stream")
    }
}

async fn soon<T>(what: impl Future<Output = T>) -> T {
    tokio::time::timeout(DEADLINE, what).await.expect("nothing came for a minute")
}

impl StateStream {
    async fn next(&mut self) -> state_update::Kind {
        soon(self.updates.message()).await.expect("no error").expect("a message").kind.expect("a kind")
    }

    /// The next change that names an engine as wanted; heartbeats and other changes are passed over.
    async fn until(&mut self, engine: &str, wanted: impl Fn(&v1::Engine) -> bool) -> v1::Engine {
        loop {
            if let state_update::Kind::Changed(changed) = self.next().await
                && let Some(engine) = changed.engines.into_iter().find(|e| e.name == engine && wanted(e))
            {
                return engine;
            }
        }
    }

    async fn command(&self, kind: state_command::Kind) {
        self.commands.send(Ok(StateCommand { kind: Some(kind) })).await.expect("the stream lives");
    }
}

impl BlocksStream {
    async fn next(&mut self) -> BlocksUpdate {
        soon(self.updates.message()).await.expect("no error").expect("a message")
    }

    async fn command(&self, kind: blocks_command::Kind) {
        self.commands.send(Ok(BlocksCommand { kind: Some(kind) })).await.expect("the stream lives");
    }
}

#[tokio::test]
async fn a_scheduler_hears_who_is_there_what_changes_and_the_good_bye() {
    let dir = tempfile::tempdir().unwrap();
    let mut scheduler = Scheduler::start().await;
    let mut config = drained(config(dir.path()));
    // A scheduler that is not there holds nobody up.
    config.schedulers = vec!["127.0.0.1:9".into(), scheduler.address.to_string()];
    config.slots = vec![shell("a", "exec sleep 1000"), shell("b", "exit 7")];
    let agent = Agent::start(config).await;

    let mut state = scheduler.state().await;
    let state_update::Kind::Hello(hello) = state.next().await else { panic!("hello comes first") };
    assert_eq!((hello.node.as_str(), hello.leaving), ("n1", false));
    assert_eq!(hello.agent_incarnation, agent.running.node.identity.agent.0);
    let state_update::Kind::Changed(whole) = state.next().await else { panic!("then everything") };
    assert!(whole.complete);
    assert_eq!(whole.engines.iter().map(|e| e.name.as_str()).collect::<Vec<_>>(), ["a", "b"]);

    let backoff = state.until("b", |e| e.state == "quarantined").await;
    assert!(backoff.reason.contains("exited with code 7"), "{}", backoff.reason);
    let ready = match agent.running.node.engine(&"a".into()).unwrap().state {
        EngineState::Ready => whole.engines[0].clone(),
        _ => state.until("a", |e| e.state == "ready").await,
    };
    assert!(ready.assets_digest.is_empty() && !ready.counts_in_flight, "nothing is made up for a foreign engine");

    state.command(state_command::Kind::Drain(v1::Drain { engine: "a".into(), on: true })).await;
    state.until("a", |e| e.state == "draining").await;
    state.command(state_command::Kind::Drain(v1::Drain { engine: "a".into(), on: true })).await;
    state.command(state_command::Kind::Drain(v1::Drain { engine: "nobody".into(), on: true })).await;
    state.command(state_command::Kind::Drain(v1::Drain { engine: "a".into(), on: false })).await;
    state.until("a", |e| e.state == "ready").await;

    // What was asked for and is not there is answered, not left open.
    state.command(state_command::Kind::WantAssets(v1::WantAssets { digest: vec![7; 32] })).await;
    let error = loop {
        if let state_update::Kind::Assets(chunk) = state.next().await {
            break chunk.error;
        }
    };
    assert!(error.contains("no engine of this node names its model files"), "{error}");

    agent.stop().await;
    let last = loop {
        match soon(state.updates.message()).await {
            Ok(Some(StateUpdate { kind: Some(state_update::Kind::Hello(hello)) })) => break hello,
            Ok(Some(_)) => {}
            end => panic!("the stream ended without a good-bye: {end:?}"),
        }
    };
    assert!(last.leaving);
}

#[tokio::test]
async fn a_lost_stream_comes_back_with_everything() {
    let dir = tempfile::tempdir().unwrap();
    let mut scheduler = Scheduler::start().await;
    let mut config = drained(config(dir.path()));
    config.schedulers = vec![scheduler.address.to_string()];
    config.slots = vec![shell("a", "exec sleep 1000")];
    let agent = Agent::start(config).await;
    let first = scheduler.state().await;
    drop(first);
    let mut second = scheduler.state().await;
    let state_update::Kind::Hello(_) = second.next().await else { panic!("hello comes first") };
    let state_update::Kind::Changed(whole) = second.next().await else { panic!("then everything") };
    assert!(whole.complete);
    agent.stop().await;
}

#[tokio::test]
async fn a_restarted_agent_does_not_say_that_a_serving_engine_starts() {
    let dir = tempfile::tempdir().unwrap();
    let mut scheduler = Scheduler::start().await;
    let mut config = config(dir.path());
    config.schedulers = vec![scheduler.address.to_string()];
    config.slots = vec![shell("a", "exec sleep 1000")];
    let first = Agent::start(config.clone()).await;
    let served = first.until_state("a", EngineState::Ready).await;
    drop(scheduler.state().await);
    first.stop().await;

    let second = Agent::start(drained(config)).await;
    let mut state = loop {
        // The first agent may have come back once more after its stream was dropped.
        let mut state = scheduler.state().await;
        if let Ok(Ok(Some(StateUpdate { kind: Some(state_update::Kind::Hello(hello)) }))) =
            tokio::time::timeout(DEADLINE, state.updates.message()).await
            && hello.agent_incarnation == second.running.node.identity.agent.0
        {
            break state;
        }
    };
    let state_update::Kind::Changed(whole) = state.next().await else { panic!("everything") };
    assert_eq!((whole.engines[0].state.as_str(), whole.engines[0].pid), ("ready", served.pid));
    second.stop().await;
}

#[tokio::test]
async fn a_tokenizer_is_uploaded_whole_to_who_asks_for_its_digest() {
    let dir = tempfile::tempdir().unwrap();
    let model = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures/models/gguf-bf16/model.gguf");
    let assets = engine_assets::open(&model).expect("a model").text;
    let mut scheduler = Scheduler::start().await;
    let engine = Engine::start().await;
    let mut config = config(dir.path());
    config.schedulers = vec![scheduler.address.to_string()];
    config.slots = vec![attach("e", &engine)];
    config.slots[0].model_files = Some(model);
    let agent = Agent::start(config).await;
    // A foreign engine cannot say its digest; the files on the node do.
    let status = agent.until("e", |e| e.assets.is_some()).await;
    assert_eq!(status.assets.map(|digest| digest.0), Some(assets.digest().0));
    let mut state = scheduler.state().await;
    let wanted = v1::WantAssets { digest: assets.digest().0.to_vec() };
    state.command(state_command::Kind::WantAssets(wanted)).await;
    let mut bytes = Vec::new();
    loop {
        let state_update::Kind::Assets(chunk) = state.next().await else { continue };
        assert_eq!((chunk.error.as_str(), chunk.offset), ("", bytes.len() as u64));
        assert!(chunk.data.len() <= proto::limit::ASSETS_CHUNK_BYTES);
        bytes.extend_from_slice(&chunk.data);
        if bytes.len() as u64 == chunk.total_bytes {
            break;
        }
    }
    assert_eq!(bytes, assets.to_bytes());
    agent.stop().await;
}

/// Keys of a message, all events taken as stored.
fn stored(update: &BlocksUpdate) -> Vec<u64> {
    let keys = update.events.iter().flat_map(|event| match &event.kind {
        Some(v1::block_event::Kind::Stored(stored)) => stored.keys.clone(),
        other => panic!("not stored: {other:?}"),
    });
    keys.collect()
}

fn keys_of(tokens: &[u32]) -> Vec<u64> {
    prompt_keys("m", &ExtraKeys::default(), 4, tokens).into_iter().map(|key| key.0).collect()
}

#[tokio::test]
async fn blocks_come_as_a_snapshot_under_credit_and_then_as_a_log() {
    let dir = tempfile::tempdir().unwrap();
    let mut scheduler = Scheduler::start().await;
    let mut engine = Engine::start().await;
    let tokens: Vec<u32> = (0..32).collect();
    // Two batches before the agent comes: only replay has them.
    engine.store(Batch { hashes: &[1, 2], parent: None, tokens: &tokens[..8] });
    engine.store(Batch { hashes: &[3], parent: Some(2), tokens: &tokens[8..12] });
    let mut config = config(dir.path());
    config.schedulers = vec![scheduler.address.to_string()];
    config.slots = vec![attach("e", &engine)];
    let agent = Agent::start(config).await;
    let status = agent.until_state("e", EngineState::Ready).await;
    assert_eq!((status.model.as_str(), status.context_length), ("m", 64));

    let mut blocks = scheduler.blocks().await;
    assert_eq!(blocks.next().await.hello.map(|hello| hello.node), Some("n1".into()));
    blocks.command(blocks_command::Kind::CreditBytes(1 << 20)).await;
    let snapshot = blocks.next().await;
    assert!(snapshot.snapshot_begin && snapshot.snapshot_end);
    assert_eq!((snapshot.engine.as_str(), snapshot.model.as_str(), snapshot.block_tokens), ("e", "m", 4));
    let mut sequence = snapshot.sequence;
    let mut got = stored(&snapshot);
    // What the snapshot was too early for follows in the log.
    while got.len() < 3 {
        let update = blocks.next().await;
        sequence += 1;
        assert_eq!(update.sequence, sequence);
        got.extend(stored(&update));
    }
    got.sort_unstable();
    let mut wanted = keys_of(&tokens[..12]);
    wanted.sort_unstable();
    assert_eq!(got, wanted);

    // One batch is published, the next one only kept: the third shows the gap, and replay fills it.
    engine.publish(Batch { hashes: &[4], parent: Some(3), tokens: &tokens[12..16] }).await;
    engine.store(Batch { hashes: &[5], parent: Some(4), tokens: &tokens[16..20] });
    engine.publish(Batch { hashes: &[6], parent: Some(5), tokens: &tokens[20..24] }).await;
    let mut live = Vec::new();
    while live.len() < 3 {
        let update = blocks.next().await;
        sequence += 1;
        assert_eq!(update.sequence, sequence, "no hole in the stream's own numbers");
        live.extend(stored(&update));
    }
    assert_eq!(live, keys_of(&tokens[..24])[3..]);

    blocks.command(blocks_command::Kind::ResyncEngine("e".into())).await;
    let again = blocks.next().await;
    assert!(again.snapshot_begin && again.snapshot_end);
    assert_eq!(stored(&again).len(), 6);

    engine.publish_removed(&[6]).await;
    let removed = blocks.next().await;
    let Some(v1::block_event::Kind::Removed(removed)) = &removed.events[0].kind else { panic!("removed: {removed:?}") };
    assert_eq!((removed.keys.as_slice(), removed.tier.as_str()), (&keys_of(&tokens[..24])[5..], "gpu"));
    agent.stop().await;
}

#[tokio::test]
async fn without_credit_no_snapshot_is_sent() {
    let dir = tempfile::tempdir().unwrap();
    let mut scheduler = Scheduler::start().await;
    let mut engine = Engine::start().await;
    let tokens: Vec<u32> = (0..8).collect();
    engine.store(Batch { hashes: &[1, 2], parent: None, tokens: &tokens });
    let mut config = config(dir.path());
    config.schedulers = vec![scheduler.address.to_string()];
    config.slots = vec![attach("e", &engine)];
    let agent = Agent::start(config).await;
    let mut blocks = scheduler.blocks().await;
    assert!(blocks.next().await.hello.is_some());
    agent.until_state("e", EngineState::Ready).await;
    // The blocks are known to the agent, and still nothing may come.
    let indexed = async {
        while !agent.get("/metrics").await.contains("trackside_node_engine_blocks_indexed{engine=\"e\"} 2") {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    soon(indexed).await;
    // Too little for a chunk, then enough: had the first been taken for enough, the snapshot would come in two.
    blocks.command(blocks_command::Kind::CreditBytes(1)).await;
    blocks.command(blocks_command::Kind::CreditBytes(64 << 10)).await;
    let snapshot = blocks.next().await;
    assert!(snapshot.snapshot_begin && snapshot.snapshot_end);
    assert_eq!(stored(&snapshot).len(), 2);
    agent.stop().await;
}
