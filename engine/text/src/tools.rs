//! Tool-call formats by the names of vLLM's `--tool-call-parser` (0.33, `vllm/tool_parsers`). The machine that they share is [`reader`].

mod deepseek;
mod functiongemma;
mod glm;
mod json;
mod kimi;
mod listed;
mod literal;
mod mistral;
mod named;
mod object;
mod pythonic;
mod qwen3_coder;
mod reader;
mod whole;

use serde_json::Value;

pub(crate) use self::reader::Tools;
use crate::reply::{Delta, Kind, push};

/// How a model writes tool calls.
pub struct ToolFormat {
    /// vLLM's names for it; the first is shown.
    pub names: &'static [&'static str],
    /// Texts at which calls begin.
    pub(crate) opens: &'static [&'static str],
    /// Characters that begin calls where they begin the reply.
    bare: &'static [char],
    /// What a chat template holds whose model writes calls so: each of one list. Empty: never guessed.
    signs: &'static [&'static [&'static str]],
    /// What reads a region of calls, given the request's tools.
    region: fn(&[Value]) -> Box<dyn Region>,
    /// How a call reads whose arguments can be bound while it is written. `None`: they cannot.
    pub envelope: Option<Envelope>,
    /// Ids of calls are nine letters and digits, which Mistral's templates insist on.
    pub short_ids: bool,
}

/// The text around the arguments of one call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Envelope {
    /// Where a call is known to be one; the first text of `before`.
    pub trigger: &'static str,
    /// Before the name, which is a JSON string.
    pub before: &'static str,
    /// Between the name and the arguments.
    pub between: &'static str,
    /// Behind the arguments.
    pub behind: &'static str,
}

/// The table, in the order in which a template is searched for signs.
pub static FORMATS: &[&ToolFormat] = &[
    &qwen3_coder::FORMAT,
    &glm::FORMAT,
    &kimi::FORMAT,
    &deepseek::V3,
    &deepseek::V31,
    &mistral::FORMAT,
    &functiongemma::FORMAT,
    &listed::PHI4_MINI,
    &listed::GRANITE,
    &listed::GRANITE_20B_FC,
    &listed::JAMBA,
    &listed::INTERNLM,
    &listed::HERMES,
    &listed::LLAMA3_JSON,
    &pythonic::LLAMA4,
    &pythonic::FORMAT,
];

/// Calls as `tool_choice: required` makes a model write them under its schema: a list of `{"name", "parameters"}`.
pub static REQUIRED: &ToolFormat = &listed::REQUIRED;

/// A format is its name.
impl PartialEq for ToolFormat {
    fn eq(&self, other: &Self) -> bool {
        self.names == other.names
    }
}

impl std::fmt::Debug for ToolFormat {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "ToolFormat({})", self.names[0])
    }
}

impl ToolFormat {
    /// The format of this name.
    pub fn named(name: &str) -> Option<&'static Self> {
        FORMATS.iter().copied().find(|format| format.names.contains(&name))
    }

    /// The format that a chat template speaks of.
    pub fn of_template(template: &str) -> Option<&'static Self> {
        FORMATS.iter().copied().find(|format| format.signs.iter().any(|signs| signs.iter().all(|sign| template.contains(sign))))
    }

    /// The texts at which calls begin; where they are special tokens, these must not be skipped.
    pub fn markers(&self) -> impl Iterator<Item = &'static str> {
        self.opens.iter().copied()
    }
}

/// What reads a region of calls, character by character.
pub(crate) trait Region: Send {
    /// A region begins, with this marker, or bare with none.
    fn begin(&mut self, marker: &'static str);

    fn push(&mut self, c: char, calls: &mut Calls<'_>) -> Step;

    /// The reply ends within the region. True: what came since the last piece of a call belongs to calls, and is no content.
    fn finish(&mut self, calls: &mut Calls<'_>) -> bool;
}

/// What a character means for a region.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Step {
    /// It belongs to it.
    More,
    /// It ends it.
    Done,
    /// It is the first behind it.
    Back,
    /// It shows that what came since the last piece of a call is none, and is content.
    Broken,
}

/// Where regions put calls.
pub(crate) struct Calls<'a> {
    out: &'a mut Vec<Delta>,
    count: &'a mut u32,
    /// Something was put.
    touched: bool,
}

impl Calls<'_> {
    pub fn begin(&mut self, name: &str) {
        self.out.push(Delta::Call { index: *self.count, name: name.to_owned() });
        *self.count += 1;
        self.touched = true;
    }

    /// More arguments of the call that began last.
    pub fn arguments(&mut self, fragment: &str) {
        push(self.out, Kind::Arguments(self.count.saturating_sub(1)), fragment);
        self.touched = true;
    }

    pub fn argument(&mut self, c: char) {
        self.arguments(c.encode_utf8(&mut [0; 4]));
    }
}

/// Longest name of a function, in bytes.
const NAME_BYTES_MAX: usize = 256;

/// Is this the name of a function, as far as one can tell?
fn is_name(name: &str) -> bool {
    !name.is_empty()
        && name.len() <= NAME_BYTES_MAX
        && !name.contains(|c: char| c.is_whitespace() || c.is_control() || c == '<' || c == '"')
}
