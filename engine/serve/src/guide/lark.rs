//! Structural tags in llguidance's Lark dialect. Special tokens within the text of a tag are written as what they are: no text is a
//! special token, so a grammar that spelled one out could never be satisfied.

use engine_text::{Surface, Text};

use super::grammar::{quoted, with_space};
use super::spec::Space;
use super::structural::{Often, Part, Tag};

/// The grammar of a tree.
pub fn of(part: &Part, space: &Space, text: &Text) -> String {
    let mut lark = Lark { rules: String::new(), count: 0, space, text };
    let start = lark.part(part);
    format!("start: {start}\nTEXT: /(.|\\n)*/\n{}", lark.rules)
}

struct Lark<'a> {
    rules: String,
    count: usize,
    space: &'a Space,
    text: &'a Text,
}

/// A stretch of a tag's text.
enum Piece<'a> {
    Text(&'a str),
    Special(u32),
}

impl Lark<'_> {
    /// An expression for a part; what it needs is put among the rules.
    fn part(&mut self, part: &Part) -> String {
        match part {
            Part::Text(text) => self.literal(text),
            Part::Json(schema) => self.rule("json", "", &format!("%json {}", with_space(schema, self.space))),
            Part::Regex(regex) => self.terminal(&format!("/{}/", regex.replace('/', "\\/"))),
            Part::Any => "TEXT".to_owned(),
            Part::Sequence(parts) => {
                let parts: Vec<String> = parts.iter().map(|part| self.part(part)).collect();
                format!("({})", parts.join(" "))
            }
            Part::Or(parts) => {
                let parts: Vec<String> = parts.iter().map(|part| self.part(part)).collect();
                format!("({})", parts.join(" | "))
            }
            Part::Tag(tag) => format!("({})", self.tag(&tag.begin, tag)),
            Part::Triggered { triggers, tags, often } => self.triggered(triggers, tags, *often),
            Part::Separated { separator, tags, often } => {
                let tags: Vec<String> = tags.iter().map(|tag| self.tag(&tag.begin, tag)).collect();
                let tag = self.rule("tag", "", &tags.join(" | "));
                let more = if often.stop_after_first { String::new() } else { format!(" ({} {tag})*", self.literal(separator)) };
                format!("({tag}{more}){}", if often.at_least_one { "" } else { "?" })
            }
        }
    }

    /// What follows of a tag whose beginning, but for `begin`, is written.
    fn tag(&mut self, begin: &str, tag: &Tag) -> String {
        let begin = self.literal(begin);
        let content = match (&tag.content, &tag.ends[..]) {
            // Text up to its end, as short as can be.
            (Part::Any, [end]) if !end.is_empty() => self.up_to(end),
            _ => {
                let content = self.part(&tag.content);
                let ends: Vec<String> = tag.ends.iter().map(|end| self.literal(end)).collect();
                format!("{content} ({})", ends.join(" | "))
            }
        };
        format!("{begin} {content}")
    }

    fn triggered(&mut self, triggers: &[String], tags: &[Tag], often: Often) -> String {
        let mut items = Vec::new();
        for trigger in triggers {
            // A tag belongs to the first trigger that it begins with.
            let first = |tag: &&Tag| triggers.iter().find(|trigger| tag.begin.starts_with(trigger.as_str())) == Some(trigger);
            let behind: Vec<String> = tags.iter().filter(first).map(|tag| self.tag(&tag.begin[trigger.len()..], tag)).collect();
            if !behind.is_empty() {
                items.push(format!("{} ({})", self.up_to(trigger), behind.join(" | ")));
            }
        }
        let item = self.rule("tag", "", &items.join(" | "));
        match (often.at_least_one, often.stop_after_first) {
            (false, false) => format!("{item}* TEXT"),
            (true, false) => format!("{item}+ TEXT"),
            (false, true) => format!("({item} | TEXT)"),
            (true, true) => item,
        }
    }

    /// Free text that ends with `end`, which does not occur in it before.
    fn up_to(&mut self, end: &str) -> String {
        match self.pieces(end).first() {
            Some(Piece::Special(_)) => format!("TEXT {}", self.literal(end)),
            _ => self.rule("text", "[lazy]", &format!("TEXT {}", quoted(end))),
        }
    }

    fn literal(&self, text: &str) -> String {
        let pieces = self.pieces(text).into_iter().map(|piece| match piece {
            Piece::Text(text) => quoted(text),
            Piece::Special(id) => format!("<[{id}]>"),
        });
        let pieces: Vec<String> = pieces.collect();
        if pieces.is_empty() { "\"\"".to_owned() } else { pieces.join(" ") }
    }

    /// The text between special tokens, and these.
    fn pieces<'t>(&self, text: &'t str) -> Vec<Piece<'t>> {
        let (mut pieces, mut rest) = (Vec::new(), text);
        for id in self.text.encode(text, false).unwrap_or_default() {
            let Surface::Special(name) = self.text.surface(id) else { continue };
            let Some((before, behind)) = rest.split_once(name.as_str()) else { continue };
            pieces.extend((!before.is_empty()).then_some(Piece::Text(before)));
            pieces.push(Piece::Special(id));
            rest = behind;
        }
        pieces.extend((!rest.is_empty()).then_some(Piece::Text(rest)));
        pieces
    }

    /// Adds a rule and gives its name.
    fn rule(&mut self, kind: &str, attributes: &str, body: &str) -> String {
        self.count += 1;
        let name = format!("{kind}_{}", self.count);
        self.rules += &format!("{name}{attributes}: {body}\n");
        name
    }

    fn terminal(&mut self, body: &str) -> String {
        self.rule("REGEX", "", body)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::super::structural::read;
    use super::*;

    fn grammar(form: Value) -> String {
        let scripted = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/fixtures/models/scripted/model.gguf");
        let assets = engine_assets::open(std::path::Path::new(scripted)).expect("a good model");
        let text = Text::new(&assets.text).expect("a good tokenizer");
        of(&read("t", &form).expect("a good form"), &Space::None, &text)
    }

    #[test]
    fn special_tokens_are_no_text() {
        let form = json!({"format": {"type": "tag", "begin": "a<|user|>b", "content": {"type": "any_text"}, "end": "<|end|>"}});
        assert!(grammar(form).starts_with("start: (\"a\" <[260]> \"b\" TEXT <[257]>)\n"));
    }
}
