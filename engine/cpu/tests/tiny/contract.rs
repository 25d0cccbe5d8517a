//! What the backend promises besides tokens: refusals that name the trouble, and progress that ends.

use domain::{Fault, FaultKind};
use engine::backend::{Backend, Batch, BlockId, Input, Outcomes, Row, Sample, Slot, Tables};
use engine::request::Sampling;
use engine_cpu::{CpuBackend, CpuError, CpuOptions, KvSize};

use crate::checkpoints::load;
use crate::support::{fixtures, options};

/// One prompt of three tokens in block 0, and what `change` makes of it.
fn batch(change: impl FnOnce(&mut Batch)) -> Batch {
    let sample = Some(Sample { sampling: Sampling::GREEDY, index: 0, state: None });
    let row = Row { slot: Slot(0), input: Input::Tokens(0..3), start: 0, sample, drafts: 0, scored: None, adapter: None };
    let mut batch = Batch { rows: vec![row], tokens: vec![5, 6, 7], ..Batch::default() };
    batch.tables.replace(Slot(0), 0, &[BlockId(0)]);
    change(&mut batch);
    batch
}

fn check_refused(change: impl FnOnce(&mut Batch), says: &str) {
    let options = CpuOptions { kv: KvSize::Blocks(4), slots: 2, batch_tokens: 8, ..options() };
    let mut backend = load(&fixtures().join("models/llama"), &options);
    let error = backend.launch(&batch(change)).expect_err(says).to_string();
    assert!(error.contains(says), "{error:?} does not say {says:?}");
    // The device goes on as if nothing had been asked.
    let ticket = backend.launch(&batch(|_| {})).expect("the batch is within the capacity");
    let mut sampled = Outcomes::default();
    backend.settle(ticket, &mut sampled).expect("nothing fails");
    assert_eq!(sampled.sampled.len(), 1);
}

#[test]
fn a_batch_outside_the_capacity_is_refused() {
    check_refused(|batch| batch.tokens[1] = 100_000, "token 100000 of 761");
    check_refused(|batch| batch.tables.replace(Slot(0), 0, &[BlockId(4)]), "slot 0: block 4 of 4");
    check_refused(|batch| batch.rows[0].slot = Slot(2), "slot 2");
    check_refused(|batch| batch.rows[0].start = 14, "3 tokens from position 14 with 1 blocks");
    check_refused(|batch| batch.rows[0].input = Input::Tokens(1..4), "tokens are not in the batch");
    check_refused(|batch| batch.tables = Tables::default(), "3 tokens from position 0 with 0 blocks");
    let too_many = |batch: &mut Batch| {
        batch.tokens = vec![1; 9];
        batch.rows[0].input = Input::Tokens(0..9);
    };
    check_refused(too_many, "9 tokens in 1 rows");
}

fn check_options(change: impl FnOnce(&mut CpuOptions), says: &str) {
    let assets = engine_assets::open(&fixtures().join("models/llama")).expect("the checkpoint is there");
    let mut options = options();
    change(&mut options);
    match CpuBackend::load(&assets, &options, &mut |_, _| {}) {
        Ok(_) => panic!("taken, but should say {says:?}"),
        Err(error @ (CpuError::Option { .. } | CpuError::KvTooSmall { .. } | CpuError::KvTooLarge { .. })) => {
            let fault = Fault::from(error);
            assert_eq!(fault.kind, FaultKind::Config);
            assert!(fault.to_string().contains(says), "{fault} does not say {says:?}");
        }
        Err(error) => panic!("{error}"),
    }
}

#[test]
fn options_that_cannot_be_are_refused() {
    check_options(|options| options.slots = 0, "slots is 0");
    check_options(|options| options.block_tokens = 5000, "block tokens is 5000");
    check_options(|options| options.threads = Some(0), "threads is 0");
    check_options(|options| options.kv = KvSize::Blocks(0), "KV blocks is 0");
    check_options(|options| options.kv = KvSize::Bytes(1 << 46), "or a cgroup above this process, has");
    check_options(|options| options.kv = KvSize::Bytes(1000), "1000 bytes hold no whole KV block");
}

#[test]
fn progress_rises_to_the_weights_size() {
    let assets = engine_assets::open(&fixtures().join("models/gguf-q8_0/model.gguf")).expect("the checkpoint is there");
    let mut heard = Vec::new();
    CpuBackend::load(&assets, &options(), &mut |done, total| heard.push((done, total))).expect("the checkpoint loads");
    let total = assets.tensors.total_bytes();
    assert!(heard.is_sorted() && heard.iter().all(|(_, of)| *of == total));
    assert_eq!((heard.first(), heard.last()), (Some(&(0, total)), Some(&(total, total))));
}
