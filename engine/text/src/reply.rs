//! A model's reply, read as it grows: reasoning, content and tool calls, in the deltas that a stream sends.
//!
//! [`Reply`] takes text in pieces of any size and gives [`Delta`]s. How the text is cut does not matter: joined, the deltas are the
//! same, since everything below works character by character. Half a marker waits until it is whole or is none; nothing that was
//! given is taken back. A call is given once its name is known and its arguments begin; what breaks before that is content, what
//! breaks behind it stays in the arguments as the model wrote it (so do vLLM's streaming parsers; OpenAI warns clients of it).
//!
//! ```text
//!   text ──▶ reasoning (thought | rest) ──▶ tools (content | calls) ──▶ deltas
//! ```

use engine_assets::TextAssets;
use serde_json::Value;

use crate::reasoning::{Opening, Parts, ReasoningFormat, Splitter};
use crate::tools::{ToolFormat, Tools};

/// What a piece of a reply adds to the answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Delta {
    /// Text for the reader.
    Content(String),
    /// Text of the model to itself.
    Reasoning(String),
    /// A tool call begins; calls count from 0. Its arguments follow.
    Call { index: u32, name: String },
    /// A piece of a call's arguments: JSON, if the model wrote JSON.
    Arguments { index: u32, fragment: String },
}

/// How a model's replies are read; either part may be absent.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct ReplyFormat {
    pub reasoning: Option<&'static ReasoningFormat>,
    pub tools: Option<&'static ToolFormat>,
}

impl ReplyFormat {
    /// The formats that a model's templates speak of, where vLLM wants them named (`--tool-call-parser`, `--reasoning-parser`).
    pub fn of(assets: &TextAssets) -> Self {
        let templates = || [&assets.tool_template, &assets.chat_template].into_iter().flatten();
        Self {
            reasoning: templates().find_map(|template| ReasoningFormat::of_template(template)),
            tools: templates().find_map(|template| ToolFormat::of_template(template)),
        }
    }
}

/// Reads one reply.
pub struct Reply {
    reasoning: Option<Splitter>,
    tools: Tools,
}

impl Reply {
    /// A reader of replies in `format`. `opening` says whether the prompt already began the thought
    /// ([`ReasoningFormat::opening`]); `tools` are the request's, whose schemas say how arguments without types are written.
    pub fn new(format: ReplyFormat, opening: Opening, tools: &[Value]) -> Self {
        let reasoning = format.reasoning.map(|reasoning| Splitter::new(reasoning, opening, format.tools));
        Self { reasoning, tools: format.tools.map_or(Tools::none(), |format| Tools::new(format, tools)) }
    }

    /// A reader of replies whose content is the arguments of the one function `name` (`tool_choice` names it).
    pub fn named(reasoning: Option<&'static ReasoningFormat>, opening: Opening, name: &str) -> Self {
        Self { reasoning: reasoning.map(|reasoning| Splitter::new(reasoning, opening, None)), tools: Tools::named(name) }
    }

    /// Takes the next piece of text and appends what is certain now.
    pub fn feed(&mut self, text: &str, out: &mut Vec<Delta>) {
        let Some(reasoning) = &mut self.reasoning else { return self.tools.feed(text, out) };
        let mut parts = Parts::default();
        reasoning.feed(text, &mut parts);
        self.part(&parts, out);
    }

    fn part(&mut self, parts: &Parts, out: &mut Vec<Delta>) {
        push(out, Kind::Reasoning, &parts.thought);
        self.tools.feed(&parts.rest, out);
    }

    /// Ends the reply and appends what still waited.
    pub fn finish(&mut self, out: &mut Vec<Delta>) {
        if let Some(reasoning) = &mut self.reasoning {
            let mut parts = Parts::default();
            reasoning.finish(&mut parts);
            self.part(&parts, out);
        }
        self.tools.finish(out);
    }

    /// Whether what comes next belongs to the thought, as far as one can tell.
    pub fn thinks(&self) -> bool {
        self.reasoning.as_ref().is_some_and(Splitter::thinks)
    }

    /// Tool calls so far: with any, the reply's `finish_reason` is `tool_calls` where it would be `stop`.
    pub fn calls(&self) -> u32 {
        self.tools.calls()
    }
}

/// Text of which kind.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Content,
    Reasoning,
    Arguments(u32),
}

/// Appends text, to the last delta where that is of the same kind.
pub(crate) fn push(out: &mut Vec<Delta>, kind: Kind, text: &str) {
    if text.is_empty() {
        return;
    }
    match (out.last_mut(), kind) {
        (Some(Delta::Content(last)), Kind::Content) | (Some(Delta::Reasoning(last)), Kind::Reasoning) => last.push_str(text),
        (Some(Delta::Arguments { index, fragment }), Kind::Arguments(call)) if *index == call => fragment.push_str(text),
        (_, Kind::Content) => out.push(Delta::Content(text.to_owned())),
        (_, Kind::Reasoning) => out.push(Delta::Reasoning(text.to_owned())),
        (_, Kind::Arguments(index)) => out.push(Delta::Arguments { index, fragment: text.to_owned() }),
    }
}
