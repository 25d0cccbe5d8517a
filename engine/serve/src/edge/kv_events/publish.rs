//! The PUB side: encodes batches in their order, keeps them for replay and sends them. A subscriber that reads too slowly loses
//! messages, as ZMQ has it, and sees so in the sequence.

use std::time::Duration;

use bytes::Bytes;
use domain::Fault;
use futures_util::StreamExt;
use tokio::sync::mpsc;
use zeromq::{PubSocket, Socket, SocketEvent, SocketSend, ZmqMessage};

use super::replay::Ring;
use super::{KvEventsConfig, Stamped, cannot_bind, connectable, payload, spelled_out};

/// Between two attempts to reach a peer that PUB connects to.
const RECONNECT: Duration = Duration::from_secs(1);

/// Binds (or begins to connect) and returns the endpoint.
pub async fn start(config: KvEventsConfig, batches: mpsc::Receiver<Stamped>, ring: Ring) -> Result<String, Fault> {
    if config.connect {
        let endpoint = config.endpoint.clone();
        tokio::spawn(connected(config, batches, ring));
        return Ok(endpoint);
    }
    let mut socket = PubSocket::new();
    let bound = socket.bind(&spelled_out(&config.endpoint)).await;
    let bound = bound.map_err(|error| cannot_bind("KV events", &config.endpoint, error))?;
    tokio::spawn(publish(config, batches, ring, socket));
    Ok(connectable(&bound))
}

async fn publish(config: KvEventsConfig, mut batches: mpsc::Receiver<Stamped>, ring: Ring, mut socket: PubSocket) {
    let topic = Bytes::from(config.topic.clone());
    while let Some(stamped) = batches.recv().await {
        send(&mut socket, keep(&config, &topic, &ring, &stamped)).await;
    }
}

/// PUB that connects: llm-d's router binds and every engine comes to it. Batches of a time without connection are only kept.
async fn connected(config: KvEventsConfig, mut batches: mpsc::Receiver<Stamped>, ring: Ring) {
    let topic = Bytes::from(config.topic.clone());
    let (opened, mut sockets) = mpsc::channel(1);
    let dial = |opened: mpsc::Sender<PubSocket>, endpoint: String| async move {
        loop {
            let mut socket = PubSocket::new();
            match socket.connect(&endpoint).await {
                Ok(()) => break drop(opened.send(socket).await),
                Err(error) => tracing::debug!(endpoint, %error, "no subscriber for KV events yet"),
            }
            tokio::time::sleep(RECONNECT).await;
        }
    };
    tokio::spawn(dial(opened.clone(), config.endpoint.clone()));
    let mut current: Option<(PubSocket, _)> = None;
    loop {
        let lost = async {
            match &mut current {
                Some((_, events)) => while !matches!(StreamExt::next(events).await, Some(SocketEvent::Disconnected(_)) | None) {},
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            stamped = batches.recv() => {
                let Some(stamped) = stamped else { return };
                let message = keep(&config, &topic, &ring, &stamped);
                if let Some((socket, _)) = &mut current {
                    send(socket, message).await;
                }
            }
            Some(mut socket) = sockets.recv() => {
                let events = socket.monitor();
                current = Some((socket, events));
            }
            () = lost => {
                current = None;
                tokio::spawn(dial(opened.clone(), config.endpoint.clone()));
            }
        }
    }
}

/// Encodes a batch and keeps it for replay.
fn keep(config: &KvEventsConfig, topic: &Bytes, ring: &Ring, stamped: &Stamped) -> ZmqMessage {
    let payload = Bytes::from(payload(config, stamped));
    let sequence = stamped.batch.sequence;
    ring.push(sequence, payload.clone());
    let mut message = ZmqMessage::from(topic.clone());
    message.push_back(Bytes::copy_from_slice(&sequence.to_be_bytes()));
    message.push_back(payload);
    message
}

async fn send(socket: &mut PubSocket, message: ZmqMessage) {
    if let Err(error) = socket.send(message).await {
        tracing::debug!(%error, "KV events not sent");
    }
}
