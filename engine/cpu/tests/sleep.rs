//! What a sleeping backend gives back, as the system sees this process; nothing else runs in it.
#![cfg(target_os = "linux")]

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use engine::backend::{Backend, Batch, BlockId, Input, Outcomes, Row, Sample, Sleep, Slot};
use engine::request::Sampling;
use engine_cpu::{CpuBackend, CpuOptions, KvSize};

const KV_BLOCKS: usize = 2048;

/// Anonymous memory of this process in bytes: packed weights, activations, the heap.
fn anonymous_bytes() -> u64 {
    let status = fs::read_to_string("/proc/self/status").expect("proc is mounted");
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).expect("the kernel counts it");
    let kib: u64 = line.trim().trim_end_matches(" kB").parse().expect("a number of KiB");
    kib << 10
}

/// Memory of the KV region in bytes: what its file holds.
fn kv_bytes() -> u64 {
    let descriptors = fs::read_dir("/proc/self/fd").expect("proc is mounted");
    let paths = descriptors.map(|entry| entry.expect("it can be listed").path());
    let is_kv = |path: &Path| fs::read_link(path).is_ok_and(|target| target.to_string_lossy().contains("trackside-kv"));
    let kv = paths.into_iter().find(|path| is_kv(path)).expect("the KV region is a file without a name");
    fs::metadata(kv).expect("it is open").blocks() * 512
}

/// Twenty tokens behind a prompt, greedily.
fn answer(backend: &mut CpuBackend) -> Vec<u32> {
    const PROMPT: u32 = 30;
    let sample = || Some(Sample { sampling: Sampling::GREEDY, index: 0, state: None });
    let row = |input, start| Row { slot: Slot(0), input, start, sample: sample(), drafts: 0, scored: None, adapter: None };
    let mut batch = Batch { rows: vec![row(Input::Tokens(0..PROMPT as usize), 0)], ..Batch::default() };
    batch.tokens.extend(10..10 + PROMPT);
    batch.tables.replace(Slot(0), 0, &[3, 1, 4, 0].map(BlockId));
    let mut out = Outcomes::default();
    for position in PROMPT..PROMPT + 20 {
        let ticket = backend.launch(&batch).expect("the batch is within the capacity");
        backend.settle(ticket, &mut out).expect("nothing fails");
        batch.rows = vec![row(Input::Last, position)];
    }
    out.sampled.into_iter().map(|sampled| sampled.token.expect("logits are numbers")).collect()
}

#[test]
fn a_sleeping_backend_gives_its_memory_back_and_answers_as_before_when_it_wakes() {
    let model = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../cli/builtin/trackside-builtin.gguf");
    let weights = fs::metadata(&model).expect("the model is there").len();
    let options =
        CpuOptions { kv: KvSize::Blocks(KV_BLOCKS), slots: 4, batch_tokens: 64, threads: Some(2), ..CpuOptions::default() };
    let assets = engine_assets::open(&model).unwrap_or_else(|error| panic!("{error}"));
    let mut backend = CpuBackend::load(&assets, &options, &mut |_, _| {}).unwrap_or_else(|error| panic!("{error}"));
    let expected = answer(&mut backend);
    let kv = (KV_BLOCKS * backend.kv_block_bytes()) as u64;
    assert!(kv_bytes() >= kv, "the KV region is reserved at the start");
    for (sleep, weights_fall) in [(Sleep::Offload, 0), (Sleep::Discard, weights / 2)] {
        let awake = anonymous_bytes();
        backend.sleep(sleep).expect("memory can be given back");
        assert_eq!(kv_bytes(), 0, "{sleep:?}");
        let asleep = anonymous_bytes();
        assert!(asleep + weights_fall <= awake, "{sleep:?}: {awake} bytes awake, {asleep} asleep, weights of {weights}");
        backend.wake().expect("the memory is there");
        assert!(kv_bytes() >= kv, "reserved again after {sleep:?}");
        assert_eq!(answer(&mut backend), expected, "after {sleep:?}");
    }
}
