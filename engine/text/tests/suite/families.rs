//! Chat templates of model families against transformers: what it renders for conversations as clients send them, byte for byte.
//! `tests/parity/template_families.py` makes the answers.

use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use engine_text::{ChatRequest, Text};
use serde_json::Value;

use crate::golden::cases;
use crate::template::{list, with_templates};

/// 2026-11-25 09:30 UTC, as the goldens' clock.
const NOW: Duration = Duration::from_secs(1_795_599_000);

fn render(text: &Text, case: &Value) -> Result<String, String> {
    let flag = |key: &str| case[key].as_bool().unwrap_or(false);
    let request = ChatRequest {
        tools: list(case, "tools"),
        documents: list(case, "documents"),
        add_generation_prompt: flag("add_generation_prompt"),
        continue_final_message: flag("continue_final_message"),
        kwargs: case.get("kwargs").and_then(Value::as_object),
        ..ChatRequest::new(list(case, "messages"), SystemTime::UNIX_EPOCH + NOW)
    };
    text.render_chat(&request).map_err(|error| error.to_string())
}

/// What differs, if anything. What a template says by raise_exception must be in the error; how others read is our own affair, and what
/// Python cannot do for its types alone (go through None, write a generator as JSON) may well come out here.
fn difference(rendered: Result<String, String>, golden: &Value) -> Option<String> {
    match (rendered, golden) {
        (Ok(rendered), Value::String(expected)) if rendered == *expected => None,
        (Err(error), Value::Object(expected)) => {
            let said = expected["error"].as_str().expect("an error");
            (expected["raised"] == true && !error.contains(&said.replace('\n', " ")))
                .then(|| format!("{error:?}\n  not {said:?}"))
        }
        (Ok(rendered), Value::String(expected)) => {
            let same = rendered.bytes().zip(expected.bytes()).take_while(|(ours, theirs)| ours == theirs).count();
            let around =
                |text: &str| text[text.floor_char_boundary(same.saturating_sub(40))..].chars().take(120).collect::<String>();
            Some(format!("at byte {same}: {:?}\n  not {:?}", around(&rendered), around(expected)))
        }
        (Ok(_), Value::Object(expected)) if expected["raised"] == false => None,
        (rendered, golden) => {
            let shown: String = golden.to_string().chars().take(200).collect();
            Some(format!("{:?}\n  not {shown}", rendered.map(|text| text.chars().take(200).collect::<String>())))
        }
    }
}

/// Joins a text that is marked as safe with others, which Python then writes with HTML's entities, quotes of the tools' JSON too.
const MARKS_TEXT_AS_SAFE: &str = "meetkai-functionary-medium-v3.1.jinja";

/// Every template of a folder, for every conversation, as `goldens.json` in it says.
fn check(folder: &Path) {
    let conversations = cases(&Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/goldens/conversations.json"));
    let mut differences = Vec::new();
    for golden in cases(&folder.join("goldens.json")) {
        let name = golden["template"].as_str().expect("a file name");
        if name == MARKS_TEXT_AS_SAFE {
            continue;
        }
        let source = std::fs::read_to_string(folder.join(name)).expect("the template");
        let text = with_templates(Some(&source), None);
        for case in &conversations {
            let title = case["name"].as_str().expect("a name");
            if let Some(difference) = difference(render(&text, case), &golden["answers"][title]) {
                differences.push(format!("{name}, {title}: {difference}"));
            }
        }
    }
    assert!(differences.is_empty(), "{} differences\n{}", differences.len(), differences.join("\n"));
}

#[test]
fn families_render_as_transformers_renders_them() {
    check(&Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/goldens/families"));
}

/// Templates that are not ours to commit: `tests/parity/run.sh templates` fetches them and makes their answers.
#[test]
fn templates_of_the_hub_render_as_transformers_renders_them() {
    let Some(folder) = std::env::var_os("TRACKSIDE_TEMPLATES").map(PathBuf::from) else {
        eprintln!("skipped: TRACKSIDE_TEMPLATES names no folder of templates with their goldens.json");
        return;
    };
    check(&folder);
}
