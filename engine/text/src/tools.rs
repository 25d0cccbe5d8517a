//! Tool-call formats by the names of vLLM's `--tool-call-parser` (0.33, `vllm/tool_parsers`), and the machine that they share: content
//! until a marker, then a region of calls, then content again.

mod deepseek;
mod functiongemma;
mod glm;
mod json;
mod kimi;
mod listed;
mod mistral;
mod named;
mod object;
mod pythonic;
mod qwen3_coder;
mod whole;

use serde_json::Value;

use crate::marker::{Found, Search};
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

/// Most calls of one reply; what looks like one more is content.
const CALLS_MAX: u32 = 128;
/// Most text that waits to become a call, in bytes.
const RAW_BYTES_MAX: usize = 64 << 10;
/// Most white space that waits for what follows it, in bytes.
const SPACE_BYTES_MAX: usize = 1 << 10;
/// Longest name of a function, in bytes.
const NAME_BYTES_MAX: usize = 256;

/// Reads what follows the thought.
pub(crate) struct Tools {
    mode: Mode,
    count: u32,
}

enum Mode {
    /// All is content.
    None,
    /// All is the arguments of this function.
    Named {
        name: String,
        begun: bool,
    },
    Marked(Box<Marked>),
}

impl Tools {
    pub fn none() -> Self {
        Self { mode: Mode::None, count: 0 }
    }

    pub fn named(name: &str) -> Self {
        Self { mode: Mode::Named { name: name.to_owned(), begun: false }, count: 0 }
    }

    pub fn new(format: &'static ToolFormat, tools: &[Value]) -> Self {
        let marked = Marked {
            format,
            region: (format.region)(tools),
            search: Search::new(format.opens.iter().copied()),
            within: false,
            raw: String::new(),
            space: String::new(),
            fresh: true,
            started: false,
            scratch: String::new(),
        };
        Self { mode: Mode::Marked(Box::new(marked)), count: 0 }
    }

    pub fn calls(&self) -> u32 {
        self.count
    }

    pub fn feed(&mut self, text: &str, out: &mut Vec<Delta>) {
        match &mut self.mode {
            Mode::None => push(out, Kind::Content, text),
            Mode::Named { name, begun } => {
                let mut calls = Calls { out, count: &mut self.count, touched: false };
                if !text.is_empty() && !std::mem::replace(begun, true) {
                    calls.begin(name);
                }
                if *begun {
                    calls.arguments(text);
                }
            }
            Mode::Marked(marked) => {
                for c in text.chars() {
                    marked.push(c, &mut Calls { out: &mut *out, count: &mut self.count, touched: false });
                }
            }
        }
    }

    pub fn finish(&mut self, out: &mut Vec<Delta>) {
        if let Mode::Marked(marked) = &mut self.mode {
            marked.finish(&mut Calls { out, count: &mut self.count, touched: false });
        }
    }
}

/// Content with regions of calls in it.
struct Marked {
    format: &'static ToolFormat,
    region: Box<dyn Region>,
    search: Search,
    within: bool,
    /// Within a region: what came since the last piece of a call.
    raw: String,
    /// White space that is content if content follows, and nothing if calls do.
    space: String,
    /// Nothing but white space came since the reply began or a call ended.
    fresh: bool,
    /// The reply has begun.
    started: bool,
    scratch: String,
}

impl Marked {
    fn push(&mut self, c: char, calls: &mut Calls<'_>) {
        if self.within { self.within(c, calls) } else { self.outside(c, calls) }
    }

    fn outside(&mut self, c: char, calls: &mut Calls<'_>) {
        let begins = !self.started && !c.is_whitespace();
        self.started |= begins;
        if begins && self.format.bare.contains(&c) {
            self.enter("");
            return self.within(c, calls);
        }
        let mut scratch = std::mem::take(&mut self.scratch);
        match self.search.push(c, &mut scratch) {
            Found::Nothing => {}
            Found::Text(text) => self.content(text, calls),
            Found::Marker(text, marker) => {
                self.content(text, calls);
                if *calls.count < CALLS_MAX { self.enter(marker) } else { self.content(marker, calls) }
            }
        }
        self.scratch = scratch;
    }

    fn enter(&mut self, marker: &'static str) {
        self.raw = std::mem::take(&mut self.space) + marker;
        self.region.begin(marker);
        self.within = true;
    }

    fn within(&mut self, c: char, calls: &mut Calls<'_>) {
        let step = self.region.push(c, calls);
        if calls.touched {
            self.raw.clear();
        }
        match step {
            Step::More if self.raw.len() < RAW_BYTES_MAX => {
                if !calls.touched {
                    self.raw.push(c);
                }
            }
            Step::Done => self.leave(),
            Step::Back => {
                self.leave();
                self.outside(c, calls);
            }
            Step::More | Step::Broken => {
                let raw = std::mem::take(&mut self.raw);
                self.leave();
                self.content(&raw, calls);
                self.outside(c, calls);
            }
        }
    }

    fn leave(&mut self) {
        self.raw.clear();
        self.within = false;
        self.fresh = true;
    }

    fn content(&mut self, text: &str, calls: &mut Calls<'_>) {
        for c in text.chars() {
            if self.fresh && c.is_whitespace() && self.space.len() < SPACE_BYTES_MAX {
                self.space.push(c);
                continue;
            }
            self.fresh = false;
            push(calls.out, Kind::Content, &self.space);
            self.space.clear();
            push(calls.out, Kind::Content, c.encode_utf8(&mut [0; 4]));
        }
    }

    fn finish(&mut self, calls: &mut Calls<'_>) {
        if self.within {
            let raw = std::mem::take(&mut self.raw);
            let belongs = self.region.finish(calls);
            self.leave();
            if !belongs {
                self.content(&raw, calls);
            }
        } else {
            let held = self.search.finish();
            self.content(&held, calls);
        }
        if *calls.count == 0 {
            push(calls.out, Kind::Content, &self.space);
        }
        self.space.clear();
    }
}

/// Is this the name of a function, as far as one can tell?
fn is_name(name: &str) -> bool {
    !name.is_empty()
        && name.len() <= NAME_BYTES_MAX
        && !name.contains(|c: char| c.is_whitespace() || c.is_control() || c == '<' || c == '"')
}
