//! A native engine: its state stream says everything, and where its KV events are.

use std::sync::Arc;
use std::time::Duration;

use domain::EngineState;
use tokio::sync::mpsc;
use tokio_util::task::AbortOnDropHandle;

use crate::attach::follow::{Baseline, Follow, follow};
use crate::attach::{Retry, Seen};
use crate::edge::engine::{EngineClient, NativeState};
use crate::node::Node;
use crate::report::blocks::BlockLog;

/// A state stream speaks at least every second; silent this long, it is opened anew.
const SILENCE: Duration = Duration::from_secs(5);

/// Reads until dropped.
pub async fn watch(client: &EngineClient, node: &Arc<Node>, blocks: &Arc<BlockLog>, seen: &mpsc::Sender<Seen>) {
    let mut retry = Retry::new();
    let mut following: Option<(Follow, AbortOnDropHandle<()>)> = None;
    loop {
        let why = match client.states().await {
            Err(why) => why,
            Ok(mut states) => loop {
                let state = match tokio::time::timeout(SILENCE, states.next()).await {
                    Err(_elapsed) => break format!("said nothing for {} s", SILENCE.as_secs()),
                    Ok(Err(why)) => break why,
                    Ok(Ok(state)) => state,
                };
                retry = Retry::new();
                let wanted = source(&state, client);
                if following.as_ref().map(|(follow, _)| follow) != wanted.as_ref() {
                    following = wanted.map(|source| {
                        let task = tokio::spawn(follow(source.clone(), node.clone(), blocks.clone()));
                        (source, AbortOnDropHandle::new(task))
                    });
                }
                if seen.send(Seen::Observed(Box::new(state.observed))).await.is_err() {
                    return;
                }
            },
        };
        if seen.send(Seen::Silent(format!("its state stream at {}: {why}", client.address()))).await.is_err() {
            return;
        }
        retry.wait().await;
    }
}

/// Where this life's blocks are to be followed; `None` while it has none: an engine that still loads lists nothing.
fn source(state: &NativeState, client: &EngineClient) -> Option<Follow> {
    let observed = &state.observed;
    if matches!(observed.state, EngineState::Absent | EngineState::Starting | EngineState::Warming) {
        return None;
    }
    Some(Follow {
        endpoint: state.kv_events.clone()?,
        replay: state.kv_replay.clone(),
        model: observed.model.clone(),
        incarnation: observed.incarnation?,
        block_tokens: Some(observed.load.kv.block_tokens).filter(|tokens| *tokens > 0),
        adapters_loaded: !observed.adapters.is_empty(),
        baseline: Baseline::List(Box::new(client.clone())),
    })
}
