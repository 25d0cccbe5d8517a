//! Calls as a name with its arguments behind it: DeepSeek, Kimi, Mistral from tokenizer version 11 on.

use super::json::{Json, Read, escaped};
use super::{Calls, Region, Step, is_name};
use crate::marker::{Found, Search};

/// How the parts stand.
#[derive(Debug)]
pub(super) struct Shape {
    /// What begins a call within the region; empty where the region is one call.
    pub open: &'static str,
    /// The function's name, out of what stands before the arguments' brace.
    pub name: fn(&str) -> Option<&str>,
    /// What ends a call; empty where its arguments do.
    pub close: &'static str,
    /// What ends the region; empty where the call does.
    pub end: &'static str,
}

/// Longest text before the arguments, in bytes.
const HEAD_BYTES_MAX: usize = 1 << 10;

/// A region of such calls.
pub(super) struct Named {
    shape: &'static Shape,
    at: At,
    head: String,
    arguments: Json,
    scratch: String,
}

enum At {
    /// Before the first call, or between calls.
    Between(String),
    Head,
    Arguments,
    /// Behind the arguments, or within ones that are no JSON: up to the end of the call.
    Close {
        search: Search,
        torn: bool,
    },
}

impl Named {
    pub fn new(shape: &'static Shape) -> Self {
        Self { shape, at: At::Head, head: String::new(), arguments: Json::new(), scratch: String::new() }
    }

    fn head(&mut self, c: char, calls: &mut Calls<'_>) -> Step {
        if c != '{' {
            self.head.push(c);
            return if self.head.len() > HEAD_BYTES_MAX { Step::Broken } else { Step::More };
        }
        let Some(name) = (self.shape.name)(&self.head).map(str::trim).filter(|name| is_name(name)) else { return Step::Broken };
        calls.begin(name);
        self.arguments = Json::new();
        self.at = At::Arguments;
        self.arguments(c, calls)
    }

    fn arguments(&mut self, c: char, calls: &mut Calls<'_>) -> Step {
        let read = self.arguments.push(c);
        match escaped(c).filter(|_| self.arguments.in_string()) {
            Some(escape) => calls.arguments(&escape),
            None => calls.argument(c),
        }
        let torn = match read {
            Read::More => return Step::More,
            Read::End if self.shape.close.is_empty() => return Step::Done,
            Read::End => false,
            Read::EndBefore | Read::Bad => true,
        };
        self.at = At::Close { search: Search::new([self.shape.close]), torn };
        Step::More
    }

    fn between(&mut self, c: char) -> Step {
        let At::Between(held) = &mut self.at else { return Step::Broken };
        if held.is_empty() && c.is_whitespace() {
            return Step::More;
        }
        held.push(c);
        if *held == self.shape.end {
            return Step::Done;
        }
        if *held == self.shape.open {
            self.head.clear();
            self.at = At::Head;
            return Step::More;
        }
        let may_grow = self.shape.end.starts_with(held.as_str()) || self.shape.open.starts_with(held.as_str());
        if may_grow { Step::More } else { Step::Broken }
    }
}

impl Region for Named {
    fn begin(&mut self, marker: &'static str) {
        let at = if marker == self.shape.open || self.shape.open.is_empty() { At::Head } else { At::Between(String::new()) };
        *self = Self { at, ..Self::new(self.shape) };
    }

    fn push(&mut self, c: char, calls: &mut Calls<'_>) -> Step {
        match &mut self.at {
            At::Between(_) => self.between(c),
            At::Head => self.head(c, calls),
            At::Arguments => self.arguments(c, calls),
            At::Close { search, torn } => {
                let (text, closed) = match search.push(c, &mut self.scratch) {
                    Found::Nothing => return Step::More,
                    Found::Text(text) => (text, false),
                    Found::Marker(text, _) => (text, true),
                };
                // Behind whole arguments stands only what fences them.
                if *torn {
                    calls.arguments(text);
                }
                if closed {
                    self.at = At::Between(String::new());
                }
                Step::More
            }
        }
    }

    fn finish(&mut self, calls: &mut Calls<'_>) -> bool {
        match &self.at {
            At::Between(_) => *calls.count > 0,
            At::Head => false,
            At::Arguments | At::Close { .. } => true,
        }
    }
}
