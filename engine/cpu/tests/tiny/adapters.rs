//! LoRA adapters beside each other in one batch: each request answers as transformers does with its adapter merged, or with none.

use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Instant;

use domain::{AdapterKey, ExtraKeys};
use engine::backend::{AdapterSlot, Backend, Batch, BlockId, Input, Row, Slot};
use engine::config::Config;
use engine::handle::{AdapterError, Handle};
use engine::request::{FinishReason, FinishRules, NewRequest, Output, Sampling};
use engine::step::{Activity, Engine, Ports};
use engine_assets::Adapter;
use engine_cpu::CpuOptions;

use crate::checkpoints::load;
use crate::support::{Golden, Request, fixtures, generate, options};

fn folder(name: &str) -> PathBuf {
    fixtures().join("adapters").join(name)
}

fn adapter(name: &str) -> Adapter {
    let base = engine_assets::open(&fixtures().join("models/qwen3")).unwrap_or_else(|error| panic!("{error}"));
    Adapter::open(&folder(name), &base, 64).unwrap_or_else(|error| panic!("{error}"))
}

fn goldens(adapters: &[(Option<u32>, PathBuf)]) -> Vec<(Option<AdapterSlot>, Golden)> {
    adapters.iter().map(|(slot, folder)| (slot.map(AdapterSlot), Golden::read(&folder.join("golden.json")))).collect()
}

fn check(backend: &mut dyn Backend, goldens: &[(Option<AdapterSlot>, Golden)], chunk: usize) {
    // Round-robin, so that neighbours in the batch have different adapters.
    let longest = goldens.iter().map(|(_, golden)| golden.cases.len()).max().unwrap_or(0);
    let order =
        (0..longest).flat_map(|number| goldens.iter().filter_map(move |(slot, golden)| Some((*slot, golden.cases.get(number)?))));
    let cases: Vec<_> = order.collect();
    let requests: Vec<Request<'_>> = cases
        .iter()
        .map(|(adapter, case)| Request { prompt: &case.prompt_ids, tokens: case.output_ids.len(), adapter: *adapter })
        .collect();
    for ((adapter, case), got) in cases.iter().zip(generate(backend, &requests, chunk)) {
        assert_eq!(got, case.output_ids, "{adapter:?}, prompt {:?}, smallest gap {}", case.prompt, case.min_gap);
    }
}

#[test]
fn several_adapters_share_a_batch() {
    let mut backend = load(&fixtures().join("models/qwen3"), &CpuOptions { threads: Some(2), ..options() });
    let base = (None, fixtures().join("models/qwen3"));
    backend.set_adapter(AdapterSlot(0), Some(&adapter("qwen3-all"))).expect("it fits");
    backend.set_adapter(AdapterSlot(2), Some(&adapter("qwen3-rslora"))).expect("it fits");
    let all = goldens(&[base.clone(), (Some(0), folder("qwen3-all")), (Some(2), folder("qwen3-rslora"))]);
    for chunk in [usize::MAX, 7] {
        check(&mut backend, &all, chunk);
    }
    // Another one in the same place, and one gone: nobody else notices.
    backend.set_adapter(AdapterSlot(0), Some(&adapter("qwen3-rslora"))).expect("it fits");
    backend.set_adapter(AdapterSlot(2), None).expect("it can go");
    check(&mut backend, &goldens(&[(Some(0), folder("qwen3-rslora")), base]), usize::MAX);

    let row = Row {
        slot: Slot(0),
        adapter: Some(AdapterSlot(2)),
        input: Input::Tokens(0..1),
        start: 0,
        sample: None,
        drafts: 0,
        scored: None,
    };
    let mut batch = Batch { rows: vec![row], tokens: vec![5], ..Batch::default() };
    batch.tables.replace(Slot(0), 0, &[BlockId(0)]);
    let error = backend.launch(&batch).expect_err("its adapter is gone").to_string();
    assert!(error.contains("no adapter is loaded in slot 2"), "{error}");
}

#[test]
fn an_adapter_of_another_model_leaves_nothing_behind() {
    let mut backend = load(&fixtures().join("models/llama"), &options());
    let error = backend.set_adapter(AdapterSlot(0), Some(&adapter("qwen3-all"))).expect_err("it is of another size").to_string();
    assert!(error.contains("q_proj") || error.contains("modules are in this model"), "{error}");
    let golden = [(None, Golden::read(&fixtures().join("models/llama/golden.json")))];
    check(&mut backend, &golden, usize::MAX);
}

type Outputs = Arc<Mutex<Vec<Output>>>;

pub fn key(name: &str) -> AdapterKey {
    AdapterKey { name: name.into(), path: format!("/adapters/{name}").into() }
}

