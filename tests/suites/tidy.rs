//! Properties of the text: every file says what it is for, no test is switched off, silence gives its reason.
#![forbid(unsafe_code)]

use tests::tree;

#[test]
fn every_source_file_says_what_it_is_for() {
    let root = tree::root();
    let silent: Vec<_> = tree::files(&root, "rs").into_iter().filter(|file| !tree::read(file).starts_with("//! ")).collect();
    assert_eq!(silent, Vec::<std::path::PathBuf>::new(), "begin the file with `//! ` and one sentence");
}

#[test]
fn no_test_is_switched_off_and_no_lint_is_silenced_without_a_reason() {
    // Spelled in two halves, so that this file does not find itself.
    let banned = [concat!("#[ign", "ore"), concat!("#[should_", "panic"), concat!("#[al", "low("), concat!("#![al", "low(")];
    let mut found = Vec::new();
    for file in tree::files(&tree::root(), "rs") {
        for (number, line) in tree::read(&file).lines().enumerate() {
            if banned.iter().any(|word| line.trim_start().starts_with(word)) {
                found.push(format!("{}:{}: {}", file.display(), number + 1, line.trim()));
            }
        }
    }
    assert_eq!(found, Vec::<String>::new(), "use #[expect(lint, reason = \"…\")], or make the test run");
}

#[test]
fn every_crate_and_folder_stands_in_the_architecture() {
    let root = tree::root();
    let text = tree::read(&root.join("docs/ARCHITECTURE.md"));
    let manifest = tree::read(&root.join("Cargo.toml"));
    let members = manifest.split_once("members = [").and_then(|(_, rest)| rest.split_once(']')).expect("a member list").0;
    for member in members.lines().map(|line| line.trim().trim_matches(['"', ','])).filter(|line| !line.is_empty()) {
        assert!(text.contains(&format!("`{member}`")), "docs/ARCHITECTURE.md does not mention `{member}`");
    }
    assert!(text.lines().count() <= 300, "the map is too long to be read");
}

#[test]
fn links_and_paths_in_the_docs_exist() {
    let root = tree::root();
    let mut pages = tree::files(&root.join("docs"), "md");
    pages.push(root.join("README.md"));
    let mut missing = Vec::new();
    for page in pages {
        let text = tree::read(&page);
        for (at, _) in text.match_indices("](") {
            let target = text[at + 2..].split(')').next().unwrap_or_default();
            let path = target.split('#').next().unwrap_or_default();
            let local = !path.is_empty() && !target.contains("://");
            if local && !page.parent().expect("a page lies in a folder").join(path).exists() {
                missing.push(format!("{}: {target}", page.display()));
            }
        }
    }
    assert_eq!(missing, Vec::<String>::new());
}

#[test]
fn every_promised_number_names_a_proof_that_exists() {
    let root = tree::root();
    let text = tree::read(&root.join("docs/SPECIFICATION.md"));
    let rows: Vec<&str> = text.lines().filter(|line| line.starts_with("| ") && !line.starts_with("| what")).collect();
    assert!(rows.len() >= 5, "the table of promises is gone");
    for row in rows {
        let cells: Vec<&str> = row.trim_matches('|').split('|').map(str::trim).collect();
        assert_eq!(cells.len(), 4, "what, bar, shown by, last seen: {row}");
        let proof = cells[2];
        let named = proof.split('`').nth(1).unwrap_or_default().split_whitespace().find(|word| word.contains('/'));
        let exists = named.is_some_and(|path| root.join(path).exists());
        assert!(exists || proof == "not yet proven", "{row}: names no file of the tree");
        assert!(!cells[3].is_empty(), "{row}: no figure and no \"not yet proven\"");
    }
}
