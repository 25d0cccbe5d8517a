//! The file by itself: what is kept, what is recognised, and what a failing disk does.

use std::sync::mpsc;

use domain::ExtraKeys;
use domain::block::{AdapterKey, MultimodalKey};

use super::*;

const BLOCK_TOKENS: usize = 4;
const BLOCK_BYTES: usize = 1000;

fn identity(model: &str) -> Identity<'static> {
    Identity {
        layout: "f32".into(),
        model: model.into(),
        hash_seed: "seed",
        block_tokens: BLOCK_TOKENS,
        block_bytes: BLOCK_BYTES,
    }
}

fn block(index: u32, extra: &ExtraKeys) -> (Content, Vec<u32>, Vec<u8>) {
    let mut hasher = BlockHasher::new("seed", BLOCK_TOKENS);
    let mut parent = None;
    for before in 0..index {
        parent = Some(hasher.block(parent, before as usize, &[before; BLOCK_TOKENS], extra));
    }
    let tokens = vec![index; BLOCK_TOKENS];
    let hash = hasher.block(parent, index as usize, &tokens, extra);
    (Content { hash, parent, index, extra: Arc::new(extra.clone()) }, tokens, vec![index as u8 + 1; BLOCK_BYTES])
}

fn keys() -> ExtraKeys {
    ExtraKeys {
        adapter: Some(AdapterKey { name: "a".into(), path: "/a".into() }),
        cache_salt: Some("salt".into()),
        multimodal: vec![MultimodalKey { identifier: "image".into(), start: 1, tokens: 6 }],
    }
}

struct Opened {
    disk: KvDisk,
    woken: mpsc::Receiver<()>,
}

fn opened((mut disk, _): (KvDisk, usize)) -> Opened {
    let (sender, woken) = mpsc::channel();
    disk.wake_with(Arc::new(move || sender.send(()).unwrap_or_default()));
    Opened { disk, woken }
}

impl Opened {
    fn answer(&mut self) -> DiskAnswer {
        self.woken.recv().expect("the thread answers");
        self.disk.poll().expect("it said that it did")
    }

    fn read(&mut self, place: u32, hash: BlockHash) -> Option<Vec<u8>> {
        self.disk.read(DiskPlace(place), hash);
        match self.answer() {
            DiskAnswer::Read { bytes, .. } => Some(bytes),
            DiskAnswer::Lost { .. } => None,
            DiskAnswer::Failed => panic!("the disk works"),
        }
    }
}

#[test]
fn what_was_written_is_read_now_and_in_another_life() {
    let folder = tempfile::tempdir().expect("a folder");
    let config = KvDiskConfig { path: folder.path().join("kv"), bytes: 1 << 20 };
    let open = || KvDisk::open(&config, 0, &identity("m")).expect("it opens");
    let blocks: Vec<_> = (0..3).map(|index| block(index, &keys())).collect();
    let mut first = opened(open());
    for (place, (content, tokens, bytes)) in (5..).zip(&blocks) {
        first.disk.write(DiskPlace(place), content, tokens, bytes);
    }
    assert_eq!(first.read(6, blocks[1].0.hash).as_ref(), Some(&blocks[1].2));
    assert_eq!(first.read(6, blocks[0].0.hash), None, "another block lies there");
    assert_eq!(first.read(90, blocks[0].0.hash), None, "nothing lies there");
    let busy = KvDisk::open(&config, 0, &identity("m")).err().expect("one engine, one file");
    assert!(busy.to_string().contains("another engine"), "{busy}");
    drop(first);
    // The lock goes with the thread, which ends when it has done what it was told.
    let mut later = loop {
        match KvDisk::open(&config, 0, &identity("m")) {
            Ok(later) => break opened(later),
            Err(_) => std::thread::yield_now(),
        }
    };
    let found = later.disk.found();
    let seen: Vec<_> = found.iter().map(|block| (block.place.0, block.content.clone(), block.tokens.clone())).collect();
    let wanted: Vec<_> = (5..).zip(&blocks).map(|(place, block)| (place, block.0.clone(), block.1.clone())).collect();
    assert_eq!(seen, wanted);
    assert_eq!(later.read(7, blocks[2].0.hash).as_ref(), Some(&blocks[2].2));
}

