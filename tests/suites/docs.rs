//! What the documents and the deployment files show is read by the parsers that will read it.
#![forbid(unsafe_code)]

use tests::tree;

/// Blocks of YAML in a page that begin with a comment of this name.
fn examples(page: &str, name: &str) -> Vec<String> {
    let blocks = page.split("```yaml\n").skip(1).filter_map(|rest| rest.split("```").next());
    blocks.filter(|block| block.starts_with(&format!("# {name}\n"))).map(str::to_owned).collect()
}

/// The text below `key: |` in a ConfigMap, without its indentation.
fn embedded(manifest: &str, key: &str) -> String {
    let lines = manifest.lines().skip_while(|line| line.trim() != format!("{key}: |")).skip(1);
    lines.take_while(|line| line.starts_with("    ")).map(|line| format!("{}\n", &line[4..])).collect()
}

#[test]
fn examples_of_the_configuration_are_valid() {
    let page = tree::read(&tree::root().join("docs/configuration.md"));
    let (schedulers, nodes) = (examples(&page, "scheduler.yaml"), examples(&page, "node.yaml"));
    assert_eq!((schedulers.len(), nodes.len()), (1, 1));
    let shown = scheduler::Config::parse(&schedulers[0], "the page").expect("the page's scheduler.yaml");
    assert_eq!(shown, scheduler::Config::default(), "the page says that these are the defaults");
    daemon::config::Config::parse(&nodes[0]).expect("the page's node.yaml");
}

#[test]
fn deployed_configurations_are_valid() {
    let deploy = tree::root().join("deploy/kubernetes");
    let node = embedded(&tree::read(&deploy.join("node.yaml")), "node.yaml");
    assert_eq!(daemon::config::Config::parse(&node).expect("the DaemonSet's node.yaml").slots.len(), 1);
    let scheduler = embedded(&tree::read(&deploy.join("scheduler.yaml")), "scheduler.yaml");
    scheduler::Config::parse(&scheduler, "the ConfigMap").expect("the Deployment's scheduler.yaml");
}

#[test]
fn units_and_exit_codes_agree() {
    let root = tree::root();
    for unit in ["systemd/trackside-node.service", "systemd/trackside-scheduler.service"] {
        let text = tree::read(&root.join(unit));
        let wanted = [domain::FaultKind::Usage, domain::FaultKind::Config].map(|kind| kind.exit_code().to_string()).join(" ");
        assert!(text.contains(&format!("RestartPreventExitStatus={wanted}\n")), "{unit}");
    }
}
