//! Uploads of tokenizers and chat templates: put together in order, verified by digest, then made usable.

use std::collections::HashMap;
use std::sync::Arc;

use domain::{AssetsDigest, NodeId};
use proto::limit::ASSETS_BYTES_MAX;
use proto::v1;

use super::Nodes;

/// Why an upload, or a part of one, was not taken.
#[derive(Debug, thiserror::Error)]
#[error("{why}")]
pub struct RefusedUpload {
    pub why: String,
    /// What it was for, where it was for something.
    pub digest: Option<AssetsDigest>,
}

/// Uploads under way on one stream.
const UPLOADS_MAX: usize = 8;

/// Puts the uploads of one stream together; their chunks may be mixed.
#[derive(Default)]
pub struct Assembly {
    /// Total size and what came so far.
    parts: HashMap<AssetsDigest, (u64, Vec<u8>)>,
}

impl Assembly {
    /// Adds a chunk; returns the whole when it is the last one. Its digest is not verified yet.
    pub fn add(
        &mut self,
        chunk: v1::AssetsChunk,
        asked: impl Fn(&AssetsDigest) -> bool,
    ) -> Result<Option<(AssetsDigest, Vec<u8>)>, RefusedUpload> {
        let v1::AssetsChunk { digest, total_bytes, offset, data, error } = chunk;
        let refused = |why: String, digest| Err(RefusedUpload { why, digest });
        let Ok(digest) = <[u8; 32]>::try_from(&digest[..]).map(AssetsDigest) else {
            return refused(format!("its digest has {} bytes, not 32", digest.len()), None);
        };
        if !asked(&digest) {
            return refused(format!("nobody asked this node for {digest}"), None);
        }
        if !error.is_empty() {
            self.parts.remove(&digest);
            let error: String = error.chars().take(512).collect();
            return refused(format!("the node cannot send {digest}: {error}"), Some(digest));
        }
        if total_bytes == 0 || total_bytes > ASSETS_BYTES_MAX {
            self.parts.remove(&digest);
            return refused(format!("{digest} has {total_bytes} bytes; at most {ASSETS_BYTES_MAX} are taken"), Some(digest));
        }
        if offset == 0 && (self.parts.len() < UPLOADS_MAX || self.parts.contains_key(&digest)) {
            self.parts.insert(digest, (total_bytes, Vec::new()));
        }
        let fits = |(total, bytes): &(u64, Vec<u8>)| {
            *total == total_bytes && bytes.len() as u64 == offset && offset + data.len() as u64 <= *total
        };
        let Some((total, mut bytes)) = self.parts.remove(&digest).filter(fits) else {
            return refused(format!("a chunk of {digest} at byte {offset} does not follow the one before"), Some(digest));
        };
        bytes.extend_from_slice(&data);
        if bytes.len() as u64 == total {
            return Ok(Some((digest, bytes)));
        }
        self.parts.insert(digest, (total, bytes));
        Ok(None)
    }
}

/// Verifies an upload and puts it to use.
pub fn install(nodes: &Arc<Nodes>, node: &NodeId, digest: AssetsDigest, bytes: &[u8]) {
    match crate::text::read_assets(digest, bytes) {
        Ok(text) => {
            tracing::info!(%node, %digest, bytes = bytes.len(), "tokenizer and chat template learned");
            nodes.texts.insert(digest, text);
        }
        Err(why) => {
            nodes.metrics.assets_refused.inc();
            tracing::warn!(%node, %digest, "refused an upload of a tokenizer: {why}; requests for its model go by load alone");
            nodes.texts.fail(digest, &why);
        }
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    const DIGEST: [u8; 32] = [7; 32];

    fn chunk(total: u64, offset: u64, data: &'static [u8]) -> v1::AssetsChunk {
        v1::AssetsChunk {
            digest: DIGEST.to_vec(),
            total_bytes: total,
            offset,
            data: Bytes::from_static(data),
            error: String::new(),
        }
    }

    /// What the last of the chunks gives.
    fn last(chunks: Vec<v1::AssetsChunk>) -> Result<Option<Vec<u8>>, String> {
        let mut assembly = Assembly::default();
        let asked = |digest: &AssetsDigest| digest.0 == DIGEST;
        let mut results: Vec<_> = chunks.into_iter().map(|chunk| assembly.add(chunk, asked)).collect();
        let last = results.pop().expect("chunks are given");
        last.map(|whole| whole.map(|(_, bytes)| bytes)).map_err(|refused| refused.why)
    }

    #[test]
    fn chunks_in_order_make_the_whole() {
        assert_eq!(last(vec![chunk(5, 0, b"abc"), chunk(5, 3, b"de")]), Ok(Some(b"abcde".to_vec())));
        assert_eq!(last(vec![chunk(5, 0, b"abc")]), Ok(None));
        assert_eq!(last(vec![chunk(5, 0, b"xxx"), chunk(5, 0, b"abcde")]), Ok(Some(b"abcde".to_vec())), "begun again");
    }

    #[test]
    fn uploads_may_be_mixed() {
        let other = |offset, data| v1::AssetsChunk { digest: vec![8; 32], ..chunk(4, offset, data) };
        let mut assembly = Assembly::default();
        let mut add = |chunk| assembly.add(chunk, |_| true).expect("a part").map(|(digest, bytes)| (digest.0[0], bytes));
        assert_eq!(add(chunk(5, 0, b"abc")), None);
        assert_eq!(add(other(0, b"wx")), None);
        assert_eq!(add(chunk(5, 3, b"de")), Some((7, b"abcde".to_vec())));
        assert_eq!(add(other(2, b"yz")), Some((8, b"wxyz".to_vec())));
    }

    #[test]
    fn what_cannot_be_a_part_is_refused() {
        let refused = |chunks| last(chunks).expect_err("refused");
        assert!(refused(vec![chunk(5, 3, b"de")]).contains("does not follow"));
        assert!(refused(vec![chunk(5, 0, b"abc"), chunk(6, 3, b"de")]).contains("does not follow"));
        assert!(refused(vec![chunk(5, 0, b"abcdef")]).contains("does not follow"));
        assert!(refused(vec![chunk(5, 0, b"abc"), chunk(5, u64::MAX, b"de")]).contains("does not follow"));
        assert!(refused(vec![chunk(u64::MAX, 0, b"abc")]).contains("at most"));
        assert!(refused(vec![chunk(0, 0, b"")]).contains("at most"));
        assert!(refused(vec![v1::AssetsChunk { digest: vec![1; 32], ..chunk(3, 0, b"abc") }]).contains("nobody asked"));
        assert!(refused(vec![v1::AssetsChunk { digest: vec![1; 31], ..chunk(3, 0, b"abc") }]).contains("not 32"));
        assert!(refused(vec![v1::AssetsChunk { error: "gone".into(), ..chunk(3, 0, b"") }]).contains("gone"));
    }
}
