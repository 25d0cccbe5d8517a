//! Ids of pieces of text that were encoded before, in bounded memory.

use std::collections::HashMap;
use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use crate::error::TextError;

/// Memory for all pieces of a tokenizer: text and ids of some twenty chats of 100,000 tokens.
const BYTES_MAX: usize = 16 << 20;
/// What a piece takes beside its text and its ids, about.
const ENTRY_BYTES: usize = 128;

/// How well the memory of a tokenizer does.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Recall {
    /// Bytes of text whose ids were there.
    pub hit_bytes: u64,
    /// Bytes of text that were encoded.
    pub miss_bytes: u64,
    /// Bytes that pieces take.
    pub held_bytes: u64,
}

/// Two generations: a piece that is found moves into the young one, and once that is full, what is left in the old one is forgotten.
pub(super) struct Remembered {
    generations: Mutex<[Generation; 2]>,
    hasher: RandomState,
    bytes_max: usize,
    hit_bytes: AtomicU64,
    miss_bytes: AtomicU64,
}

#[derive(Default)]
struct Generation {
    pieces: HashMap<u64, Piece>,
    bytes: usize,
}

#[derive(Clone)]
struct Piece {
    text: Arc<str>,
    ids: Arc<[u32]>,
}

impl Piece {
    fn bytes(&self) -> usize {
        ENTRY_BYTES + self.text.len() + size_of_val(&*self.ids)
    }
}

impl Remembered {
    pub fn new() -> Self {
        Self::with_bytes_max(BYTES_MAX)
    }

    pub fn with_bytes_max(bytes_max: usize) -> Self {
        let generations = Mutex::default();
        Self { generations, hasher: RandomState::new(), bytes_max, hit_bytes: AtomicU64::new(0), miss_bytes: AtomicU64::new(0) }
    }

    /// The ids of pieces, end to end. All but the last are remembered: that one is what the next text continues.
    pub fn ids(&self, pieces: &[&str], encode: impl Fn(&str) -> Result<Vec<u32>, TextError>) -> Result<Vec<u32>, TextError> {
        let hashes: Vec<u64> = pieces.iter().map(|piece| self.hasher.hash_one(piece)).collect();
        let known: Vec<Option<Arc<[u32]>>> = {
            let mut generations = self.generations.lock().unwrap_or_else(PoisonError::into_inner);
            pieces.iter().zip(&hashes).map(|(piece, hash)| self.find(&mut generations, *hash, piece)).collect()
        };
        let mut ids = Vec::with_capacity(pieces.iter().map(|piece| piece.len() / 3).sum());
        let mut new = Vec::new();
        let (mut hit_bytes, mut miss_bytes) = (0, 0);
        for (at, (piece, known)) in pieces.iter().zip(known).enumerate() {
            if let Some(known) = known {
                hit_bytes += piece.len() as u64;
                ids.extend_from_slice(&known);
                continue;
            }
            miss_bytes += piece.len() as u64;
            let encoded = encode(piece)?;
            ids.extend_from_slice(&encoded);
            if at + 1 < pieces.len() {
                new.push((hashes[at], Piece { text: (*piece).into(), ids: encoded.into() }));
            }
        }
        self.hit_bytes.fetch_add(hit_bytes, Ordering::Relaxed);
        self.miss_bytes.fetch_add(miss_bytes, Ordering::Relaxed);
        if !new.is_empty() {
            let mut generations = self.generations.lock().unwrap_or_else(PoisonError::into_inner);
            new.into_iter().for_each(|(hash, piece)| self.insert(&mut generations, hash, piece));
        }
        Ok(ids)
    }

    fn find(&self, generations: &mut [Generation; 2], hash: u64, text: &str) -> Option<Arc<[u32]>> {
        let [young, old] = generations;
        if let Some(piece) = young.pieces.get(&hash).filter(|piece| &*piece.text == text) {
            return Some(Arc::clone(&piece.ids));
        }
        let piece = old.pieces.get(&hash).filter(|piece| &*piece.text == text)?.clone();
        let ids = Arc::clone(&piece.ids);
        old.pieces.remove(&hash);
        old.bytes -= piece.bytes();
        self.insert(generations, hash, piece);
        Some(ids)
    }

    fn insert(&self, generations: &mut [Generation; 2], hash: u64, piece: Piece) {
        let bytes = piece.bytes();
        if bytes > self.bytes_max / 2 {
            return;
        }
        if generations[0].bytes + bytes > self.bytes_max / 2 {
            generations.swap(0, 1);
            generations[0] = Generation::default();
        }
        let [young, _] = generations;
        young.bytes += bytes;
        if let Some(before) = young.pieces.insert(hash, piece) {
            young.bytes -= before.bytes();
        }
    }

    pub fn recall(&self) -> Recall {
        let held = self
            .generations
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .iter()
            .map(|generation| generation.bytes as u64)
            .sum();
        Recall {
            hit_bytes: self.hit_bytes.load(Ordering::Relaxed),
            miss_bytes: self.miss_bytes.load(Ordering::Relaxed),
            held_bytes: held,
        }
    }
}
