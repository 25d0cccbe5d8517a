//! The Jinja environment of chat templates, with the functions, filters and whitespace of transformers 5, and its limits.

use std::io;
use std::time::SystemTime;

use engine_assets::{SpecialToken, TextAssets};
use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Kwargs, Value};
use minijinja::{Environment, Error, ErrorKind, Output, State, Template};
use serde_json::{Map, Value as Json};

use super::ChatRequest;
use super::deep::{FUEL, MAX_TEMPLATE_BYTES, SHALLOW_FUEL, on_deep_stack};
use crate::error::TextError;
use crate::python::{self, JsonStyle};

/// The largest prompt; a million tokens are about 4 MB.
const MAX_PROMPT_BYTES: usize = 32 << 20;
/// How deep includes, macros and calls may nest.
const MAX_RECURSION: usize = 64;

const DEFAULT: &str = "chat_template";
const TOOLS: &str = "chat_template.tool_use";

/// The compiled templates of a model.
pub(crate) struct Templates {
    /// With little fuel, for the thread of the caller.
    shallow: Environment<'static>,
    /// With all the fuel, for a thread with a deep stack.
    deep: Environment<'static>,
    default: Option<Compiled>,
    tools: Option<Compiled>,
    /// What templates see as `content`, where it was said.
    content_parts: Option<bool>,
    /// Variables that requests need not set.
    defaults: Result<Map<String, Json>, TextError>,
    special_tokens: Vec<(&'static str, String)>,
}

/// A template that was compiled, or why it could not be.
struct Compiled {
    name: &'static str,
    result: Result<(), TextError>,
    goes_through_parts: bool,
}

impl Templates {
    pub fn new(assets: &TextAssets) -> Self {
        let mut deep = environment();
        let mut compile = |name, source: &Option<String>| {
            source.as_ref().map(|source| Compiled {
                name,
                goes_through_parts: goes_through_parts(source),
                result: on_deep_stack(|| {
                    check_size(source)?;
                    deep.add_template_owned(name, prepared(source)).map_err(|error| failed(&error))
                })
                .flatten(),
            })
        };
        let (default, tools) = (compile(DEFAULT, &assets.chat_template), compile(TOOLS, &assets.tool_template));
        let tokens: [(&str, &Option<SpecialToken>); 4] =
            [("bos_token", &assets.bos), ("eos_token", &assets.eos), ("pad_token", &assets.pad), ("unk_token", &assets.unk)];
        let special_tokens =
            tokens.into_iter().filter_map(|(name, token)| token.as_ref().map(|token| (name, token.text.clone()))).collect();
        let mut shallow = deep.clone();
        shallow.set_fuel(Some(SHALLOW_FUEL));
        Self { shallow, deep, default, tools, content_parts: assets.content_parts, defaults: defaults(assets), special_tokens }
    }

    pub fn has_default(&self) -> bool {
        self.default.is_some()
    }

    /// Variables that hold where a request does not set them.
    pub fn defaults(&self) -> Result<&Map<String, Json>, TextError> {
        self.defaults.as_ref().map_err(TextError::clone)
    }

    /// `bos_token` and its like, by the names that templates use.
    pub fn special_tokens(&self) -> impl Iterator<Item = (&'static str, &str)> {
        self.special_tokens.iter().map(|(name, token)| (*name, token.as_str()))
    }

    /// The model's template for this request.
    fn own(&self, request: &ChatRequest<'_>) -> Option<&Compiled> {
        self.tools.as_ref().filter(|_| !request.tools.is_empty()).or(self.default.as_ref())
    }

    /// Does the template for this request expect `content` as a list of parts?
    pub fn goes_through_parts(&self, request: &ChatRequest<'_>) -> bool {
        match (self.content_parts, request.template) {
            (Some(parts), _) => parts,
            (None, Some(source)) => goes_through_parts(source),
            (None, None) => self.own(request).is_some_and(|template| template.goes_through_parts),
        }
    }

