//! Calls as JSON objects behind a marker, alone or in a list. What differs is data: a format like these is a constant here.

use serde_json::Value;

use super::object::{Grown, Object, Rules};
use super::{Calls, Envelope, Region, Step, ToolFormat};
use crate::marker::{Found, Search};

/// How the objects stand.
#[derive(Debug)]
pub(super) struct Shape {
    /// In a list; else one by one.
    list: bool,
    /// One by one without a list.
    single: bool,
    /// What ends the region, if something does.
    close: &'static str,
    /// What stands between objects that are no list.
    separator: Option<char>,
    rules: Rules,
}

const MARKED: Rules = Rules { arguments_required: false, known_keys_only: false };
const BARE: Rules = Rules { arguments_required: true, known_keys_only: true };

macro_rules! format {
    ($names:expr, $opens:expr, $bare:expr, $signs:expr, $shape:expr) => {
        format!($names, $opens, $bare, $signs, $shape, None)
    };
    ($names:expr, $opens:expr, $bare:expr, $signs:expr, $shape:expr, $envelope:expr) => {
        ToolFormat {
            names: $names,
            opens: $opens,
            bare: $bare,
            signs: $signs,
            region: |_: &[Value]| {
                static SHAPE: Shape = $shape;
                Box::new(Listed::new(&SHAPE))
            },
            envelope: $envelope,
            short_ids: false,
        }
    };
}

/// Hermes 2 Pro, Qwen2.5 and Qwen3, Granite 4: `<tool_call>{…}</tool_call>`, again for each call.
pub(super) const HERMES: ToolFormat = format!(
    &["hermes", "qwen3_json", "granite4", "longcat"],
    &["<tool_call>", "<longcat_tool_call>"],
    &[],
    &[&["<tool_call>"]],
    Shape { list: true, single: true, close: "</tool_call>", separator: None, rules: MARKED },
    Some(Envelope {
        trigger: "<tool_call>",
        before: "<tool_call>\n{\"name\": ",
        between: ", \"arguments\": ",
        behind: "}\n</tool_call>",
    })
);

/// Llama 3.1 and later: the object alone, with or without `<|python_tag|>`, more behind semicolons.
pub(super) const LLAMA3_JSON: ToolFormat = format!(
    &["llama3_json", "llama4_json"],
    &["<|python_tag|>"],
    &['{'],
    &[&["<|python_tag|>"], &["<|start_header_id|>", "\"parameters\": "]],
    Shape { list: false, single: true, close: "", separator: Some(';'), rules: BARE },
    Some(Envelope { trigger: "{\"name\": ", before: "{\"name\": ", between: ", \"parameters\": ", behind: "}" })
);

/// Granite 3: a list behind `<|tool_call|>` (3.0) or `<tool_call>` (3.1).
pub(super) const GRANITE: ToolFormat = format!(
    &["granite"],
    &["<|tool_call|>", "<tool_call>"],
    &[],
    &[&["<|tool_call|>", "<|start_of_role|>"]],
    Shape { list: true, single: true, close: "", separator: None, rules: MARKED }
);

/// Granite 20B function calling: `<function_call> {…}`, again for each call.
pub(super) const GRANITE_20B_FC: ToolFormat = format!(
    &["granite-20b-fc"],
    &["<function_call>"],
    &[],
    &[&["<function_call>"]],
    Shape { list: false, single: true, close: "", separator: None, rules: MARKED }
);

/// Phi-4 mini: `functools[{…}, …]`.
pub(super) const PHI4_MINI: ToolFormat = format!(
    &["phi4_mini_json"],
    &["functools"],
    &[],
    &[&["functools["]],
    Shape { list: true, single: false, close: "", separator: None, rules: MARKED }
);

/// Jamba and Hunyuan: a list between `<tool_calls>` and `</tool_calls>`.
pub(super) const JAMBA: ToolFormat = format!(
    &["jamba", "hunyuan_a13b"],
    &["<tool_calls>"],
    &[],
    &[&["<tool_calls>"]],
    Shape { list: true, single: true, close: "</tool_calls>", separator: None, rules: MARKED }
);

