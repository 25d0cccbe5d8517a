//! What the operator says of the model's chats: which formats its replies are in, and its template, by the names of vLLM's flags.

use domain::{Fault, FaultKind};
use engine_assets::TextAssets;
use engine_text::reasoning::{self, ReasoningFormat};
use engine_text::reply::ReplyFormat;
use engine_text::tools::{self, ToolFormat};

/// Which format a part of the replies is in.
#[derive(Debug, Default, PartialEq)]
pub enum Parser<F: 'static> {
    /// What the chat template speaks of.
    #[default]
    Detected,
    /// None: that part is content.
    Off,
    Named(&'static F),
}

impl<F> Clone for Parser<F> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<F> Copy for Parser<F> {}

impl<F> Parser<F> {
    fn or_detected(self, detected: Option<&'static F>) -> Option<&'static F> {
        match self {
            Self::Detected => detected,
            Self::Off => None,
            Self::Named(format) => Some(format),
        }
    }

    fn by_name(flag: &str, name: &str, known: Vec<(&'static F, &'static [&'static str])>) -> Result<Self, Fault> {
        match name {
            "auto" => return Ok(Self::Detected),
            "none" => return Ok(Self::Off),
            _ => {}
        }
        if let Some((format, _)) = known.iter().find(|(_, names)| names.contains(&name)) {
            return Ok(Self::Named(format));
        }
        let mut names: Vec<&str> = known.iter().flat_map(|(_, names)| names.iter().copied()).collect();
        names.sort_unstable();
        let shown: String = name.chars().take(40).collect();
        let action = format!("give one of {}; auto (what the chat template speaks of); none", names.join(", "));
        Err(Fault::new(FaultKind::Usage, format!("{flag} {shown} is no parser of this engine"), action))
    }
}

/// How replies are read.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Parsers {
    pub tools: Parser<ToolFormat>,
    pub reasoning: Parser<ReasoningFormat>,
    /// A model without a format for its tool calls is refused at the start. vLLM's `enable_auto_tool_choice`.
    pub auto_tool_choice: bool,
}

impl Parsers {
    /// By the names that vLLM's `--tool-call-parser` and `--reasoning-parser` take; `auto` and `none` besides.
    pub fn named(tools: Option<&str>, reasoning: Option<&str>, auto_tool_choice: bool) -> Result<Self, Fault> {
        let known_tools = tools::FORMATS.iter().map(|format| (*format, format.names)).collect();
        let known_reasoning = reasoning::FORMATS.iter().map(|format| (format, format.names)).collect();
        Ok(Self {
            tools: Parser::by_name("--tool-call-parser", tools.unwrap_or("auto"), known_tools)?,
            reasoning: Parser::by_name("--reasoning-parser", reasoning.unwrap_or("auto"), known_reasoning)?,
            auto_tool_choice,
        })
    }

    /// The formats of a model with these assets.
    pub(crate) fn of(&self, assets: &TextAssets) -> ReplyFormat {
        let detected = ReplyFormat::of(assets);
        ReplyFormat { tools: self.tools.or_detected(detected.tools), reasoning: self.reasoning.or_detected(detected.reasoning) }
    }

    /// What only a person can mend.
    pub(crate) fn check(&self, assets: &TextAssets) -> Result<(), Fault> {
        if self.auto_tool_choice && self.of(assets).tools.is_none() {
            let what = "--enable-auto-tool-choice, and the chat template says nothing of how this model calls tools";
            return Err(Fault::new(FaultKind::Usage, what, "name the format by --tool-call-parser, or leave the flag out"));
        }
        Ok(())
    }
}
