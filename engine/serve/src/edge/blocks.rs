//! `GET /trackside/v1/blocks`: the cached blocks, with the event sequence at which the list holds, for an agent that starts late or
//! missed events.

use std::convert::Infallible;
use std::sync::Arc;

use axum::body::Body;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use bytes::{BufMut, Bytes, BytesMut};
use engine::kv::event::{BlockList, CachedBlock, Medium};
use futures_util::stream;
use http::HeaderValue;
use http::header::CONTENT_TYPE;
use proto::state::{Block, BlocksHead};
use tokio::sync::oneshot;

use super::answer::ApiError;
use super::kv_events::low_64_bits;
use crate::edge::app::App;

/// Blocks of one write.
const WRITE_BLOCKS: usize = 256;

pub async fn list(State(app): State<Arc<App>>) -> Response {
    match ask(&app).await {
        Ok(list) => answer(&app, list.parents_first()),
        Err(error) => error.into_response(),
    }
}

async fn ask(app: &App) -> Result<BlockList, ApiError> {
    let handle = app.handle().ok_or_else(|| app.unavailable())?;
    let (reply, list) = oneshot::channel();
    // The client may be gone when the answer comes; then nobody takes it.
    let asked = handle.blocks(move |list| drop(reply.send(list)));
    asked.map_err(|busy| ApiError::unavailable(super::answer::sentence(busy)))?;
    list.await.map_err(|_| app.unavailable())
}

fn answer(app: &App, list: BlockList) -> Response {
    let head = BlocksHead {
        incarnation: app.incarnation.to_string(),
        // The engine names the batch that comes next; on the wire stands the last one contained.
        sequence: list.sequence.checked_sub(1),
        block_tokens: list.block_tokens as u32,
        blocks: list.blocks.len() as u64,
    };
    let mut first = BytesMut::new();
    line(&mut first, &head);
    let blocks = list.blocks.into_iter();
    let writes = std::iter::once(first.freeze()).chain(Writes { blocks }).map(Ok::<_, Infallible>);
    let mut response = Response::new(Body::from_stream(stream::iter(writes)));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/x-ndjson"));
    response
}

/// The lines of the blocks, some hundred a write.
struct Writes<I> {
    blocks: I,
}

impl<I: Iterator<Item = CachedBlock>> Iterator for Writes<I> {
    type Item = Bytes;

    fn next(&mut self) -> Option<Bytes> {
        let mut out = BytesMut::new();
        self.blocks.by_ref().take(WRITE_BLOCKS).for_each(|block| line(&mut out, &wire(block)));
        (!out.is_empty()).then(|| out.freeze())
    }
}

fn wire(block: CachedBlock) -> Block {
    Block {
        hash: low_64_bits(&block.hash.0),
        parent: block.parent.map(|hash| low_64_bits(&hash.0)),
        adapter: block.extra.adapter.as_ref().map(|adapter| adapter.name.to_string()),
        cache_salt: block.extra.cache_salt.as_ref().map(|salt| salt.to_string()),
        tokens: block.tokens,
        medium: Some(block.medium.as_str().to_owned()).filter(|_| block.medium != Medium::Device),
    }
}

fn line(out: &mut BytesMut, body: &impl serde::Serialize) {
    serde_json::to_writer((&mut *out).writer(), body).expect("plain data into memory");
    out.put_u8(b'\n');
}
