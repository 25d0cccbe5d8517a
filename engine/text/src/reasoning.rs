//! Reasoning formats by the names of vLLM's `--reasoning-parser` (0.33, `vllm/reasoning`): where a model's thought begins and ends.

use crate::marker::{Found, Search};
use crate::tools::ToolFormat;

/// How a model marks its thought.
#[derive(Debug)]
pub struct ReasoningFormat {
    /// vLLM's names for it; the first is shown.
    pub names: &'static [&'static str],
    /// Texts that begin the thought, at the beginning of a reply or at the end of a prompt.
    starts: &'static [&'static str],
    /// Texts that end it.
    ends: &'static [&'static str],
    /// What a reply is before any marker, if the prompt says nothing.
    default: Opening,
    /// What a chat template holds whose model thinks so: each of one list. Empty: never guessed.
    signs: &'static [&'static [&'static str]],
}

/// Where a reply begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Opening {
    /// As the format has it.
    #[default]
    Unknown,
    /// Within the thought: the prompt began it, or the model always begins so.
    Inside,
    /// Behind the thought, or where a start marker may follow.
    Outside,
    /// Behind the thought: the prompt ended it. A marker is text now.
    Over,
}

/// Longest white space before a start marker.
const START_BYTES_MAX: usize = 256;

/// The table. A format that is not here: a line here.
pub static FORMATS: &[ReasoningFormat] = &[
    ReasoningFormat {
        names: &["mistral"],
        starts: &["[THINK]"],
        ends: &["[/THINK]"],
        default: Opening::Outside,
        signs: &[&["[THINK]"]],
    },
    ReasoningFormat {
        names: &["seed_oss"],
        starts: &["<seed:think>"],
        ends: &["</seed:think>"],
        default: Opening::Inside,
        signs: &[&["</seed:think>"]],
    },
    ReasoningFormat {
        names: &["granite"],
        starts: &["Here is my thought process:", "Here's my thought process:"],
        ends: &["Here is my response:", "Here's my response:"],
        default: Opening::Outside,
        signs: &[&["my thought process:"]],
    },
    ReasoningFormat {
        names: &["qwen3", "glm45", "hunyuan_a13b", "olmo3", "holo2", "deepseek_v3", "granite_thinking_parser", "nemotron_v3"],
        starts: &["<think>"],
        ends: &["</think>"],
        default: Opening::Outside,
        signs: &[&["</think>", "enable_thinking"], &["</think>", "thinking"]],
    },
    ReasoningFormat {
        names: &["deepseek_r1", "minimax_m2", "step3", "step5", "kimi_k2", "ernie45"],
        starts: &["<think>"],
        ends: &["</think>"],
        default: Opening::Inside,
        signs: &[&["</think>"]],
    },
];

/// A format is its name.
impl PartialEq for ReasoningFormat {
    fn eq(&self, other: &Self) -> bool {
        self.names == other.names
    }
}

impl ReasoningFormat {
    /// The format of this name.
    pub fn named(name: &str) -> Option<&'static Self> {
        FORMATS.iter().find(|format| format.names.contains(&name))
    }

    /// The format that a chat template speaks of.
    pub fn of_template(template: &str) -> Option<&'static Self> {
        FORMATS.iter().find(|format| format.signs.iter().any(|signs| signs.iter().all(|sign| template.contains(sign))))
    }

    /// What the end of a rendered prompt says of the reply: templates begin the thought themselves, or end it where none is wanted.
    pub fn opening(&self, prompt: &str) -> Opening {
        let prompt = prompt.trim_end();
        let ends_with = |markers: &[&str]| markers.iter().any(|marker| prompt.ends_with(marker));
        match (ends_with(self.starts), ends_with(self.ends)) {
            (true, _) => Opening::Inside,
            (false, true) => Opening::Over,
            (false, false) => Opening::Unknown,
        }
    }

    /// Where a reply begins, all told; never [`Opening::Unknown`].
    pub fn begins(&self, opening: Opening) -> Opening {
        if opening == Opening::Unknown { self.default } else { opening }
    }

    /// The text that ends a thought.
    pub fn end(&self) -> &'static str {
        self.ends[0]
    }

    /// The texts that begin and end a thought.
    pub fn markers(&self) -> impl Iterator<Item = &'static str> {
        self.starts.iter().chain(self.ends).copied()
    }
}