fn submit(handle: &Handle, prompt: &[u32], tokens: usize, adapter: Option<&str>) -> Outputs {
    let outputs = Outputs::default();
    let sink = Arc::clone(&outputs);
    let request = NewRequest {
        prompt: prompt.into(),
        extra: ExtraKeys { adapter: adapter.map(key), ..ExtraKeys::default() },
        sampling: Sampling::GREEDY,
        extras: None,
        priority: 0,
        mask: None,
        finish: FinishRules { tokens_max: tokens as u32, ..FinishRules::default() },
        kv_transfer: None,
        remote_kv: false,
        arrived: Instant::now(),
        sink: Box::new(move |output| {
            sink.lock().expect("nobody panics").push(output);
            true
        }),
    };
    handle.submit(request).expect("there is room");
    outputs
}

fn tokens(outputs: &Outputs) -> Vec<u32> {
    let outputs = outputs.lock().expect("nobody panics");
    let token = |output: &Output| if let Output::Token { token, .. } = output { Some(*token) } else { None };
    outputs.iter().filter_map(token).collect()
}

pub fn load_into(handle: &Handle, engine: &mut Engine, name: &str) -> Result<(), AdapterError> {
    let answer = Arc::new(Mutex::new(None));
    let told = Arc::clone(&answer);
    let reply = move |result| *told.lock().expect("nobody panics") = Some(result);
    handle.load_adapter(key(name), Arc::new(adapter(name)), false, reply).expect("the queue has room");
    engine.step().expect("the device works");
    let result = answer.lock().expect("nobody panics").take();
    result.expect("it is answered within a step")
}

fn unload_from(handle: &Handle, engine: &mut Engine, name: &str) -> bool {
    let answer = Arc::new(Mutex::new(None));
    let told = Arc::clone(&answer);
    handle
        .unload_adapter(name.into(), move |found| *told.lock().expect("nobody panics") = Some(found))
        .expect("the queue has room");
    engine.step().expect("the device works");
    let found = answer.lock().expect("nobody panics").take();
    found.expect("it is answered within a step")
}

/// Requests name adapters, share prompts and with them cached blocks only with their like; an adapter comes and goes between steps.
#[test]
fn adapters_come_and_go_while_requests_run() {
    let backend = load(&fixtures().join("models/qwen3"), &options());
    let config = Config { adapters_max: 2, ..Config::for_device(&backend.capacity()) };
    let (mut engine, handle) =
        Engine::new(Box::new(backend), config, Ports::new(Instant::now)).expect("the limits suit the device");
    load_into(&handle, &mut engine, "qwen3-all").expect("it fits");
    load_into(&handle, &mut engine, "qwen3-rslora").expect("it fits");
    assert_eq!(load_into(&handle, &mut engine, "qwen3-all"), Err(AdapterError::NameTaken("qwen3-all".to_owned())));

    let golden = Golden::read(&folder("qwen3-all").join("golden.json"));
    let case = golden.cases.iter().max_by_key(|case| case.prompt_ids.len()).expect("there are cases");
    let all = submit(&handle, &case.prompt_ids, case.output_ids.len(), Some("qwen3-all"));
    for _ in 0..5 {
        engine.step().expect("the device works");
    }
    // The request that runs goes on; the next one does not find the adapter, and its place is not free yet.
    assert!(unload_from(&handle, &mut engine, "qwen3-all") && !unload_from(&handle, &mut engine, "qwen3-all"));
    assert_eq!(load_into(&handle, &mut engine, "qwen3-all"), Err(AdapterError::Full { loaded: 2, loaded_max: 2 }));
    let late = submit(&handle, &case.prompt_ids, 4, Some("qwen3-all"));
    let plain = submit(&handle, &case.prompt_ids, 8, None);
    let other = submit(&handle, &case.prompt_ids, 8, Some("qwen3-rslora"));
    while engine.step().expect("the device works") == Activity::Busy {}
    assert_eq!(tokens(&all), case.output_ids);
    let outputs = late.lock().expect("nobody panics").clone();
    let [Output::Finished(finished)] = &outputs[..] else { panic!("{outputs:?}") };
    assert_eq!(finished.reason, FinishReason::AdapterGone("qwen3-all".into()));
    // One prompt, three adapters: had they shared blocks, the answers would have met.
    assert!(
        tokens(&plain) != tokens(&other)
            && tokens(&plain)[..] != case.output_ids[..8]
            && tokens(&other)[..] != case.output_ids[..8]
    );
    assert_eq!(handle.stats().prefix_hit_tokens, 0, "nobody shares with another adapter");

    load_into(&handle, &mut engine, "qwen3-all").expect("its place is free now");
    let again = submit(&handle, &case.prompt_ids, case.output_ids.len(), Some("qwen3-all"));
    while engine.step().expect("the device works") == Activity::Busy {}
    assert_eq!(tokens(&again), case.output_ids);
    assert_eq!(handle.stats().prefix_hit_tokens, 0, "what it had computed went with it");
    engine.check();
}
