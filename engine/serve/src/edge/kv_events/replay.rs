//! The ROUTER side: answers `[id, "", first sequence]` with every kept batch from there on, `[id, "", topic, sequence, payload]`, then
//! `[id, "", "", ff×8, ""]`. A request of another shape is ignored, as vLLM does.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use bytes::Bytes;
use domain::Fault;
use zeromq::{RouterSocket, Socket, SocketRecv, SocketSend, ZmqMessage};

use super::{cannot_bind, connectable, spelled_out};

/// How long one reply may wait for a peer that does not read; the rest of its replay is then given up.
const SEND_TIMEOUT: Duration = Duration::from_secs(1);
/// Sequence number of the end marker.
const END: [u8; 8] = [0xff; 8];

/// The newest batches, bounded in number and bytes.
#[derive(Clone)]
pub struct Ring(Arc<Mutex<Kept>>);

/// Knows the ring without keeping it, so that the replay task ends with the publisher.
pub struct RingEnds(Weak<Mutex<Kept>>);

struct Kept {
    batches: VecDeque<(u64, Bytes)>,
    bytes: usize,
    batches_max: usize,
    bytes_max: usize,
}

pub fn ring(batches_max: usize, bytes_max: usize) -> (Ring, RingEnds) {
    let kept = Arc::new(Mutex::new(Kept { batches: VecDeque::new(), bytes: 0, batches_max, bytes_max }));
    let ends = RingEnds(Arc::downgrade(&kept));
    (Ring(kept), ends)
}

impl Ring {
    pub fn push(&self, sequence: u64, payload: Bytes) {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        kept.bytes += payload.len();
        kept.batches.push_back((sequence, payload));
        while kept.batches.len() > kept.batches_max || kept.bytes > kept.bytes_max {
            let Some((_, oldest)) = kept.batches.pop_front() else { break };
            kept.bytes -= oldest.len();
        }
    }

    /// Batches from `first` on.
    fn from(&self, first: u64) -> Vec<(u64, Bytes)> {
        let kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let start = kept.batches.partition_point(|(sequence, _)| *sequence < first);
        kept.batches.range(start..).cloned().collect()
    }
}

/// Binds the ROUTER and returns its endpoint.
pub async fn serve(endpoint: &str, topic: Bytes, ring: Ring, ends: RingEnds) -> Result<String, Fault> {
    let mut socket = RouterSocket::new();
    let bound = socket.bind(&spelled_out(endpoint)).await.map_err(|error| cannot_bind("KV event replay", endpoint, error))?;
    drop(ring);
    tokio::spawn(answer(socket, topic, ends));
    Ok(connectable(&bound))
}

async fn answer(mut socket: RouterSocket, topic: Bytes, ends: RingEnds) {
    loop {
        let request = match tokio::time::timeout(SEND_TIMEOUT, socket.recv()).await {
            Ok(Ok(request)) => request,
            Ok(Err(error)) => {
                tracing::debug!(%error, "KV event replay");
                continue;
            }
            // Looks now and then whether the publisher still lives.
            Err(_) if ends.0.strong_count() == 0 => return,
            Err(_) => continue,
        };
        let Some(ring) = ends.0.upgrade().map(Ring) else { return };
        let Some((peer, first)) = parse(request) else { continue };
        let replies = ring.from(first).into_iter().map(|(sequence, payload)| (topic.clone(), sequence.to_be_bytes(), payload));
        let end = std::iter::once((Bytes::new(), END, Bytes::new()));
        for (topic, sequence, payload) in replies.chain(end) {
            let mut reply = ZmqMessage::from(peer.clone());
            for frame in [Bytes::new(), topic, Bytes::copy_from_slice(&sequence), payload] {
                reply.push_back(frame);
            }
            if !matches!(tokio::time::timeout(SEND_TIMEOUT, socket.send(reply)).await, Ok(Ok(()))) {
                break;
            }
        }
    }
}

/// Peer and first sequence of `[id, "", sequence]`.
fn parse(request: ZmqMessage) -> Option<(Bytes, u64)> {
    let [peer, delimiter, sequence]: [Bytes; 3] = request.into_vec().try_into().ok()?;
    let sequence: [u8; 8] = sequence.as_ref().try_into().ok()?;
    delimiter.is_empty().then(|| (peer, u64::from_be_bytes(sequence)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ring_keeps_the_newest_within_number_and_bytes() {
        let check = |batches_max, bytes_max, first, expected: &[u64]| {
            let (ring, _ends) = ring(batches_max, bytes_max);
            for sequence in 0..10 {
                ring.push(sequence, Bytes::from_static(b"12345678"));
            }
            let seen: Vec<u64> = ring.from(first).into_iter().map(|(sequence, _)| sequence).collect();
            assert_eq!(seen, expected, "{batches_max} {bytes_max} {first}");
        };
        check(3, 1000, 0, &[7, 8, 9]);
        check(100, 17, 0, &[8, 9]);
        check(100, 1000, 8, &[8, 9]);
        check(100, 1000, 99, &[]);
        check(0, 1000, 0, &[]);
    }
}
