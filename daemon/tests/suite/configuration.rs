//! The configuration: what it means, and every way in which it is wrong, told at once and by key.

use std::time::Duration;

use daemon::config::{Config, Health, OnStop, SlotKind};

#[test]
fn a_full_configuration_means_what_it_says() {
    let yaml = r#"
node: gpu-17
state_dir: /tmp/state
listen: 0.0.0.0:9411
schedulers: ["10.0.0.1:9010", "scheduler-b:9010"]
on_stop: drain
slots:
  - kind: native
    model: builtin
    args: [--threads, 2]
  - kind: command
    name: vllm-a
    command: [vllm, serve, Qwen/Qwen3-8B]
    env: {CUDA_VISIBLE_DEVICES: 0}
    port: 8000
    kv_events: tcp://127.0.0.1:5557
    kv_replay: tcp://127.0.0.1:5657
    stuck_after_s: 300
  - kind: attach
    name: other
    address: 10.0.0.7:8000
    health: none
"#;
    let config = Config::parse(yaml).expect("a good configuration");
    assert_eq!((config.node.as_str(), config.on_stop, config.listen.port()), ("gpu-17", OnStop::Drain, 9411));
    let [native, command, attach] = &config.slots[..] else { panic!("three slots") };
    assert_eq!((native.name.as_str(), native.port), ("engine-0", 8200));
    let SlotKind::Native { model, args, events_port, replay_port } = &native.kind else { panic!("native") };
    assert_eq!((model.as_str(), events_port, replay_port), ("builtin", &5557, &5657));
    assert_eq!(args, &["--threads", "2"], "numbers in a command line are texts");
    let SlotKind::Command { env, foreign, .. } = &command.kind else { panic!("command") };
    assert_eq!(env["CUDA_VISIBLE_DEVICES"], "0");
    assert_eq!(foreign.health, Health::Path("/health".into()));
    assert_eq!(command.policy.stuck_after, Duration::from_secs(300));
    let SlotKind::Attach { foreign } = &attach.kind else { panic!("attach") };
    assert_eq!((foreign.health.clone(), attach.port), (Health::Process, 8000));
}

#[test]
fn an_empty_file_is_an_agent_without_engines() {
    assert_eq!(Config::parse("").expect("nothing is needed").slots, []);
}

#[test]
fn what_an_operator_says_of_gpus_outranks_what_is_shipped() {
    use daemon::xid::Class;
    let yaml = "nvml: {library: /host/lib/libnvidia-ml.so.1, dcgm: Hostname}\nhealth: {mode: observe, xid: {109: note}, levels: {throttled: ok}}";
    let config = Config::parse(yaml).expect("a good configuration");
    assert_eq!(config.nvml.library.as_deref(), Some("/host/lib/libnvidia-ml.so.1".as_ref()));
    assert_eq!(
        (config.health.observe, config.health.xid.class(109), config.health.xid.class(79)),
        (true, Class::Note, Class::Reboot)
    );
    assert_eq!(config.health.levels["throttled"], domain::gpu::Verdict::Ok);
}

#[track_caller]
fn check(yaml: &str, mistakes: &[&str]) {
    assert_eq!(Config::parse(yaml).expect_err("a wrong configuration"), mistakes);
}

#[test]
fn every_mistake_is_told_at_once_by_its_key() {
    check("schedulerz: []", &["schedulerz: is no key here; did you mean schedulers?"]);
    check("on_stop: kill", &["on_stop: \"kill\" is none of leave, drain"]);
    check("listen: localhost", &["listen: \"localhost\" is not an address like 127.0.0.1:9410"]);
    check("schedulers: [a, 'b:x']", &["schedulers[0]: \"a\" is not host:port", "schedulers[1]: \"b:x\" is not host:port"]);
    check("node: ../x", &["node: \"../x\" is no name: letters, digits, '-', '_' and '.', at most 64"]);
    check("- 1", &["the file holds a list, not keys with values"]);
    check("slots: {a: 1}", &["slots: is a table, not a list"]);
    check("slots: [7]", &["slots[0]: is 7, not keys with values"]);
    check("slots: [{}]", &["slots[0].kind: is missing; give native, command or attach"]);
    check("slots: [{kind: vllm}]", &["slots[0].kind: \"vllm\" is none of native, command, attach"]);
    check(
        "slots: [{kind: native, modle: x, port: 70000}]",
        &[
            "slots[0].port: 70000 is not in 0..=65535",
            "slots[0].model: is missing; give a folder, a .gguf file or builtin",
            "slots[0].modle: is no key here; did you mean model?",
        ],
    );
    check(
        "slots: [{kind: command, port: 0, health: up, kv_events: '127.0.0.1:1', args: [x]}]",
        &[
            "slots[0].port: 0 is not in 1..=65535",
            "slots[0].command: is missing; give a program and its arguments",
            "slots[0].health: \"up\" is neither a path like /health nor none",
            "slots[0].kv_events: \"127.0.0.1:1\" is no endpoint like tcp://127.0.0.1:5557",
            "slots[0].args: is no key here; known: kind, name, role, dp_rank, model_files, gpus, stuck_after_s, \
             silent_after_s, ready_within_s, drain_within_s, term_grace_s, host, port, command, env, health, kv_events, kv_replay",
        ],
    );
    check(
        "slots: [{kind: native, model: m, name: a, port: 1}, {kind: native, model: m, name: a, port: 1}]",
        &["slots[1].name: \"a\" names two slots", "slots[1].port: 1 is the port of a too"],
    );
    check("nvml: {library: libnvidia-ml.so.1}", &["nvml.library: \"libnvidia-ml.so.1\" is not an absolute path"]);
    check("nvml: {dcgm: node}", &["nvml.dcgm: \"node\" is none of hostname, Hostname, none"]);
    let classes = "note, application, killed, warn, unexpected, link, drain, reset, reboot, service";
    check(
        "health: {xid: {79: ignore, x: note}}",
        &[&format!("health.xid.79: \"ignore\" is none of {classes}"), "health.xid: \"x\" is no number of an XID"],
    );
    check(
        "health: {levels: {throttled: bad}}",
        &["health.levels.throttled: \"bad\" is none of ok, degraded, draining, quarantined"],
    );
    check(
        "slots: [{kind: attach, address: '1.2.3.4:5', gpus: [first]}]",
        &["slots[0].gpus[0]: \"first\" is neither a position like 0 nor a UUID like GPU-…"],
    );
    check("slots: [{kind: attach}]", &["slots[0].address: is missing; give where the engine listens"]);
}

#[test]
fn what_is_no_yaml_is_one_mistake_with_its_place() {
    let mistakes = Config::parse("slots: [\n  - x: {").expect_err("no YAML");
    assert_eq!(mistakes.len(), 1);
    assert!(mistakes[0].starts_with("not YAML: ") && mistakes[0].contains("line"), "{mistakes:?}");
}

#[test]
fn a_file_that_is_not_there_says_which() {
    let fault = Config::read("/nowhere/node.yaml".as_ref()).expect_err("no file");
    assert!(fault.to_string().starts_with("cannot read the configuration /nowhere/node.yaml: "), "{fault}");
}
