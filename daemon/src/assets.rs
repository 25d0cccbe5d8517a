//! Tokenizers and chat templates of the models on this node, for schedulers that lack them.

use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::PoisonError;

use bytes::Bytes;
use domain::AssetsDigest;
use tokio::task::spawn_blocking;

/// The models that engines of this node serve, by where their files lie. Nothing is read before somebody asks.
#[derive(Debug, Default)]
pub struct Shelf {
    paths: Vec<PathBuf>,
    /// The last answer: several replicas ask for the same at the same time.
    last: Mutex<Option<(AssetsDigest, Bytes)>>,
}

impl Shelf {
    pub fn new(paths: impl IntoIterator<Item = PathBuf>) -> Self {
        let mut paths: Vec<PathBuf> = paths.into_iter().collect();
        paths.sort();
        paths.dedup();
        Self { paths, last: Mutex::default() }
    }

    /// The upload form of the assets with this digest, or why they cannot be had.
    pub async fn find(&self, digest: AssetsDigest) -> Result<Bytes, String> {
        if let Some((last, bytes)) = &*self.last.lock().unwrap_or_else(PoisonError::into_inner)
            && *last == digest
        {
            return Ok(bytes.clone());
        }
        let paths = self.paths.clone();
        let found = spawn_blocking(move || find(&paths, digest)).await.map_err(|error| error.to_string())??;
        *self.last.lock().unwrap_or_else(PoisonError::into_inner) = Some((digest, found.clone()));
        Ok(found)
    }
}

fn find(paths: &[PathBuf], wanted: AssetsDigest) -> Result<Bytes, String> {
    let mut seen = Vec::new();
    for path in paths {
        match read(path) {
            Ok((digest, bytes)) if digest == wanted => return Ok(bytes),
            Ok((digest, _)) => seen.push(format!("{} has {digest}", path.display())),
            Err(why) => seen.push(why),
        }
    }
    if seen.is_empty() {
        return Err("no engine of this node names its model files".into());
    }
    Err(format!("no model of this node has the digest {wanted}: {}", seen.join("; ")))
}

fn read(path: &Path) -> Result<(AssetsDigest, Bytes), String> {
    let assets = engine_assets::open(path).map_err(|error| error.to_string())?;
    let bytes = assets.text.to_bytes();
    Ok((AssetsDigest(engine_assets::Digest::of(&bytes).0), bytes.into()))
}

/// Digest of the tokenizer and template of a model folder or file.
pub fn digest(path: &Path) -> Result<AssetsDigest, String> {
    read(path).map(|(digest, _)| digest)
}