/// A part of a reply, parted.
#[derive(Debug, Default)]
pub(crate) struct Parts {
    pub thought: String,
    pub rest: String,
}

/// Parts a growing reply into the thought and the rest.
pub(crate) struct Splitter {
    format: &'static ReasoningFormat,
    state: State,
    /// Markers of calls end the thought, too, and belong to the rest.
    calls: &'static [&'static str],
    scratch: String,
}

enum State {
    /// White space so far, or a part of a start marker.
    Start {
        held: String,
        otherwise: Opening,
    },
    Inside(Search),
    Over,
}

impl Splitter {
    pub fn new(format: &'static ReasoningFormat, opening: Opening, tools: Option<&'static ToolFormat>) -> Self {
        let calls = tools.map_or(&[][..], |tools| tools.opens);
        let state = match format.begins(opening) {
            Opening::Over => State::Over,
            otherwise => State::Start { held: String::new(), otherwise },
        };
        Self { format, state, calls, scratch: String::new() }
    }

    /// Takes the next piece and appends what is certain now.
    pub fn feed(&mut self, text: &str, out: &mut Parts) {
        for (at, c) in text.char_indices() {
            if let State::Over = self.state {
                return out.rest.push_str(&text[at..]);
            }
            self.push(c, out);
        }
    }

    fn push(&mut self, c: char, out: &mut Parts) {
        match &mut self.state {
            State::Over => out.rest.push(c),
            State::Start { held, otherwise } => {
                held.push(c);
                let begun = held.trim_start();
                if self.format.starts.contains(&begun) {
                    self.state = self.inside();
                } else if !self.format.starts.iter().any(|start| start.starts_with(begun)) || held.len() > START_BYTES_MAX {
                    let (held, otherwise) = (std::mem::take(held), *otherwise);
                    self.state = if otherwise == Opening::Inside { self.inside() } else { State::Over };
                    self.feed(&held, out);
                }
            }
            State::Inside(search) => match search.push(c, &mut self.scratch) {
                Found::Nothing => {}
                Found::Text(text) => out.thought.push_str(text),
                Found::Marker(text, marker) => {
                    out.thought.push_str(text);
                    if self.calls.contains(&marker) {
                        out.rest.push_str(marker);
                    }
                    self.state = State::Over;
                }
            },
        }
    }

    pub fn thinks(&self) -> bool {
        matches!(&self.state, State::Inside(_) | State::Start { otherwise: Opening::Inside, .. })
    }

    fn inside(&self) -> State {
        State::Inside(Search::new(self.format.ends.iter().chain(self.calls).copied()))
    }

    pub fn finish(&mut self, out: &mut Parts) {
        match &mut self.state {
            State::Over => {}
            State::Inside(search) => out.thought.push_str(&search.finish()),
            State::Start { held, otherwise: Opening::Inside } => out.thought.push_str(&std::mem::take(held)),
            State::Start { held, otherwise: _ } => out.rest.push_str(&std::mem::take(held)),
        }
    }
}

/// Watches a reply for the end of its thought: what a grammar asks before it begins.
pub struct ThoughtEnd(Splitter);

impl ThoughtEnd {
    pub fn new(format: &'static ReasoningFormat, opening: Opening) -> Self {
        Self(Splitter::new(format, opening, None))
    }

    /// Takes the next piece of text; what of it is behind the thought, if the thought is over.
    pub fn feed(&mut self, text: &str) -> Option<String> {
        let mut parts = Parts::default();
        self.0.feed(text, &mut parts);
        matches!(self.0.state, State::Over).then_some(parts.rest)
    }

    /// The model is within its thought.
    pub fn thinks(&self) -> bool {
        self.0.thinks()
    }

    /// Nothing was thought yet, and nothing need be: a start marker may come, or the answer.
    pub fn may_be_skipped(&self) -> bool {
        matches!(&self.0.state, State::Start { otherwise: Opening::Outside, .. })
    }
}
