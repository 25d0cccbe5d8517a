//! Qwen3-Coder: arguments as text between tags, typed by the request's schemas.
//!
//! ```text
//! <tool_call>
//! <function=f>
//! <parameter=a>
//! text
//! </parameter>
//! </function>
//! </tool_call>
//! ```

use serde_json::Value;

use super::whole::Schemas;
use super::{Calls, Region, Step, ToolFormat, is_name};
use crate::marker::{Found, Search};

pub(super) const FORMAT: ToolFormat = ToolFormat {
    names: &["qwen3_coder", "qwen3_xml", "mimo", "step3p5"],
    opens: &["<tool_call>", FUNCTION],
    bare: &[],
    signs: &[&[FUNCTION, PARAMETER]],
    region: |tools| Box::new(Coder::new(tools)),
    envelope: None,
    short_ids: false,
};

const OPEN: &str = "<tool_call>";
const CLOSE: &str = "</tool_call>";
const FUNCTION: &str = "<function=";
const FUNCTION_END: &str = "</function>";
const PARAMETER: &str = "<parameter=";
const PARAMETER_END: &str = "</parameter>";

struct Coder {
    schemas: Schemas,
    at: At,
    /// What there is of a tag, or of a name.
    held: String,
    function: String,
    parameter: String,
    /// Arguments that were written.
    arguments: u32,
    scratch: String,
}

enum At {
    /// Before the function's tag.
    Preamble,
    Function,
    /// Between parameters.
    Between,
    Parameter,
    Value(Growing),
    /// Behind the function.
    Behind,
}

/// A parameter's value that is being read.
struct Growing {
    search: Search,
    /// Text goes out as it comes; anything else when it is whole.
    text: bool,
    begun: bool,
    held: String,
}

impl Coder {
    fn new(tools: &[Value]) -> Self {
        Self {
            schemas: Schemas::new(tools),
            at: At::Preamble,
            held: String::new(),
            function: String::new(),
            parameter: String::new(),
            arguments: 0,
            scratch: String::new(),
        }
    }