/// InternLM 2: `<|action_start|><|plugin|>{…}<|action_end|>`.
pub(super) const INTERNLM: ToolFormat = format!(
    &["internlm"],
    &["<|action_start|><|plugin|>", "<|action_start|> <|plugin|>"],
    &[],
    &[&["<|action_start|>"]],
    Shape { list: false, single: true, close: "<|action_end|>", separator: None, rules: MARKED }
);

/// What the schema of `tool_choice: required` makes a model write.
pub(super) const REQUIRED: ToolFormat =
    format!(&["required"], &[], &['['], &[], Shape { list: true, single: false, close: "", separator: None, rules: MARKED });

/// Mistral's list, behind its marker.
pub(super) static MISTRAL_LIST: Shape = Shape { list: true, single: true, close: "", separator: None, rules: MARKED };

/// A region of such calls.
pub(super) struct Listed {
    shape: &'static Shape,
    at: At,
    /// The objects stand in a list.
    listed: bool,
    object: Object,
    /// What there is of the closing marker.
    closing: String,
    scratch: String,
}

enum At {
    Begin,
    Object,
    /// Between the objects of a list.
    Next,
    /// Behind the last object, or behind one of several without a list.
    Close,
    /// Arguments that are no JSON: all up to the end of the region is theirs.
    Torn(Search),
}

impl Listed {
    pub fn new(shape: &'static Shape) -> Self {
        let object = Object::new(shape.rules);
        Self { shape, at: At::Begin, listed: false, object, closing: String::new(), scratch: String::new() }
    }

    fn begin_object(&mut self, c: char, calls: &mut Calls<'_>) -> Step {
        self.object = Object::new(self.shape.rules);
        self.at = At::Object;
        self.object(c, calls)
    }

    fn object(&mut self, c: char, calls: &mut Calls<'_>) -> Step {
        match self.object.push(c, calls) {
            Grown::More => Step::More,
            Grown::Broken => Step::Broken,
            Grown::Cut => Step::Back,
            Grown::Done => {
                self.at = if self.listed { At::Next } else { At::Close };
                if self.ends_here() { Step::Done } else { Step::More }
            }
            Grown::Torn => {
                calls.argument(c);
                self.at = At::Torn(Search::new([self.shape.close]));
                Step::More
            }
        }
    }

    /// Nothing can follow that belongs to the region.
    fn ends_here(&self) -> bool {
        matches!(self.at, At::Close) && self.shape.close.is_empty() && self.shape.separator.is_none()
    }

    fn close(&mut self, c: char) -> Step {
        if self.closing.is_empty() {
            if c.is_whitespace() {
                return Step::More;
            }
            if self.shape.separator == Some(c) {
                self.at = At::Begin;
                return Step::More;
            }
        }
        self.closing.push(c);
        if self.closing == self.shape.close {
            return Step::Done;
        }
        if self.shape.close.starts_with(self.closing.as_str()) { Step::More } else { Step::Broken }
    }
}

impl Region for Listed {
    fn begin(&mut self, _: &'static str) {
        *self = Self::new(self.shape);
    }

    fn push(&mut self, c: char, calls: &mut Calls<'_>) -> Step {
        match &mut self.at {
            At::Begin | At::Next | At::Close if c.is_whitespace() && self.closing.is_empty() => Step::More,
            At::Begin => match c {
                '{' if self.shape.single || self.listed => self.begin_object(c, calls),
                '[' if self.shape.list && !self.listed => {
                    self.listed = true;
                    Step::More
                }
                _ => Step::Broken,
            },
            At::Object => self.object(c, calls),
            At::Next => match c {
                ',' => {
                    self.at = At::Begin;
                    Step::More
                }
                ']' => {
                    self.at = At::Close;
                    self.listed = false;
                    if self.shape.close.is_empty() { Step::Done } else { Step::More }
                }
                _ => Step::Broken,
            },
            At::Close => self.close(c),
            At::Torn(search) => match search.push(c, &mut self.scratch) {
                Found::Nothing => Step::More,
                Found::Text(text) => {
                    calls.arguments(text);
                    Step::More
                }
                Found::Marker(text, _) => {
                    calls.arguments(text);
                    Step::Done
                }
            },
        }
    }

    fn finish(&mut self, calls: &mut Calls<'_>) -> bool {
        match &self.at {
            At::Begin => self.listed && *calls.count > 0,
            At::Object => self.object.finish(),
            At::Next | At::Close | At::Torn(_) => true,
        }
    }
}