/// Writes one block, changes the file by `damage`, and opens it again.
fn after(damage: impl FnOnce(&Path), again: &Identity<'_>) -> (usize, Option<Vec<u8>>) {
    let folder = tempfile::tempdir().expect("a folder");
    let config = KvDiskConfig { path: folder.path().to_owned(), bytes: 1 << 20 };
    let (content, tokens, bytes) = block(0, &ExtraKeys::default());
    let mut first = opened(KvDisk::open(&config, 0, &identity("m")).expect("it opens"));
    first.disk.write(DiskPlace(0), &content, &tokens, &bytes);
    assert!(first.read(0, content.hash).is_some());
    drop(first);
    let path = folder.path().join("kv-0.blocks");
    while File::open(&path).is_ok_and(|file| file.try_lock().is_err()) {
        std::thread::yield_now();
    }
    damage(&path);
    let mut later = opened(KvDisk::open(&config, 0, again).expect("it opens"));
    let found = later.disk.found();
    (found.len(), later.read(0, content.hash))
}

fn flip(path: &Path, at: u64) {
    let file = OpenOptions::new().read(true).write(true).open(path).expect("the file is there");
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).expect("it is that long");
    file.write_all_at(&[byte[0] ^ 1], at).expect("it can be written");
}

#[test]
fn foreign_and_damaged_content_is_not_served() {
    let layout = Layout::new(BLOCK_TOKENS, BLOCK_BYTES);
    let whole = Some(vec![1; BLOCK_BYTES]);
    assert_eq!(after(|_| {}, &identity("m")), (1, whole));
    assert_eq!(after(|_| {}, &identity("another model")), (0, None));
    assert_eq!(after(|_| {}, &Identity { layout: "bf16".into(), ..identity("m") }), (0, None));
    assert_eq!(after(|_| {}, &Identity { hash_seed: "other", ..identity("m") }), (0, None));
    assert_eq!(after(|path| flip(path, 0), &identity("m")), (0, None), "the file's head");
    assert_eq!(after(|path| flip(path, HEAD_BYTES + 10), &identity("m")), (0, None), "a record");
    let within_block = HEAD_BYTES + layout.record_bytes as u64 + 500;
    assert_eq!(after(|path| flip(path, within_block), &identity("m")), (1, None), "a block is checked when it is read");
    let cut = |path: &Path| {
        let file = OpenOptions::new().write(true).open(path).expect("the file is there");
        file.set_len(within_block).expect("it can be cut");
    };
    assert_eq!(after(cut, &identity("m")), (1, None), "a file cut short");
}

#[test]
fn a_disk_that_cannot_be_written_is_switched_off() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("file");
    let file = OpenOptions::new().read(true).write(true).create(true).truncate(true).open(&path).expect("a file");
    drop(KvDisk::start(file, 1 << 20, &identity("m")).expect("it starts"));
    // Writing to a file that is open for reading alone fails as a full disk does: the call says so.
    let mut failing = opened(KvDisk::start(File::open(&path).expect("the file"), 1 << 20, &identity("m")).expect("it starts"));
    let (content, tokens, bytes) = block(0, &ExtraKeys::default());
    failing.disk.write(DiskPlace(0), &content, &tokens, &bytes);
    assert!(matches!(failing.answer(), DiskAnswer::Failed));
    // Whoever still asks is not held up.
    failing.disk.write(DiskPlace(1), &content, &tokens, &bytes);
    failing.disk.read(DiskPlace(1), content.hash);
    failing.disk.clear();
    assert!(failing.disk.poll().is_none());
}

#[test]
fn the_queue_is_bounded() {
    let folder = tempfile::tempdir().expect("a folder");
    let config = KvDiskConfig { path: folder.path().to_owned(), bytes: 1 << 20 };
    let (disk, places) = KvDisk::open(&config, 3, &identity("m")).expect("it opens");
    assert_eq!(places, ((1 << 20) - 4096) / 4096);
    assert_eq!(disk.room(), 256);
    let small = KvDiskConfig { bytes: 100, ..config };
    assert!(KvDisk::open(&small, 4, &identity("m")).is_err(), "a file that holds no block is a mistake");
}