    /// Reads a tag out of `tags`; white space before it is nothing. `Err`: it is none of them.
    fn tag(&mut self, c: char, tags: &[&'static str]) -> Result<Option<&'static str>, ()> {
        if self.held.is_empty() && c.is_whitespace() {
            return Ok(None);
        }
        self.held.push(c);
        let whole = tags.iter().find(|tag| **tag == self.held).copied();
        match whole {
            Some(tag) => {
                self.held.clear();
                Ok(Some(tag))
            }
            None if tags.iter().any(|tag| tag.starts_with(self.held.as_str())) => Ok(None),
            None => Err(()),
        }
    }

    /// Reads a name up to `>`. `Err`: it is none.
    fn name(&mut self, c: char) -> Result<Option<String>, ()> {
        if c != '>' {
            self.held.push(c);
            return if is_name(&self.held) { Ok(None) } else { Err(()) };
        }
        if is_name(&self.held) { Ok(Some(std::mem::take(&mut self.held))) } else { Err(()) }
    }

    fn key(&mut self, calls: &mut Calls<'_>) {
        calls.arguments(if self.arguments == 0 { "{" } else { ", " });
        calls.arguments(&format!("{}: ", Value::from(self.parameter.as_str())));
        self.arguments += 1;
    }

    fn value_text(&mut self, text: &str, calls: &mut Calls<'_>) {
        let At::Value(value) = &mut self.at else { return };
        let mut text = text;
        if !value.begun && !text.is_empty() {
            value.begun = true;
            text = text.strip_prefix('\n').unwrap_or(text);
        }
        if !value.text {
            return value.held.push_str(text);
        }
        // The newline before the closing tag is the tag's.
        for c in text.chars() {
            if !value.held.is_empty() {
                value.held.clear();
                calls.arguments("\\n");
            }
            if c == '\n' {
                value.held.push(c);
            } else {
                let quoted = Value::from(c.to_string()).to_string();
                calls.arguments(&quoted[1..quoted.len() - 1]);
            }
        }
    }

    fn end_value(&mut self, calls: &mut Calls<'_>) {
        let At::Value(value) = std::mem::replace(&mut self.at, At::Between) else { return };
        if value.text {
            return calls.arguments("\"");
        }
        let text = value.held.strip_suffix('\n').unwrap_or(&value.held);
        let json = self.schemas.value(&self.function, &self.parameter, text);
        calls.arguments(&json.to_string());
    }

    fn end_function(&mut self, calls: &mut Calls<'_>) {
        calls.arguments(if self.arguments == 0 { "{}" } else { "}" });
        self.at = At::Behind;
    }

    /// Goes on behind a tag.
    fn tagged(&mut self, tag: &'static str, calls: &mut Calls<'_>) -> Step {
        match tag {
            OPEN => self.at = At::Preamble,
            FUNCTION => self.at = At::Function,
            PARAMETER => self.at = At::Parameter,
            FUNCTION_END => self.end_function(calls),
            CLOSE => {
                if let At::Between = self.at {
                    self.end_function(calls);
                }
                return Step::Done;
            }
            // A stray end of a parameter.
            _ => {}
        }
        Step::More
    }
}

impl Region for Coder {
    fn begin(&mut self, marker: &'static str) {
        self.at = if marker == FUNCTION { At::Function } else { At::Preamble };
        self.held.clear();
    }

    fn push(&mut self, c: char, calls: &mut Calls<'_>) -> Step {
        match &mut self.at {
            At::Preamble => match self.tag(c, &[FUNCTION]) {
                Ok(None) => Step::More,
                Ok(Some(tag)) => self.tagged(tag, calls),
                Err(()) => Step::Broken,
            },
            At::Function => match self.name(c) {
                Ok(None) => Step::More,
                Ok(Some(name)) => {
                    calls.begin(&name);
                    self.function = name;
                    self.arguments = 0;
                    self.at = At::Between;
                    Step::More
                }
                Err(()) => Step::Broken,
            },
            At::Between => match self.tag(c, &[PARAMETER, FUNCTION_END, PARAMETER_END, CLOSE]) {
                Ok(None) => Step::More,
                Ok(Some(tag)) => self.tagged(tag, calls),
                // Text between parameters is nothing.
                Err(()) => {
                    self.held.clear();
                    Step::More
                }
            },
            At::Parameter => match self.name(c) {
                Ok(None) => Step::More,
                Ok(Some(name)) => {
                    let text = self.schemas.is_text(&self.function, &name) == Some(true);
                    self.parameter = name;
                    self.key(calls);
                    if text {
                        calls.arguments("\"");
                    }
                    let search = Search::new([PARAMETER_END, PARAMETER, FUNCTION_END]);
                    self.at = At::Value(Growing { search, text, begun: false, held: String::new() });
                    Step::More
                }
                Err(()) => {
                    self.held.clear();
                    self.at = At::Between;
                    Step::More
                }
            },
            At::Value(value) => {
                let mut scratch = std::mem::take(&mut self.scratch);
                let tag = match value.search.push(c, &mut scratch) {
                    Found::Nothing => None,
                    Found::Text(text) => {
                        self.value_text(text, calls);
                        None
                    }
                    Found::Marker(text, tag) => {
                        self.value_text(text, calls);
                        self.end_value(calls);
                        Some(tag)
                    }
                };
                self.scratch = scratch;
                tag.map_or(Step::More, |tag| self.tagged(tag, calls))
            }
            At::Behind => match self.tag(c, &[CLOSE, FUNCTION, OPEN]) {
                Ok(None) => Step::More,
                Ok(Some(tag)) => self.tagged(tag, calls),
                Err(()) => Step::Broken,
            },
        }
    }

    /// Closes what is open: the JSON is ours, so it is whole even where the model's text is not.
    fn finish(&mut self, calls: &mut Calls<'_>) -> bool {
        match &mut self.at {
            At::Preamble | At::Function => return false,
            At::Value(value) => {
                let held = value.search.finish();
                // Half an end tag is no text.
                let tag =
                    [PARAMETER_END, PARAMETER, FUNCTION_END].iter().any(|tag| held.len() > 1 && tag.starts_with(held.as_str()));
                self.value_text(if tag { "" } else { &held }, calls);
                self.end_value(calls);
                self.end_function(calls);
            }
            At::Between | At::Parameter => self.end_function(calls),
            At::Behind => {}
        }
        true
    }
}
