//! A disk that a test drives by hand: it answers after some steps, loses what the test says, and may fail.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex};

use engine::kv::disk::{DISK_READS_MAX, Disk, DiskAnswer, FoundBlock};
use engine::kv::hash::BlockHash;
use engine::kv::prefix::Content;
use engine::kv::tier::DiskPlace;

/// What a disk does wrong.
#[derive(Clone, Copy, Debug, Default)]
pub struct Faults {
    /// Steps from a question to its answer.
    pub delay: usize,
    /// Every so many-th read finds a damaged block.
    pub loses_every: Option<usize>,
    /// Fails after so many reads.
    pub fails_after: Option<usize>,
    /// Writes that it takes in one step.
    pub room: usize,
}

#[derive(Default)]
pub struct Platter {
    pub faults: Faults,
    places: HashMap<DiskPlace, (Content, Vec<u32>, Vec<u8>)>,
    asked: VecDeque<(usize, DiskPlace, BlockHash)>,
    step: usize,
    reads: usize,
    failed: bool,
    /// What an earlier life left.
    pub left: Vec<(DiskPlace, Content, Vec<u32>, Vec<u8>)>,
}

impl Platter {
    pub fn new(faults: Faults) -> Self {
        Self { faults, ..Self::default() }
    }

    pub fn step(&mut self) {
        self.step += 1;
    }

    /// What another life would find.
    pub fn content(&self) -> Vec<(DiskPlace, Content, Vec<u32>, Vec<u8>)> {
        let copy = |(&place, (content, tokens, bytes)): (&DiskPlace, &(Content, Vec<u32>, Vec<u8>))| {
            (place, content.clone(), tokens.clone(), bytes.clone())
        };
        let mut all: Vec<_> = self.places.iter().map(copy).collect();
        all.sort_by_key(|(place, content, ..)| (content.index, place.0));
        all
    }
}

pub struct ScriptedDisk(pub Arc<Mutex<Platter>>);

impl Disk for ScriptedDisk {
    fn found(&mut self) -> Vec<FoundBlock> {
        let mut platter = self.0.lock().unwrap();
        let left = std::mem::take(&mut platter.left);
        let mut found = Vec::new();
        for (place, content, tokens, bytes) in left {
            found.push(FoundBlock { place, content: content.clone(), tokens: tokens.clone() });
            platter.places.insert(place, (content, tokens, bytes));
        }
        found
    }

    fn wake_with(&mut self, _: Arc<dyn Fn() + Send + Sync>) {}

    fn room(&self) -> usize {
        self.0.lock().unwrap().faults.room
    }

    fn write(&mut self, place: DiskPlace, content: &Content, tokens: &[u32], bytes: &[u8]) {
        let written = (content.clone(), tokens.to_vec(), bytes.to_vec());
        self.0.lock().unwrap().places.insert(place, written);
    }

    fn read(&mut self, place: DiskPlace, hash: BlockHash) {
        let mut platter = self.0.lock().unwrap();
        let due = platter.step + platter.faults.delay;
        platter.asked.push_back((due, place, hash));
        assert!(platter.asked.len() <= DISK_READS_MAX, "too many reads are open");
    }

    fn poll(&mut self) -> Option<DiskAnswer> {
        let mut platter = self.0.lock().unwrap();
        if platter.failed {
            return None;
        }
        let &(due, place, hash) = platter.asked.front()?;
        if due > platter.step {
            return None;
        }
        platter.asked.pop_front();
        platter.reads += 1;
        if platter.faults.fails_after.is_some_and(|reads| platter.reads > reads) {
            platter.failed = true;
            return Some(DiskAnswer::Failed);
        }
        let lost = platter.faults.loses_every.is_some_and(|every| platter.reads.is_multiple_of(every));
        Some(match platter.places.get(&place) {
            Some((content, _, bytes)) if content.hash == hash && !lost => DiskAnswer::Read { hash, bytes: bytes.clone() },
            _ => DiskAnswer::Lost { hash },
        })
    }

    fn clear(&mut self) {
        self.0.lock().unwrap().places.clear();
    }
}