    pub fn render(&self, request: &ChatRequest<'_>, variables: Value) -> Result<String, TextError> {
        if let Some(source) = request.template {
            check_size(source).map_err(|error| TextError::request("chat_template", error.to_string()))?;
            let source = prepared(source);
            return on_deep_stack(move || {
                let template = self.deep.template_from_named_str(DEFAULT, &source).map_err(|error| failed(&error))?;
                render(&template, variables).map_err(|error| failed(&error))
            })
            .flatten();
        }
        let own = self.own(request).ok_or(TextError::NoChatTemplate)?;
        own.result.clone()?;
        let template = self.shallow.get_template(own.name).map_err(|error| failed(&error))?;
        match render(&template, variables.clone()) {
            Err(error) if error.kind() == ErrorKind::OutOfFuel => on_deep_stack(move || {
                let template = self.deep.get_template(own.name).map_err(|error| failed(&error))?;
                render(&template, variables).map_err(|error| failed(&error))
            })
            .flatten(),
            rendered => rendered.map_err(|error| failed(&error)),
        }
    }
}

/// What the assets say of variables.
fn defaults(assets: &TextAssets) -> Result<Map<String, Json>, TextError> {
    let Some(text) = &assets.template_kwargs else { return Ok(Map::new()) };
    serde_json::from_str(text).map_err(|error| TextError::Template(format!("its default variables are no JSON object: {error}")))
}

fn check_size(source: &str) -> Result<(), TextError> {
    if source.len() > MAX_TEMPLATE_BYTES {
        return Err(TextError::Template(format!("it is {} bytes; at most {MAX_TEMPLATE_BYTES} are allowed", source.len())));
    }
    Ok(())
}

fn render(template: &Template<'_, '_>, variables: Value) -> Result<String, Error> {
    let mut prompt = Prompt(Vec::new());
    template.render_captured_to(variables, &mut prompt)?;
    String::from_utf8(prompt.0).map_err(|_| Error::new(ErrorKind::WriteFailure, "the prompt is not UTF-8"))
}

/// Where a prompt is written, up to its maximum.
struct Prompt(Vec<u8>);

impl io::Write for &mut Prompt {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.0.len() + bytes.len() > MAX_PROMPT_BYTES {
            return Err(io::Error::other(format!("the prompt is larger than {MAX_PROMPT_BYTES} bytes")));
        }
        self.0.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn environment() -> Environment<'static> {
    let mut environment = Environment::new();
    let mut syntax = SyntaxConfig::builder();
    syntax.trim_blocks(true).lstrip_blocks(true);
    environment.set_syntax(syntax.build().expect("the default delimiters are valid"));
    environment.set_fuel(Some(FUEL));
    environment.set_recursion_limit(MAX_RECURSION);
    environment.set_unknown_method_callback(python::method);
    environment.set_formatter(print);
    python::install_filters(&mut environment);
    environment.add_filter("tojson", tojson);
    environment.add_function("raise_exception", raise_exception);
    environment
}

/// Prints as Python's `str()` does.
fn print(out: &mut Output<'_>, _: &mut State<'_, '_>, value: &Value) -> Result<(), Error> {
    match value.as_str() {
        Some(text) => out.write_str(text),
        None => out.write_str(&python::str(value)?),
    }
    .map_err(|_| Error::new(ErrorKind::WriteFailure, "the prompt cannot be written"))
}

/// transformers' `tojson(x, ensure_ascii=False, indent=None, separators=None, sort_keys=False)`.
fn tojson(value: &Value, ensure_ascii: Option<Value>, kwargs: Kwargs) -> Result<String, Error> {
    let ensure_ascii = match kwargs.get::<Option<Value>>("ensure_ascii")? {
        Some(flag) => flag.is_true(),
        None => ensure_ascii.is_some_and(|flag| flag.is_true()),
    };
    let indent = kwargs.get::<Option<usize>>("indent")?.map(|indent| indent.min(16));
    let separators: Option<Vec<String>> = kwargs.get("separators")?;
    let (item_separator, key_separator) = match separators.as_deref() {
        Some([item, key]) => (item.clone(), key.clone()),
        Some(_) => return Err(Error::new(ErrorKind::InvalidOperation, "separators must be two strings")),
        None => (if indent.is_some() { "," } else { ", " }.to_owned(), ": ".to_owned()),
    };
    let sort_keys = kwargs.get::<Option<bool>>("sort_keys")?.unwrap_or(false);
    kwargs.assert_all_used()?;
    python::json(value, &JsonStyle { ensure_ascii, indent, item_separator, key_separator, sort_keys })
}

fn raise_exception(what: String) -> Result<Value, Error> {
    Err(Error::new(ErrorKind::InvalidOperation, what))
}

/// The function by which templates ask for the date.
pub(super) fn strftime_now(now: SystemTime) -> Value {
    Value::from_function(move |format: String| python::strftime(now, &format))
}

/// One line: what went wrong, and at which line of the template.
fn failed(error: &Error) -> TextError {
    let what = match (error.kind(), error.detail()) {
        // What raise_exception was given is the message.
        (ErrorKind::InvalidOperation, Some(detail)) => detail.to_owned(),
        (kind, Some(detail)) => format!("{kind}: {detail}"),
        (kind, None) => kind.to_string(),
    };
    let cause = std::error::Error::source(error).map(|cause| format!(" ({cause})")).unwrap_or_default();
    let line = error.line().map(|line| format!(" (template line {line})")).unwrap_or_default();
    TextError::Template(format!("{what}{cause}{line}").replace(['\n', '\r'], " "))
}

/// A template as minijinja is to read it. Ends of lines are those of Jinja. transformers marks the assistant's text with
/// `{% generation %}`, which changes nothing of what is rendered: the marks become a condition that holds, so that whitespace around
/// them is trimmed as before.
fn prepared(source: &str) -> String {
    let source = source.replace("\r\n", "\n").replace('\r', "\n");
    let mut out = String::with_capacity(source.len());
    let mut rest = source.as_str();
    while let Some(start) = rest.find("{%") {
        let (before, tag) = rest.split_at(start);
        out.push_str(before);
        // Not from the beginning: the end of `{%}` is not within its own beginning.
        let Some(end) = tag[2..].find("%}") else {
            rest = tag;
            break;
        };
        let (tag, after) = tag.split_at(2 + end + 2);
        let inner = tag[2..tag.len() - 2].trim_matches(['-', '+']).trim();
        match inner {
            "generation" => out.push_str(&tag.replacen("generation", "if true", 1)),
            "endgeneration" => out.push_str(&tag.replacen("endgeneration", "endif", 1)),
            _ => out.push_str(tag),
        }
        rest = after;
    }
    out.push_str(rest);
    out
}

/// Does the template loop over a message's content? Then it expects parts (vLLM's content format "openai"), else a string.
fn goes_through_parts(source: &str) -> bool {
    source.split("{%").skip(1).filter_map(|tag| tag.split("%}").next()).any(|tag| {
        let tag = tag.trim_matches(['-', '+']).trim();
        let iterated = tag.strip_prefix("for ").and_then(|tag| tag.split_once(" in ")).map(|(_, iterated)| iterated);
        iterated.is_some_and(|iterated| {
            let iterated = iterated.split(" if ").next().unwrap_or(iterated).trim();
            iterated == "content"
                || iterated.ends_with(".content")
                || iterated.ends_with("['content']")
                || iterated.ends_with("[\"content\"]")
        })
    })
}
