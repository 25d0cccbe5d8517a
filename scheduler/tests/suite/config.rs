//! The configuration: what it takes, and what it says of what it does not take.

use std::time::Duration;

use domain::FaultKind;
use scheduler::Config;
use scheduler::score::Weights;

/// The mistakes told of a text, one a line, without the remedy at the end.
fn mistakes(text: &str) -> Vec<String> {
    let fault = Config::parse(text, "f.yaml").expect_err("mistakes");
    assert_eq!(fault.kind, FaultKind::Config);
    fault.what.lines().map(str::to_owned).collect()
}

#[test]
fn an_empty_file_is_the_default() {
    for text in ["", "# nothing\n", "name:\n"] {
        assert_eq!(Config::parse(text, "f.yaml").unwrap(), Config::default(), "{text:?}");
    }
}

#[test]
fn every_key_can_be_set() {
    let text = "\
name: east
listen:
  gateway: 0.0.0.0:80
  nodes: '[::1]:0'
  admin: 127.0.0.1:1
weights: {prefix: 1, kv: 0.5, queue: 0}
in_flight_max: 7
body_bytes_max: 4096
connect_timeout_ms: 5
drain_timeout_ms: 0
report_interval_ms: 100
debug_headers: true
";
    let config = Config::parse(text, "f.yaml").unwrap();
    assert_eq!(config.name, "east");
    assert_eq!(config.listen.gateway, "0.0.0.0:80".parse().unwrap());
    assert_eq!(config.listen.nodes, "[::1]:0".parse().unwrap());
    assert_eq!(config.listen.admin, "127.0.0.1:1".parse().unwrap());
    assert_eq!(config.policy.weights, Weights { prefix: 1.0, kv: 0.5, queue: 0.0 });
    assert_eq!(config.policy.limits.in_flight_max, 7);
    assert_eq!(config.body_bytes_max, 4096);
    assert_eq!(
        [config.connect_timeout, config.drain_timeout, config.report_interval],
        [Duration::from_millis(5), Duration::ZERO, Duration::from_millis(100)]
    );
    assert!(config.debug_headers);
}

#[test]
fn all_mistakes_are_told_at_once_each_with_its_line() {
    let text = "\
nmae: x
listen:
  gatway: 127.0.0.1:1
  nodes: here
  admin: 9090
weights:
  prefix: -1
  kv: many
  quue: 2
in_flight_max: 0
drain_timeout_ms: 1.5
debug_headers: maybe
zzzzzzzzzzzz: 1
name: a/b
";
    let expected = [
        "f.yaml:1: `nmae` is no key; did you mean `name`?",
        "f.yaml:3: `listen.gatway` is no key; did you mean `listen.gateway`?",
        "f.yaml:4: `listen.nodes` is \"here\", not an address such as 127.0.0.1:9010",
        "f.yaml:5: `listen.admin` is 9090, not an address such as 127.0.0.1:9090",
        "f.yaml:7: `weights.prefix` is -1; a weight goes from 0 to 1000",
        "f.yaml:8: `weights.kv` is the text \"many\", not a number",
        "f.yaml:9: `weights.quue` is no key; did you mean `weights.queue`?",
        "f.yaml:10: `in_flight_max` is 0; it goes from 1 to 1000000",
        "f.yaml:11: `drain_timeout_ms` is 1.5, not a whole number from 0 to 3600000",
        "f.yaml:12: `debug_headers` is the text \"maybe\", not true or false",
        "f.yaml:13: `zzzzzzzzzzzz` is no key; the keys here are name, listen, weights, in_flight_max, body_bytes_max, \
         connect_timeout_ms, drain_timeout_ms, report_interval_ms, debug_headers",
        "f.yaml:14: `name` is \"a/b\"; a replica's name has 1 to 63 letters, digits, '-', '_' and '.'",
    ];
    assert_eq!(mistakes(text), expected);
}

#[test]
fn what_is_not_a_table_of_keys_is_said_to_be_none() {
    let cases = [
        ("- a\n", "f.yaml:1: the file holds a list, not keys with values"),
        ("hello", "f.yaml:1: the file holds the text \"hello\", not keys with values"),
        ("listen: 8000\n", "f.yaml:1: `listen` is 8000, not a table of keys"),
        ("weights: [1, 2]\n", "f.yaml:1: `weights` is a list, not a table of keys"),
    ];
    for (text, expected) in cases {
        assert_eq!(mistakes(text), [expected], "{text:?}");
    }
    for broken in ["name: [", "name: 'x", "a: b: c", "name: x\nname: y\n"] {
        let told = mistakes(broken).join(" ");
        assert!(told.starts_with("f.yaml: ") && told.contains("line"), "{broken:?}: {told}");
    }
}

#[test]
fn a_file_that_is_not_there_is_named() {
    let fault = Config::load(std::path::Path::new("/nowhere/f.yaml")).expect_err("no such file");
    assert!(fault.to_string().starts_with("cannot read the configuration /nowhere/f.yaml: "), "{fault}");
}
