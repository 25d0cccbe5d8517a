//! FunctionGemma: `<start_function_call>call:f{a:<escape>text<escape>,b:3}<end_function_call>`.

use serde_json::{Map, Value};

use super::ToolFormat;
use super::whole::{Schemas, Whole};

const ESCAPE: &str = "<escape>";

pub(super) const FORMAT: ToolFormat = ToolFormat {
    names: &["functiongemma"],
    opens: &["<start_function_call>"],
    bare: &[],
    signs: &[&["<start_function_call>"]],
    region: |tools| Box::new(Whole::new("<end_function_call>", read, tools)),
    envelope: None,
    short_ids: false,
};

fn read(inside: &str, schemas: &Schemas) -> Option<(String, Map<String, Value>)> {
    let (name, rest) = inside.trim().strip_prefix("call:")?.split_once('{')?;
    let mut rest = rest.strip_suffix('}').unwrap_or(rest);
    let mut arguments = Map::new();
    while !rest.trim().is_empty() {
        let (key, behind) = rest.split_once(':')?;
        let key = key.trim_matches(|c: char| c == ',' || c.is_whitespace());
        let value = match behind.strip_prefix(ESCAPE) {
            Some(text) => {
                let (text, behind) = text.split_once(ESCAPE).unwrap_or((text, ""));
                rest = behind;
                // The tool's schema decides; without one the text's own looks do, as in vLLM.
                schemas.value(name, key, text)
            }
            None => {
                let (text, behind) = behind.split_at(bare_len(behind));
                rest = behind;
                schemas.value(name, key, text)
            }
        };
        arguments.insert(key.to_owned(), value);
        rest = rest.trim_start_matches(|c: char| c == ',' || c.is_whitespace());
    }
    Some((name.trim().to_owned(), arguments))
}

/// How far a value without escapes goes: to the comma that is not within brackets.
fn bare_len(text: &str) -> usize {
    let mut depth = 0u32;
    for (at, c) in text.char_indices() {
        match c {
            '[' | '{' => depth += 1,
            ']' | '}' => depth = depth.saturating_sub(1),
            ',' if depth == 0 => return at,
            _ => {}
        }
    }
    text.len()
}
