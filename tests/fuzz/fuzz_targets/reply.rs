//! A model's reply of any text, in every format of tools and thoughts: joined, its deltas do not depend on how the text was cut.
//!
//! Input: format of tools, format of thoughts, where the prompt left it, then the text.
#![no_main]

use engine_text::reasoning::{self, Opening};
use engine_text::reply::{Delta, Reply, ReplyFormat};
use engine_text::tools;
use libfuzzer_sys::fuzz_target;
use serde_json::{Value, json};

/// Thought, content, and name and arguments of each call.
type Answer = (String, String, Vec<(String, String)>);

fn read<'a>(mut reply: Reply, pieces: impl Iterator<Item = &'a str>) -> Answer {
    let mut deltas = Vec::new();
    pieces.for_each(|piece| reply.feed(piece, &mut deltas));
    reply.finish(&mut deltas);
    let (mut thought, mut content, mut calls) = Answer::default();
    for delta in deltas {
        match delta {
            Delta::Reasoning(text) => thought += &text,
            Delta::Content(text) => content += &text,
            Delta::Call { index, name } => {
                assert_eq!(index as usize, calls.len(), "calls count from 0");
                calls.push((name, String::new()));
            }
            Delta::Arguments { index, fragment } => calls[index as usize].1 += &fragment,
        }
    }
    assert_eq!(reply.calls() as usize, calls.len());
    (thought, content, calls)
}

fuzz_target!(|bytes: &[u8]| {
    let [tool, thought, opening, text @ ..] = bytes else { return };
    let Ok(text) = std::str::from_utf8(text) else { return };
    let format = ReplyFormat {
        tools: tools::FORMATS.get(*tool as usize % (tools::FORMATS.len() + 1)).copied(),
        reasoning: reasoning::FORMATS.get(*thought as usize % (reasoning::FORMATS.len() + 1)),
    };
    let opening = [Opening::Unknown, Opening::Inside, Opening::Outside][*opening as usize % 3];
    let parameters = json!({"type": "object", "properties": {"a": {"type": "integer"}, "b": {"type": "string"}, "c": {"type": "array"}}});
    let tools: Vec<Value> = vec![json!({"type": "function", "function": {"name": "now", "parameters": parameters}})];
    let reply = || Reply::new(format, opening, &tools);
    let whole = read(reply(), [text].into_iter());
    assert_eq!(read(reply(), text.split_inclusive(|_| true)), whole, "by characters");
    let middle = (0..=text.len() / 2).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0);
    let (head, tail) = text.split_at(middle);
    assert_eq!(read(reply(), [head, tail].into_iter()), whole, "in two pieces");
});
